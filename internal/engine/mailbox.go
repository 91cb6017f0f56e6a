package engine

import (
	"sync"

	"github.com/vzcompose/vzcompose/internal/shimproto"
)

// mailbox keeps the latest status for one reader; who puts never waits.
type mailbox struct {
	wake chan struct{} // has one token where there is something new

	mu  sync.Mutex // guards now
	now shimproto.Status
}

func newMailbox() *mailbox { return &mailbox{wake: make(chan struct{}, 1)} }

func (m *mailbox) put(s shimproto.Status) {
	m.mu.Lock()
	m.now = s
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *mailbox) get() shimproto.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}
