package mux

import (
	"io"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// A peer that does not read has a write blocked in the channel. Whatever ends
// the session then, its end waits for nobody: a peer that sends a bad frame, and
// our own Close.
func TestEndWhileAWriteIsBlocked(t *testing.T) {
	for name, end := range map[string]func(*Session, raw){
		"bad frame": func(_ *Session, r raw) { r.send(bare(0, 1)) },
		"close":     func(s *Session, _ raw) { go func() { _ = s.Close() }() },
	} {
		for _, writers := range []int{1, 3} {
			t.Run(name, func(t *testing.T) { testEndWhileBlocked(t, writers, end) })
		}
	}
}

func testEndWhileBlocked(t *testing.T, writers int, end func(*Session, raw)) {
	a, b := sockets(t)
	s := New(unixConn(t, a), Guest, Options{})
	r := raw{t, unixConn(t, b)}
	r.send(hello())
	ids := []uint32{1, 3, 5}[:writers]
	conns := r.accepted(s, maxWindow, ids...)
	wrote := make(chan error, writers)
	for _, c := range conns {
		go func() {
			_, err := io.Copy(c, zeros{}) // more than any socket takes
			wrote <- err
		}()
	}
	awaitBlocked(t, s)
	end(s, r)
	wait(t, "the session", s.Done())
	closed := make(chan struct{})
	go func() { _ = s.Close(); close(closed) }()
	wait(t, "Close", closed)
	for range conns {
		if err := <-wrote; !errs.Is(err, errs.Unavailable) {
			t.Errorf("write: %v", err)
		}
	}
}

// awaitBlocked returns once the socket that nobody reads is full and a write is
// under way.
func awaitBlocked(t *testing.T, s *Session) {
	t.Helper()
	full := func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(p, 0)
		return err == nil && n == 0
	}
	for {
		s.mu.Lock()
		busy := s.busy
		s.mu.Unlock()
		blocked := false
		if err := s.attempt.raw.Control(func(fd uintptr) { blocked = full(fd) }); err != nil {
			t.Fatal(err)
		}
		if busy && blocked {
			return
		}
	}
}

// zeros never end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
