package mux

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// inBubble runs fn on a pair whose clock is not the wall's.
func inBubble(t *testing.T, o Options, fn func(*testing.T, *pair)) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		p := newPair(t, a, b, o)
		fn(t, p)
		p.close()
	})
}

func TestDeadlines(t *testing.T) {
	inBubble(t, Options{Window: 4 << 10}, func(t *testing.T, p *pair) {
		near, far := p.stream(p.listen())
		begin := time.Now()
		passes := func(what string, after time.Duration, fn func() error) {
			t.Helper()
			if err := fn(); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) != after {
				t.Errorf("%s: %v after %s", what, err, time.Since(begin))
			}
		}
		read := func() error { _, err := near.Read(make([]byte, 1)); return err }
		_ = near.SetReadDeadline(begin.Add(time.Second))
		passes("read", time.Second, read)
		passes("read again", time.Second, read)
		_ = near.SetReadDeadline(begin.Add(3 * time.Second))
		time.AfterFunc(time.Second, func() { _ = near.SetReadDeadline(begin.Add(5 * time.Second)) })
		passes("read put off", 5*time.Second, read)
		time.AfterFunc(time.Second, func() { _ = near.SetReadDeadline(time.Now()) })
		_ = near.SetReadDeadline(time.Time{})
		passes("read called back", 6*time.Second, read)

		_ = near.SetWriteDeadline(begin.Add(7 * time.Second))
		passes("write", 7*time.Second, func() error {
			n, err := near.Write(make([]byte, 10_000))
			if n != 4<<10 {
				t.Errorf("wrote %d bytes", n)
			}
			return err
		})
		_ = near.SetDeadline(time.Time{})
		go func() { _, _ = io.CopyN(io.Discard, far, 5<<10) }()
		write(t, near, make([]byte, 1000))
	})
}

// stuck is a channel whose other end takes nothing until it is let go.
type stuck struct {
	io.ReadWriteCloser
	free   chan struct{}
	closed chan struct{}
}

func (s stuck) Write(b []byte) (int, error) {
	select {
	case <-s.free:
		return s.ReadWriteCloser.Write(b)
	case <-s.closed:
		return 0, io.ErrClosedPipe
	}
}

func (s stuck) Close() error {
	close(s.closed)
	return s.ReadWriteCloser.Close()
}

// TestDialToNobody: a machine that boots takes nothing for minutes. Dials end
// with their contexts, and leave nothing; what they were is not heard of later.
func TestDialToNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		free := make(chan struct{})
		host := New(stuck{a, free, make(chan struct{})}, Host, Options{Streams: 10})
		cause := errors.New("had enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		if _, err := host.Dial(ctx, port); !errors.Is(err, cause) {
			t.Errorf("dial that nobody wanted: %v", err)
		}
		for range 100 {
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, cause)
			begin := time.Now()
			if _, err := host.Dial(ctx, port); !errors.Is(err, cause) || time.Since(begin) != time.Second {
				t.Errorf("%v after %s", err, time.Since(begin))
			}
			cancel()
		}
		dialed := make(chan net.Conn)
		go func() {
			c, err := host.Dial(t.Context(), port)
			if err != nil {
				t.Error(err)
			}
			dialed <- c
		}()
		synctest.Wait()
		close(free)
		guest := New(b, Guest, Options{})
		l, err := guest.Listen(port)
		if err != nil {
			t.Fatal(err)
		}
		c := <-dialed
		_ = c.Close()
		synctest.Wait()
		guest.mu.Lock()
		// The first was under way; it came and went.
		if n := len(l.(*listener).backlog); n > 2 {
			t.Errorf("%d dials came", n)
		}
		guest.mu.Unlock()
		_, _ = host.Close(), guest.Close()
	})
}

// TestStuckChannel: where the channel takes nothing, only a write that is under
// way waits; the end of the session breaks it off too.
func TestStuckChannel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		free := make(chan struct{})
		host, guest := New(stuck{a, free, make(chan struct{})}, Host, Options{}), New(b, Guest, Options{})
		p := &pair{t, host, guest}
		close(free)
		l := p.listen()
		first, firstFar := p.stream(l)
		second, secondFar := p.stream(l)
		synctest.Wait()
		// From here on nothing goes out.
		host.mu.Lock()
		host.w = stuck{a, make(chan struct{}), host.c.(stuck).closed}
		host.mu.Unlock()

		var ended atomic.Int32
		go func() {
			if _, err := first.Write([]byte("x")); !errs.Is(err, errs.Unavailable) {
				t.Error(err)
			}
			ended.Add(1)
		}()
		synctest.Wait()
		begin := time.Now()
		for _, c := range []*Conn{first, second} {
			_ = c.SetDeadline(begin.Add(time.Second))
		}
		if _, err := second.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		if _, err := second.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		_ = second.SetDeadline(time.Time{})
		write(t, secondFar, []byte("the other way goes on"))
		expect(t, second, "the other way goes on")
		_, _ = second.Close(), first.CloseWrite()
		if d := time.Since(begin); d != time.Second || ended.Load() != 0 {
			t.Errorf("after %s, %d", d, ended.Load())
		}
		_ = host.Close()
		synctest.Wait()
		if ended.Load() != 1 {
			t.Error("Close did not break the write off")
		}
		expectErr(t, firstFar, io.ErrUnexpectedEOF)
		_ = guest.Close()
	})
}

func TestDialTakenBack(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, p *pair) {
		// The guest's session answers, so this dial is one that came too late.
		l := p.listen()
		for range 50 {
			ctx, cancel := context.WithCancelCause(t.Context())
			go cancel(io.EOF)
			c, err := p.host.Dial(ctx, port)
			if err == nil {
				_ = c.Close()
			} else if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
		}
		synctest.Wait()
		near, err := p.host.Dial(t.Context(), port)
		if err != nil {
			t.Fatal(err)
		}
		write(t, near, []byte("x"))
		for {
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if n, _ := c.Read(make([]byte, 1)); n == 1 {
				break
			}
			_ = c.Close()
		}
		_ = near.Close()
	})
}

// TestConcurrentUse of one stream by many.
func TestConcurrentUse(t *testing.T) {
	inBubble(t, Options{Window: 4 << 10}, func(t *testing.T, p *pair) {
		near, far := p.stream(p.listen())
		const each, n = 20_000, 4
		var read atomic.Int64
		for range n {
			go func() { write(t, near, make([]byte, each)) }()
			go func() {
				got, _ := io.Copy(io.Discard, far)
				read.Add(got)
			}()
		}
		synctest.Wait()
		go func() { _ = near.CloseWrite() }()
		synctest.Wait()
		if read.Load() != n*each {
			t.Errorf("%d of %d bytes", read.Load(), n*each)
		}
		_, _ = near.Close(), far.Close()
	})
}
