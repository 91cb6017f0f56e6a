package vz

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/vzcompose/vzcompose/internal/undo"
)

// life is a machine from its start to its end: what is open in it, and the one
// answer to all who wait for it.
type life struct {
	gone chan struct{} // closed once err is set and everything is closed
	kept undo.Stack    // what the machine has until then; set before it starts, run by end

	mu    sync.Mutex // guards the following
	over  bool
	err   error
	opens map[closer]struct{}
}

// closer is a connection or a listener of the machine.
type closer interface{ Close() error }

func newLife() *life { return &life{gone: make(chan struct{}), opens: map[closer]struct{}{}} }

// end is called with why the machine is gone; the first answer holds. The
// framework may leave connections open whose machine is no more, so they are
// closed here.
func (l *life) end(err error) {
	l.mu.Lock()
	if l.over {
		l.mu.Unlock()
		return
	}
	l.over, l.err = true, err
	opens := l.opens
	l.opens = nil
	l.mu.Unlock()
	for c := range opens {
		_ = c.Close() // they have nowhere to go
	}
	if kerr := l.kept.Run(context.Background(), undoLimit); kerr != nil {
		l.mu.Lock()
		l.err = errors.Join(err, kerr)
		l.mu.Unlock()
	}
	close(l.gone)
}

// keep closes c at the end; it answers false, and does not take it, where that
// has come.
func (l *life) keep(c closer) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return false
	}
	l.opens[c] = struct{}{}
	return true
}

func (l *life) drop(c closer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.opens, c)
}

func (l *life) isOver() bool {
	select {
	case <-l.gone:
		return true
	default:
		return false
	}
}

// wait answers err of end, or ctx's cause where that ends first.
func (l *life) wait(ctx context.Context) error {
	if l.isOver() {
		return l.err
	}
	select {
	case <-l.gone:
		return l.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// conn is a connection that its machine keeps. It hides what else the framework's
// has: there is no half-close.
type conn struct {
	net.Conn
	life *life
	once sync.Once
	err  error
}

// newConn answers nil, and closes c, where the machine is over.
func newConn(c net.Conn, l *life) *conn {
	k := &conn{Conn: c, life: l}
	if !l.keep(k) {
		_ = c.Close()
		return nil
	}
	return k
}

func (c *conn) Close() error {
	c.once.Do(func() {
		c.life.drop(c)
		c.err = c.Conn.Close()
	})
	return c.err
}
