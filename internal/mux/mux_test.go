package mux

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
)

const port = 1024

// channels are the kinds of channel that sessions are tested on, each with what
// it has: nothing, writev and attempts, attempts alone.
func channels() map[string]func(testing.TB) (a, b io.ReadWriteCloser) {
	return map[string]func(testing.TB) (a, b io.ReadWriteCloser){
		"pipe": func(testing.TB) (a, b io.ReadWriteCloser) { return net.Pipe() },
		"socket": func(t testing.TB) (a, b io.ReadWriteCloser) {
			x, y := sockets(t)
			return unixConn(t, x), unixConn(t, y)
		},
		"file": func(t testing.TB) (a, b io.ReadWriteCloser) { return sockets(t) },
	}
}

// sockets answers the ends of a socket pair as files that are polled, which is
// how a guest has its serial port.
func sockets(t testing.TB) (a, b *os.File) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	var files [2]*os.File
	for i, fd := range fds {
		syscall.CloseOnExec(fd)
		if err := syscall.SetNonblock(fd, true); err != nil {
			t.Fatal(err)
		}
		files[i] = os.NewFile(uintptr(fd), "end of a socket pair")
		t.Cleanup(func() { _ = files[i].Close() })
	}
	return files[0], files[1]
}

func unixConn(t testing.TB, f *os.File) *net.UnixConn {
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	t.Cleanup(func() { _ = c.Close() })
	return c.(*net.UnixConn)
}

// pair is two sessions with a channel between them.
type pair struct {
	t           testing.TB
	host, guest *Session
}

func newPair(t testing.TB, a, b io.ReadWriteCloser, o Options) *pair {
	p := &pair{t: t, host: New(a, Host, o), guest: New(b, Guest, o)}
	t.Cleanup(p.close)
	return p
}

func (p *pair) close() {
	_ = p.host.Close()
	_ = p.guest.Close()
}

// listen takes dials on the guest's side.
func (p *pair) listen() net.Listener {
	p.t.Helper()
	l, err := p.guest.Listen(port)
	if err != nil {
		p.t.Fatal(err)
	}
	return l
}

// stream answers both ends of a new stream.
func (p *pair) stream(l net.Listener) (near, far *Conn) {
	p.t.Helper()
	n, err := p.host.Dial(p.t.Context(), port)
	if err != nil {
		p.t.Fatal(err)
	}
	f, err := l.Accept()
	if err != nil {
		p.t.Fatal(err)
	}
	return n.(*Conn), f.(*Conn)
}

// onEach runs fn on a pair with each kind of channel.
func onEach(t *testing.T, o Options, fn func(*testing.T, *pair)) {
	for name, channel := range channels() {
		t.Run(name, func(t *testing.T) {
			a, b := channel(t)
			p := newPair(t, a, b, o)
			fn(t, p)
			p.idle()
		})
	}
}

// idle checks the books of two sessions that live and carry nothing.
func (p *pair) idle() {
	p.t.Helper()
	for _, s := range []*Session{p.host, p.guest} {
		s.mu.Lock()
		if s.err == nil && len(s.streams) == 0 {
			if s.held != 0 || s.peers != 0 || s.owing.first != nil || s.writers.first != nil || s.spare.count != 0 {
				p.t.Errorf("the %s holds %d streams, %d of the peer, %d chunks", s.side, s.held, s.peers, s.spare.count)
			}
		}
		s.mu.Unlock()
	}
}

func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}()
	}
}

func write(t testing.TB, c net.Conn, b []byte) {
	t.Helper()
	if n, err := c.Write(b); n != len(b) || err != nil {
		t.Fatalf("wrote %d of %d bytes, %v", n, len(b), err)
	}
}

func expect(t testing.TB, c net.Conn, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != want {
		t.Fatalf("read %q, %v; want %q", b, err, want)
	}
}

// expectErr reads to the end, which must be want; nil is io.EOF.
func expectErr(t testing.TB, c net.Conn, want error) {
	t.Helper()
	if n, err := io.Copy(io.Discard, c); n != 0 || !errors.Is(err, want) {
		t.Fatalf("read %d bytes, %v; want %v", n, err, want)
	}
}

func wait(t testing.TB, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("no end of %s", what)
	}
}

func TestEcho(t *testing.T) {
	onEach(t, Options{}, func(t *testing.T, p *pair) {
		go echo(p.listen())
		c, err := p.host.Dial(t.Context(), port)
		if err != nil {
			t.Fatal(err)
		}
		if l, r := c.LocalAddr().String(), c.RemoteAddr().String(); l != "host:1024" || r != "guest:1024" {
			t.Errorf("addresses %s and %s", l, r)
		}
		for _, n := range []int{1, 100, 5000, 70_000, 1 << 20} {
			b := bytes.Repeat([]byte("0123456789abcdefg"), n/17+1)[:n]
			go func() { _, _ = c.Write(b) }()
			expect(t, c, string(b))
		}
		_ = c.(*Conn).CloseWrite()
		expectErr(t, c, nil)
		_ = c.Close()
	})
}

// TestManyStreams has both sides dial, and each stream carry bytes both ways.
func TestManyStreams(t *testing.T) {
	const streams = 200
	onEach(t, Options{Window: 32 << 10, Backlog: streams}, func(t *testing.T, p *pair) {
		var all sync.WaitGroup
		for i, dialer := range []*Session{p.host, p.guest} {
			l, err := []*Session{p.guest, p.host}[i].Listen(port)
			if err != nil {
				t.Fatal(err)
			}
			go echo(l)
			for i := range streams / 2 {
				all.Go(func() {
					if err := roundTrip(t.Context(), dialer, uint64(i)); err != nil {
						t.Error(err)
					}
				})
			}
		}
		all.Wait()
	})
}

// roundTrip sends random bytes to an echo and compares what comes back.
func roundTrip(ctx context.Context, s *Session, seed uint64) error {
	c, err := s.Dial(ctx, port)
	if err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, r.IntN(256<<10))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	go func() {
		for rest := b; len(rest) > 0; {
			n := min(len(rest), 1+r.IntN(40_000))
			_, _ = c.Write(rest[:n])
			rest = rest[n:]
		}
		_ = c.(*Conn).CloseWrite()
	}()
	sum := sha256.New()
	n, err := io.Copy(sum, c)
	if want := sha256.Sum256(b); err != nil || !bytes.Equal(sum.Sum(nil), want[:]) {
		return fmt.Errorf("%d of %d bytes came back, %w", n, len(b), err)
	}
	return c.Close()
}

func TestHalfClose(t *testing.T) {
	onEach(t, Options{}, func(t *testing.T, p *pair) {
		l := p.listen()
		for _, nearFirst := range []bool{true, false} {
			a, b := p.stream(l)
			if !nearFirst {
				a, b = b, a
			}
			write(t, a, []byte("last words"))
			if err := a.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
				t.Errorf("write after CloseWrite: %v", err)
			}
			expect(t, b, "last words")
			expectErr(t, b, nil)
			write(t, b, []byte("answer"))
			expect(t, a, "answer")
			if err := b.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			expectErr(t, a, nil)
			_, _ = a.Close(), b.Close()
		}
	})
}

func TestCloseDeliversWhatWasWritten(t *testing.T) {
	onEach(t, Options{}, func(t *testing.T, p *pair) {
		l := p.listen()
		// It was not even accepted.
		c, err := p.host.Dial(t.Context(), port)
		if err != nil {
			t.Fatal(err)
		}
		want := bytes.Repeat([]byte("x"), 100_000)
		write(t, c, want)
		_ = c.Close()
		far, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		expect(t, far, string(want))
		expectErr(t, far, nil)
		if _, err := far.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) || !errs.Is(err, errs.Unavailable) {
			t.Errorf("write to a closed peer: %v", err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read after Close: %v", err)
		}
		_ = far.Close()
	})
}

func TestReset(t *testing.T) {
	onEach(t, Options{}, func(t *testing.T, p *pair) {
		near, far := p.stream(p.listen())
		write(t, near, []byte("abc"))
		_ = near.Reset()
		expect(t, far, "abc")
		expectErr(t, far, syscall.ECONNRESET)
		_ = far.Close()
	})
}

func TestRefused(t *testing.T) {
	onEach(t, Options{Backlog: 3}, func(t *testing.T, p *pair) {
		_, err := p.host.Dial(t.Context(), port)
		if !errs.Is(err, errs.Unavailable) || !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("nobody listens: %v", err)
		}
		l := p.listen()
		if _, err := p.guest.Listen(port); !errs.Is(err, errs.AlreadyExists) {
			t.Errorf("listen twice: %v", err)
		}
		var full []net.Conn
		for range 3 {
			c, err := p.host.Dial(t.Context(), port)
			if err != nil {
				t.Fatal(err)
			}
			full = append(full, c)
		}
		if _, err := p.host.Dial(t.Context(), port); !errs.Is(err, errs.ResourceExhausted) {
			t.Errorf("backlog is full: %v", err)
		}
		accepted, _ := l.Accept()
		_ = l.Close()
		for _, c := range full[1:] {
			expectErr(t, c, syscall.ECONNRESET)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept of a closed listener: %v", err)
		}
		write(t, full[0], []byte("still here"))
		expect(t, accepted, "still here")
		for _, c := range append(full, accepted) {
			_ = c.Close()
		}
	})
}

func TestStreamsAreCapped(t *testing.T) {
	a, b := channels()["socket"](t)
	p := &pair{t: t, host: New(a, Host, Options{}), guest: New(b, Guest, Options{Streams: 2})}
	t.Cleanup(p.close)
	l := p.listen()
	near, _ := p.stream(l)
	p.stream(l)
	if _, err := p.host.Dial(t.Context(), port); !errs.Is(err, errs.ResourceExhausted) {
		t.Errorf("over the guest's limit: %v", err)
	}
	if _, err := p.guest.Dial(t.Context(), port); !errs.Is(err, errs.ResourceExhausted) {
		t.Errorf("over its own limit: %v", err)
	}
	if p.host.Err() != nil || p.guest.Err() != nil {
		t.Error(p.host.Err(), p.guest.Err())
	}
	_ = near.Close()
}

// TestStreamsLeaveNothing opens streams one after another, ending them in
// every way, half of them with bytes that nobody reads.
func TestStreamsLeaveNothing(t *testing.T) {
	count := 10_000
	if testing.Short() {
		count = 500
	}
	a, b := channels()["socket"](t)
	p := newPair(t, a, b, Options{})
	l := p.listen()
	long, longFar := p.stream(l)
	before := runtime.NumGoroutine()
	for i := range count {
		near, far := p.stream(l)
		write(t, near, []byte("unread"))
		write(t, far, []byte("unread"))
		ends := []func() error{near.Close, far.Close, near.Reset, far.Reset, near.CloseWrite, far.CloseWrite}
		_ = ends[i%6]()
		_ = ends[i/6%6]()
		_, _ = near.Close(), far.Close()
	}
	// A stream of its own says when all that went before has arrived.
	write(t, long, []byte("after"))
	expect(t, longFar, "after")
	write(t, longFar, []byte("all"))
	expect(t, long, "all")
	for _, s := range []*Session{p.host, p.guest} {
		s.mu.Lock()
		if s.err != nil || len(s.streams) != 1 || s.held != 1 || s.owing.first != nil {
			t.Errorf("the %s: %d streams, %d held, %v", s.side, len(s.streams), s.held, s.err)
		}
		s.mu.Unlock()
	}
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines, %d before", n, before)
	}
}

func TestSlowReaderStopsNobody(t *testing.T) {
	onEach(t, Options{Window: 16 << 10}, func(t *testing.T, p *pair) {
		l := p.listen()
		slow, slowFar := p.stream(l)
		done := make(chan struct{})
		big := bytes.Repeat([]byte("x"), 300_000)
		go func() {
			defer close(done)
			write(t, slow, big)
		}()
		for range 20 {
			a, b := p.stream(l)
			write(t, a, []byte("quick"))
			expect(t, b, "quick")
			write(t, b, []byte("answer"))
			expect(t, a, "answer")
			_, _ = a.Close(), b.Close()
		}
		select {
		case <-done:
			t.Error("the window did not hold the writer")
		default:
		}
		expect(t, slowFar, string(big))
		wait(t, "the slow stream", done)
		_, _ = slow.Close(), slowFar.Close()
	})
}

func TestSessionCloseWakesEveryone(t *testing.T) {
	for name, channel := range channels() {
		for _, hostCloses := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/%v", name, hostCloses), func(t *testing.T) {
				a, b := channel(t)
				testEnd(t, newPair(t, a, b, Options{Window: 8 << 10}), hostCloses)
			})
		}
	}
}

// testEnd ends a session in which everything waits.
func testEnd(t *testing.T, p *pair, hostCloses bool) {
	l := p.listen()
	near, far := p.stream(l)
	write(t, far, []byte("last words"))
	expect(t, near, "last")
	var all sync.WaitGroup
	fails := func(what string, fn func() error) {
		all.Go(func() {
			if err := fn(); !errs.Is(err, errs.Unavailable) {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	fails("read", func() error { _, err := far.Read(make([]byte, 1)); return err })
	fails("write", func() error { _, err := far.Write(make([]byte, 1<<20)); return err })
	fails("accept", func() error { _, err := l.Accept(); return err })
	fails("dial", func() error { _, err := p.guest.Dial(t.Context(), port); return err })
	if hostCloses {
		_ = p.host.Close()
	} else {
		_ = p.guest.Close()
	}
	all.Wait()
	wait(t, "the host", p.host.Done())
	wait(t, "the guest", p.guest.Done())
	for _, s := range []*Session{p.host, p.guest} {
		if !errs.Is(s.Err(), errs.Unavailable) {
			t.Errorf("the %s ended with %v", s.side, s.Err())
		}
		if _, err := s.Dial(t.Context(), port); !errs.Is(err, errs.Unavailable) {
			t.Errorf("dial after the end: %v", err)
		}
		if _, err := s.Listen(port); !errs.Is(err, errs.Unavailable) {
			t.Errorf("listen after the end: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("close twice: %v", err)
		}
	}
	expect(t, near, " words") // it had come
}

// TestGoodbye: a channel need not have an end of its own.
func TestGoodbye(t *testing.T) {
	a, b := sockets(t)
	kept, err := syscall.Dup(int(b.Fd())) // so that closing b does not end the channel
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Close(kept) }()
	if err := syscall.SetNonblock(kept, true); err != nil { // Fd has undone it
		t.Fatal(err)
	}
	p := newPair(t, a, os.NewFile(uintptr(kept), "the guest's end"), Options{})
	p.stream(p.listen())
	again, _ := syscall.Dup(kept)
	defer func() { _ = syscall.Close(again) }()
	_ = p.guest.Close()
	wait(t, "the host", p.host.Done())
	if err := p.host.Err(); !errs.Is(err, errs.Unavailable) || errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}
