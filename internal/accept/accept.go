// Package accept keeps listeners open through what passes: a connection that was
// aborted before it was accepted, a process that has no descriptors left. Such an
// error says nothing about the listener, and a loop that ends with it never
// accepts again, long after there are descriptors.
package accept

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"
)

// The pauses between accepts that failed.
const (
	minPause = 5 * time.Millisecond
	maxPause = time.Second
)

// Listener is a net.Listener whose Accept fails only once it is closed, or broken
// for good.
type Listener struct {
	net.Listener
	short  func(error) // may be nil
	closed chan struct{}
	once   sync.Once
}

// Through returns l with an Accept that waits out errors which pass. short, which
// may be nil, is called with the first error of each run of them, on the goroutine
// that accepts. The Listener owns l.
func Through(l net.Listener, short func(error)) *Listener {
	return &Listener{Listener: l, short: short, closed: make(chan struct{})}
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		c, err := l.Listener.Accept()
		if err == nil || !passing(err) {
			return c, err
		}
		if pause == minPause && l.short != nil {
			l.short(fmt.Errorf("accept connections: %w", err))
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-l.closed:
			t.Stop()
			return nil, net.ErrClosed
		}
	}
}

// Close implements net.Listener.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
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
