package relay

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/vzcompose/vzcompose/internal/accept"
)

// Limits of Serve where Options leave them open.
const (
	defaultMaxConns    = 4096
	defaultDialTimeout = 30 * time.Second
)

// Options of Serve. The zero value serves.
type Options struct {
	// MaxConns at once; 0 means 4096. Connections beyond it wait in the
	// listener's backlog.
	MaxConns int
	// Shared, where set, bounds the connections of all Serves that have the same
	// channel by its capacity: each has an element in it. Of those that wait for
	// their turn each Serve has accepted one.
	Shared chan struct{}
	// DialTimeout bounds one dial; 0 means 30 s.
	DialTimeout time.Duration
	// OnError is told of each dial that failed, each pair that ended badly and
	// each lack of descriptors or memory that accepting waits out. It may be
	// called from several goroutines at once. May be nil.
	OnError func(error)
}

// Serve accepts from l and pairs each connection with what dial answers for it,
// until ctx ends or l is broken. A dial that fails costs its own connection only
// (reset, where the connection can be); a lack of descriptors or memory is
// waited out.
//
// Serve owns l. When it returns, l and all connections are closed and no
// goroutine is left. The error is never nil: the cause of ctx, or why l broke,
// which is net.ErrClosed where somebody else closed it.
func Serve(ctx context.Context, l net.Listener, dial func(context.Context) (net.Conn, error), o Options) error {
	if o.MaxConns <= 0 {
		o.MaxConns = defaultMaxConns
	}
	if o.DialTimeout <= 0 {
		o.DialTimeout = defaultDialTimeout
	}
	if o.OnError == nil {
		o.OnError = func(error) {}
	}
	s := &server{dial: dial, o: o, buffers: newBuffers(), slots: make(chan struct{}, o.MaxConns)}
	l = accept.Through(l, o.OnError)
	// Whatever ends the loop ends the connections, and only then Serve.
	defer s.conns.Wait()
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	return s.loop(inner, l)
}

type server struct {
	dial    func(context.Context) (net.Conn, error)
	o       Options
	buffers *sync.Pool
	slots   chan struct{} // one taken a connection
	conns   sync.WaitGroup
}

func (s *server) loop(ctx context.Context, l net.Listener) error {
	for {
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		c, err := l.Accept()
		switch {
		case err == nil && s.share(ctx):
			s.conns.Go(func() {
				defer s.leave()
				s.serve(ctx, c)
			})
		case err == nil:
			refuse(c)
			return context.Cause(ctx)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		default:
			return fmt.Errorf("accept: %w", err)
		}
	}
}

// share waits for a place among those of all that share; false: ctx ended first.
func (s *server) share(ctx context.Context) bool {
	if s.o.Shared == nil {
		return true
	}
	select {
	case s.o.Shared <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *server) leave() {
	<-s.slots
	if s.o.Shared != nil {
		<-s.o.Shared
	}
}

// serve owns c.
func (s *server) serve(ctx context.Context, c net.Conn) {
	far, err := s.dialFor(ctx)
	if err != nil {
		refuse(c)
		if ctx.Err() == nil {
			s.o.OnError(fmt.Errorf("dial for %s: %w", c.RemoteAddr(), err))
		}
		return
	}
	if _, err := pair(ctx, c, far, s.buffers); err != nil && ctx.Err() == nil {
		s.o.OnError(fmt.Errorf("relay for %s: %w", c.RemoteAddr(), err))
	}
}

func (s *server) dialFor(ctx context.Context) (net.Conn, error) {
	limited, cancel := context.WithTimeout(ctx, s.o.DialTimeout)
	defer cancel()
	return s.dial(limited)
}

// refuse closes c such that its peer sees a reset rather than a stream that
// ended well before its first byte.
func refuse(c net.Conn) {
	if l, ok := c.(interface{ SetLinger(sec int) error }); ok {
		// Best effort: without it the peer sees an end-of-stream.
		_ = l.SetLinger(0)
	}
	c.Close()
}
