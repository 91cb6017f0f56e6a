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
	mu       sync.Mutex // guards the following
	now      shimproto.Status
	changed  chan struct{} // closed and replaced on each post
	watchers int
	alone    chan struct{} // closed when there is no watcher any more; nil: nobody waits for that
}

func newBoard() *board { return &board{changed: make(chan struct{})} }

func (b *board) post(s shimproto.Status) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = s
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *board) read() (shimproto.Status, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now, b.changed
}

// enter counts a watcher, which calls leave at its end.
func (b *board) enter() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watchers++
}

func (b *board) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.watchers--; b.watchers == 0 && b.alone != nil {
		close(b.alone)
		b.alone = nil
	}
}

// watch tells fn the status and every change, until ctx ends, fn fails or the
// last status was told.
func (b *board) watch(ctx context.Context, fn func(shimproto.Status) error) {
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
}

// farewell waits until every watcher was told the last status, at most limit.
func (b *board) farewell(limit time.Duration) {
	b.mu.Lock()
	if b.watchers == 0 {
		b.mu.Unlock()
		return
	}
	alone := make(chan struct{})
	b.alone = alone
	b.mu.Unlock()
	select {
	case <-alone:
	case <-time.After(limit):
	}
}
