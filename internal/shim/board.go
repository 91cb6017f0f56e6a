package shim

import (
	"context"
	"sync"
	"time"

	"github.com/vzcompose/vzcompose/internal/shimproto"
)

// board is where the status is posted and watched. A slow watcher misses what
// was overtaken, never the last.
type board struct {
	*sync.Mutex // guards *boardState
	*boardState
}

type boardState struct {
	now      shimproto.Status
	changed  chan struct{} // closed and replaced on each post
	watchers sync.WaitGroup
}

func newBoard() board {
	return board{&sync.Mutex{}, &boardState{changed: make(chan struct{})}}
}

func (b board) post(s shimproto.Status) {
	b.Lock()
	defer b.Unlock()
	b.now = s
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b board) read() (shimproto.Status, <-chan struct{}) {
	b.Lock()
	defer b.Unlock()
	return b.now, b.changed
}

// watch tells fn the status and every change, until ctx ends, fn fails or the
// last status was told.
func (b board) watch(ctx context.Context, fn func(shimproto.Status) error) {
	b.watchers.Go(func() {
		for {
			s, changed := b.read()
			if err := fn(s); err != nil || !s.State.Live() {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	})
}

// farewell waits until every watcher was told the last status, at most limit.
func (b board) farewell(limit time.Duration) {
	told := make(chan struct{})
	go func() { b.watchers.Wait(); close(told) }()
	select {
	case <-told:
	case <-time.After(limit):
	}
}
