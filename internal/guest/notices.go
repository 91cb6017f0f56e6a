//go:build linux

package guest

import (
	"context"
	"sync"
)

// maxNotices is how many notices wait for one connection.
const maxNotices = 1024

// notices tells every control connection of ends and what else happens, in order. A connection that
// does not keep up is cut: the host dials again and asks.
type notices struct {
	mu   sync.Mutex // guards subs
	subs map[*subscriber]struct{}
}

// notice is what is told.
type notice struct {
	topic string
	body  any
}

type subscriber struct {
	queue chan notice
	cut   func()
}

func newNotices() *notices { return &notices{subs: map[*subscriber]struct{}{}} }

// subscribe sends notices by notify until ctx ends.
func (n *notices) subscribe(ctx context.Context, notify func(string, any) error, cut func()) {
	s := &subscriber{queue: make(chan notice, maxNotices), cut: cut}
	n.mu.Lock()
	n.subs[s] = struct{}{}
	n.mu.Unlock()
	go func() {
		defer func() {
			n.mu.Lock()
			delete(n.subs, s)
			n.mu.Unlock()
		}()
		for {
			select {
			case e := <-s.queue:
				if notify(e.topic, e.body) != nil {
					cut()
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
}

func (n *notices) publish(topic string, body any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for s := range n.subs {
		select {
		case s.queue <- notice{topic, body}:
		default:
			delete(n.subs, s)
			s.cut()
		}
	}
}
