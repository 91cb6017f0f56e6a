//go:build linux

package guest

import (
	"context"
	"sync"

	"github.com/vzcompose/vzcompose/agentproto"
)

// maxNotices is how many notices wait for one connection.
const maxNotices = 1024

// notices tells every control connection of ends, in order. A connection that
// does not keep up is cut: the host dials again and asks.
type notices struct {
	mu   sync.Mutex // guards subs
	subs map[*subscriber]struct{}
}

type subscriber struct {
	queue chan agentproto.Exit
	cut   func()
}

func newNotices() *notices { return &notices{subs: map[*subscriber]struct{}{}} }

// subscribe sends notices by notify until ctx ends.
func (n *notices) subscribe(ctx context.Context, notify func(string, any) error, cut func()) {
	s := &subscriber{queue: make(chan agentproto.Exit, maxNotices), cut: cut}
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
				if notify(agentproto.NoticeExit, e) != nil {
					cut()
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
}

func (n *notices) publish(e agentproto.Exit) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for s := range n.subs {
		select {
		case s.queue <- e:
		default:
			delete(n.subs, s)
			s.cut()
		}
	}
}
