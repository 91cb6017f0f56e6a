package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"
)

// Limits of Serve where Options leave them open, and the steps in which it
// waits after an accept that failed for want of something.
const (
	defaultMaxConns    = 4096
	defaultDialTimeout = 30 * time.Second
	minBackoff         = 5 * time.Millisecond
	maxBackoff         = time.Second
)

// Options of Serve. The zero value serves.
type Options struct {
	// MaxConns at once; 0 means 4096. Connections beyond it wait in the
	// listener's backlog.
	MaxConns int
	// DialTimeout bounds one dial; 0 means 30 s.
	DialTimeout time.Duration
	// OnError is told of each dial that failed, each pair that ended badly and
	// each accept that will be tried again. It may be called from several
	// goroutines at once. May be nil.
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
	backoff := minBackoff
	for {
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		c, err := l.Accept()
		switch {
		case err == nil:
			backoff = minBackoff
			s.conns.Go(func() {
				defer func() { <-s.slots }()
				s.serve(ctx, c)
			})
			continue
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !passing(err):
			return fmt.Errorf("accept: %w", err)
		}
		<-s.slots
		s.o.OnError(fmt.Errorf("accept, next in %v: %w", backoff, err))
		if !sleep(ctx, backoff) {
			return context.Cause(ctx)
		}
		backoff = min(2*backoff, maxBackoff)
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

// passing reports whether an accept that failed with err may succeed later:
// accept(2), "Error handling", and the lacks that pass.
func passing(err error) bool {
	for _, e := range []error{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
		syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EINTR, syscall.EAGAIN, syscall.EPROTO,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// sleep answers false where ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
