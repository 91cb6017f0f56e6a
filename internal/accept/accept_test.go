package accept

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// scripted is a listener that answers Accept from a list, then blocks.
type scripted struct {
	answers chan any // error or net.Conn
	closed  chan struct{}
	once    sync.Once
}

func script(answers ...any) *scripted {
	s := &scripted{answers: make(chan any, len(answers)), closed: make(chan struct{})}
	for _, a := range answers {
		s.answers <- a
	}
	return s
}

func (s *scripted) Accept() (net.Conn, error) {
	select {
	case a := <-s.answers:
		if err, ok := a.(error); ok {
			return nil, &net.OpError{Op: "accept", Err: err}
		}
		return a.(net.Conn), nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}
func (s *scripted) Close() error   { s.once.Do(func() { close(s.closed) }); return nil }
func (s *scripted) Addr() net.Addr { return &net.UnixAddr{Name: "script", Net: "unix"} }

func TestAcceptWaitsForDescriptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := net.Pipe()
		var short []error
		l := Through(script(syscall.EMFILE, syscall.ENFILE, syscall.EMFILE, one, syscall.ECONNABORTED, two), func(err error) { short = append(short, err) })
		begin := time.Now()
		for _, want := range []net.Conn{one, two} {
			if c, err := l.Accept(); c != want || err != nil {
				t.Fatalf("%v, %v", c, err)
			}
		}
		if d := time.Since(begin); d != 40*time.Millisecond {
			t.Errorf("waited %v, want 5+10+20 and 5 ms", d)
		}
		if len(short) != 2 || !errors.Is(short[0], syscall.EMFILE) || !errors.Is(short[1], syscall.ECONNABORTED) {
			t.Errorf("reported %v, want the first of each run", short)
		}
	})
}

func TestAcceptEnds(t *testing.T) {
	for _, want := range []error{net.ErrClosed, syscall.EBADF, syscall.EINVAL} {
		if _, err := Through(script(want), nil).Accept(); !errors.Is(err, want) {
			t.Errorf("broken: %v, want %v", err, want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		l := Through(script(syscall.EMFILE), nil)
		ended := make(chan error)
		go func() { _, err := l.Accept(); ended <- err }()
		synctest.Wait()
		begin := time.Now()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, net.ErrClosed) || time.Since(begin) != 0 {
			t.Errorf("closed while it waits: %v after %v", err, time.Since(begin))
		}
	})
}
