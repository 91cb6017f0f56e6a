package ui

import (
	"sync"

	"github.com/vzcompose/vzcompose/internal/event"
)

// mailbox holds the news that are not yet shown: of each step at most one
// intermediate, the newest, and its final one. So it is bounded by the plan, and
// putting something in never waits for the renderer.
type mailbox struct {
	ready chan struct{} // holds one when there is something

	mu   sync.Mutex // guards the following
	news []event.Event
	at   map[slot]int // indices of news
}

type slot struct {
	step  int
	final bool
}

func newMailbox() *mailbox {
	return &mailbox{ready: make(chan struct{}, 1), at: map[slot]int{}}
}

func (m *mailbox) put(e event.Event) {
	m.mu.Lock()
	key := slot{e.Step, e.Status.Final()}
	if i, ok := m.at[key]; ok {
		m.news[i] = e
	} else {
		m.at[key] = len(m.news)
		m.news = append(m.news, e)
	}
	m.mu.Unlock()
	select {
	case m.ready <- struct{}{}:
	default:
	}
}

// take answers the news in their order and empties the box.
func (m *mailbox) take() []event.Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	news := m.news
	m.news = nil
	clear(m.at)
	return news
}
