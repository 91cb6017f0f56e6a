package relay

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// unixPair answers two ends of one stream that can half-close.
func unixPair(t *testing.T) (near, far *net.UnixConn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn := func(fd int) *net.UnixConn {
		f := os.NewFile(uintptr(fd), "pair")
		defer f.Close()
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.(*net.UnixConn)
	}
	return conn(fds[0]), conn(fds[1])
}

type result struct {
	stats Stats
	err   error
}

// start pairs two streams and answers their outer ends.
func start(ctx context.Context, t *testing.T) (a, b *net.UnixConn, ended chan result) {
	t.Helper()
	a, a2 := unixPair(t)
	b, b2 := unixPair(t)
	ended = make(chan result, 1)
	go func() {
		s, err := Pair(ctx, a2, b2)
		ended <- result{s, err}
	}()
	return a, b, ended
}

func TestHalfCloseGoesBothWaysAndBytesAreCounted(t *testing.T) {
	a, b, ended := start(t.Context(), t)
	request := make([]byte, 1<<20)
	rand.Read(request)
	go func() {
		a.Write(request)
		a.CloseWrite()
	}()
	got, err := io.ReadAll(b)
	if err != nil || sha256.Sum256(got) != sha256.Sum256(request) {
		t.Fatalf("request: %d bytes, %v", len(got), err)
	}
	// The other direction lives on after the first one's end.
	b.Write([]byte("answer"))
	b.CloseWrite()
	if got, err := io.ReadAll(a); err != nil || string(got) != "answer" {
		t.Fatalf("answer: %q, %v", got, err)
	}
	if r := <-ended; r.err != nil || r.stats != (Stats{1 << 20, 6}) {
		t.Errorf("got %+v", r)
	}
}

func TestLastWordsOfAReceiverThatBrokeArrive(t *testing.T) {
	a, b, ended := start(t.Context(), t)
	b.CloseRead() // takes nothing, but answers
	sent := make(chan error, 1)
	go func() {
		_, err := a.Write(make([]byte, 4<<20)) // far more than any buffer
		a.CloseWrite()
		sent <- err
	}()
	b.Write([]byte("too large"))
	b.CloseWrite()
	if got, err := io.ReadAll(a); string(got) != "too large" {
		t.Errorf("got %q, %v", got, err)
	}
	<-sent
	if r := <-ended; !errors.Is(r.err, syscall.EPIPE) || r.stats.BToA != 9 {
		t.Errorf("got %+v", r)
	}
}

func TestWithoutHalfCloseTheEndClosesBoth(t *testing.T) {
	a, a2 := net.Pipe()
	b, b2 := net.Pipe()
	ended := make(chan result, 1)
	go func() {
		s, err := Pair(t.Context(), a2, b2)
		ended <- result{s, err}
	}()
	go func() {
		a.Write([]byte("bye"))
		a.Close()
	}()
	if got, err := io.ReadAll(b); err != nil || string(got) != "bye" {
		t.Errorf("got %q, %v", got, err)
	}
	if r := <-ended; r.err != nil || r.stats.AToB != 3 {
		t.Errorf("got %+v", r)
	}
}

func TestContextEndsAPairThatIsStuckBothWays(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	a, b, ended := start(ctx, t)
	// Nobody reads: both directions are stuck in a write.
	stuck := make(chan struct{}, 2)
	for _, c := range []net.Conn{a, b} {
		go func() {
			c.Write(make([]byte, 8<<20))
			stuck <- struct{}{}
		}()
	}
	why := errors.New("told to")
	cancel(why)
	if r := <-ended; r.err != why {
		t.Errorf("got %v", r.err)
	}
	<-stuck
	<-stuck
}

type brokenReader struct{ net.Conn }

func (brokenReader) Read([]byte) (int, error) { return 0, syscall.ECONNRESET }

func TestABrokenSenderEndsThePair(t *testing.T) {
	_, a2 := unixPair(t)
	b, b2 := unixPair(t)
	_, err := Pair(t.Context(), brokenReader{a2}, b2)
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v", err)
	}
	if n, err := b.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("the receiver was not told: %d, %v", n, err)
	}
}

// openFDs counts this process's descriptors where the system shows them.
func openFDs(t *testing.T) int {
	t.Helper()
	names, err := filepath.Glob("/dev/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func FuzzPairKeepsBytes(f *testing.F) {
	f.Add([]byte("hello"), []byte{})
	f.Add([]byte{}, bytes.Repeat([]byte{0}, 3*bufferSize+1))
	f.Fuzz(func(t *testing.T, there, back []byte) {
		a, b, ended := start(t.Context(), t)
		go func() { a.Write(there); a.CloseWrite() }()
		go func() { b.Write(back); b.CloseWrite() }()
		gotBack := make(chan []byte, 1)
		go func() { g, _ := io.ReadAll(a); gotBack <- g }()
		gotThere, err := io.ReadAll(b)
		if err != nil || !bytes.Equal(gotThere, there) || !bytes.Equal(<-gotBack, back) {
			t.Fatal("bytes changed", err)
		}
		if r := <-ended; r.err != nil || r.stats != (Stats{int64(len(there)), int64(len(back))}) {
			t.Fatalf("got %+v", r)
		}
	})
}

func BenchmarkPair(b *testing.B) {
	t := &testing.T{}
	a, a2 := unixPair(t)
	z, z2 := unixPair(t)
	go Pair(context.Background(), a2, z2)
	chunk := make([]byte, 64<<10)
	b.SetBytes(int64(len(chunk)))
	go func() {
		for range b.N {
			a.Write(chunk)
		}
		a.Close()
	}()
	b.ResetTimer()
	io.Copy(io.Discard, z)
}
