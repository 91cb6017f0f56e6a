package wire

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// streams answers both ends of a stream over near and far.
func streams(t testing.TB, near, far net.Conn) (dialled, opened *Stream) {
	t.Helper()
	got := make(chan *Stream, 1)
	s := &Server{Protocol: protocol, Version: 1, Open: func(token string, s *Stream) error {
		if token != "tok" {
			return errs.New(errs.NotFound, "no stream %q", token)
		}
		got <- s
		return nil
	}}
	ended := make(chan error, 1)
	go func() { ended <- s.ServeConn(context.Background(), far) }()
	dialled, err := DialStream(t.Context(), near, greeting(), "tok")
	if err == nil {
		err = <-ended
	}
	if err != nil {
		t.Fatal(err)
	}
	return dialled, <-got
}

func unixStreams(t testing.TB) (dialled, opened *Stream) {
	near, far := pair(t)
	return streams(t, near, far)
}

func TestStreamCarries64MiBBothWays(t *testing.T) {
	const size = 64 << 20
	for name, conns := range map[string]func() (net.Conn, net.Conn){
		"socket": func() (net.Conn, net.Conn) { return pair(t) },
		"pipe":   net.Pipe,
	} {
		t.Run(name, func(t *testing.T) {
			a, b := streams(conns3(conns)(t))
			defer a.Close()
			defer b.Close()
			var wg sync.WaitGroup
			for i, way := range [][2]*Stream{{a, b}, {b, a}} {
				var sent, got [32]byte
				wg.Go(func() { sent = fill(t, way[0], size, uint64(i)) })
				wg.Go(func() {
					h := sha256.New()
					n, err := io.Copy(h, way[1])
					if n != size || err != nil {
						t.Errorf("read %d bytes, %v", n, err)
					}
					got = [32]byte(h.Sum(nil))
				})
				t.Cleanup(func() {
					if sent != got {
						t.Error("other bytes came than were sent")
					}
				})
			}
			wg.Wait()
		})
	}
}

func conns3(conns func() (net.Conn, net.Conn)) func(testing.TB) (testing.TB, net.Conn, net.Conn) {
	return func(t testing.TB) (testing.TB, net.Conn, net.Conn) { a, b := conns(); return t, a, b }
}

// fill writes size bytes in writes of many sizes, in both ways of writing.
func fill(t *testing.T, s *Stream, size int, seed uint64) [32]byte {
	r := rand.New(rand.NewPCG(seed, 1))
	src := rand.NewChaCha8([32]byte{byte(seed)})
	buf := make([]byte, 600<<10)
	h := sha256.New()
	for left := size; left > 0; {
		n := min(left, r.IntN(len(buf)))
		framed := r.IntN(2) == 0
		if framed {
			n = min(n, MaxData)
		}
		b := buf[:Headroom+n%(len(buf)-Headroom)]
		data := b[Headroom:]
		_, _ = src.Read(data)
		h.Write(data)
		var err error
		if framed {
			err = s.WriteFramed(b)
		} else {
			_, err = s.Write(data)
		}
		if err != nil {
			t.Error(err)
			break
		}
		left -= len(data)
	}
	if err := s.CloseWrite(); err != nil {
		t.Error(err)
	}
	return [32]byte(h.Sum(nil))
}

func TestEndOfAStream(t *testing.T) {
	for name, x := range map[string]struct {
		end  func(*Stream)
		want func(error) bool
	}{
		"closed in order": {func(s *Stream) { _ = s.CloseWrite() }, func(err error) bool { return err == io.EOF }},
		"cut":             {func(s *Stream) { _ = s.Close() }, func(err error) bool { return err == io.ErrUnexpectedEOF }},
		"cut in a header": {func(s *Stream) { _, _ = s.Conn().Write([]byte{byte(kindData), 0}); s.Close() },
			func(err error) bool { return err == io.ErrUnexpectedEOF }},
		"cut in a frame": {func(s *Stream) { _, _ = s.Conn().Write([]byte{byte(kindData), 0, 0, 9}); s.Close() },
			func(err error) bool { return err == io.ErrUnexpectedEOF }},
		"aborted": {func(s *Stream) { _ = s.Abort(errs.WithHint(errs.New(errs.ResourceExhausted, "full"), "make room")) },
			func(err error) bool {
				return errs.Is(err, errs.ResourceExhausted) && errs.HintOf(err) == "make room" && err.Error() == "full"
			}},
		"aborted with a long cause": {func(s *Stream) { _ = s.Abort(errs.New(errs.NotFound, "%s", strings.Repeat("\x01", 1<<20))) },
			func(err error) bool { return errs.Is(err, errs.NotFound) }},
		"aborted without a cause": {func(s *Stream) { _ = s.Abort(nil) }, func(err error) bool { return err != nil && err != io.EOF }},
		"a message": {func(s *Stream) { _ = s.f.writeJSON(kindRequest, request{}) },
			func(err error) bool { return errs.Is(err, errs.DataLoss) }},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := unixStreams(t)
			if _, err := a.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			go x.end(a)
			got, err := io.ReadAll(b)
			if err == nil {
				err = io.EOF // as ReadAll says it
			}
			if string(got) != "hello" || !x.want(err) {
				t.Errorf("got %q, %v", got, err)
			}
			if n, again := b.Read(make([]byte, 1)); n != 0 || again == nil || again.Error() != err.Error() {
				t.Errorf("then %d, %v", n, again)
			}
		})
	}
}

func TestOneDirectionEndsAlone(t *testing.T) {
	a, b := unixStreams(t)
	for range 2 { // idempotent
		if err := a.CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.Write([]byte("x")); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("a write after the end: %v", err)
	}
	if err := a.WriteFramed(make([]byte, Headroom+1)); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("a framed write after the end: %v", err)
	}
	go func() { _, _ = b.Write([]byte("still here")); _ = b.CloseWrite() }()
	if got, err := io.ReadAll(a); string(got) != "still here" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	for _, n := range []int{0, Headroom - 1, Headroom + MaxData + 1} {
		if err := b.WriteFramed(make([]byte, n)); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("a frame in %d bytes: %v", n, err)
		}
	}
}

// Whoever has dialled a stream may dial another: the server has the first by then.
func TestStreamIsOpenWhenItsDialReturns(t *testing.T) {
	near, far := pair(t)
	opening, open := make(chan struct{}), make(chan struct{})
	var done atomic.Bool
	s := &Server{Protocol: protocol, Version: 1, Open: func(_ string, st *Stream) error {
		go func() { _, _ = st.Write([]byte("first")) }() // an owner that is quicker than the welcome
		close(opening)
		<-open
		done.Store(true)
		return nil
	}}
	go func() { _ = s.ServeConn(t.Context(), far) }()
	go func() { <-opening; close(open) }()
	st, err := DialStream(t.Context(), near, greeting(), "tok")
	if err != nil || !done.Load() {
		t.Fatalf("dialled before it was opened, or not at all: %v", err)
	}
	defer st.Close()
	b := make([]byte, 5)
	if _, err := io.ReadFull(st, b); err != nil || string(b) != "first" {
		t.Errorf("read %q, %v", b, err)
	}
}

func TestRefusedStream(t *testing.T) {
	near, far := pair(t)
	s := &Server{Protocol: protocol, Version: 1, Open: func(string, *Stream) error { return errs.New(errs.NotFound, "no such stream") }}
	ended := make(chan error, 1)
	go func() { ended <- s.ServeConn(t.Context(), far) }()
	st, err := DialStream(t.Context(), near, greeting(), "other")
	if err == nil {
		_, err = st.Read(make([]byte, 1))
	}
	if !errs.Is(err, errs.NotFound) {
		t.Errorf("got %v", err)
	}
	if err := <-ended; !errs.Is(err, errs.NotFound) {
		t.Errorf("the server: %v", err)
	}
}

// After a write that broke in a frame the peer must not see a new header where
// data is due.
func TestNothingFollowsABrokenFrame(t *testing.T) {
	near, far := net.Pipe()
	broken := errors.New("broken")
	a := newStream(newFramer(&failing{Conn: near, err: broken}))
	all := make(chan []byte)
	go func() { b, _ := io.ReadAll(far); all <- b }()
	if _, err := a.Write([]byte("0123456789")); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if _, err := a.Write([]byte("x")); !errors.Is(err, broken) {
		t.Errorf("the next write: %v", err)
	}
	if err := a.CloseWrite(); !errors.Is(err, broken) {
		t.Errorf("its end: %v", err)
	}
	_ = a.Abort(broken)
	if got := <-all; !bytes.Equal(got, []byte{byte(kindData), 0, 0, 10}) {
		t.Errorf("the peer got %v", got)
	}
}

// failing lets the header out and fails the data.
type failing struct {
	net.Conn
	err  error
	once bool
}

func (f *failing) Write(b []byte) (int, error) {
	if f.once {
		f.once = false // what comes later would pass
		return 0, f.err
	}
	f.once = len(b) == headerLen
	return f.Conn.Write(b)
}

func TestAbortDoesNotWaitForAPeerThatDoesNotRead(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	a := newStream(newFramer(near))
	wrote := make(chan error)
	go func() { _, err := a.Write(make([]byte, 1<<20)); wrote <- err }()
	_, _ = far.Read(make([]byte, 1)) // it is under way
	_ = a.Abort(errors.New("enough"))
	if err := <-wrote; err == nil {
		t.Error("the write went through")
	}
}

func TestNoFrameAllocates(t *testing.T) {
	a, b := unixStreams(t)
	buf, in := make([]byte, Headroom+1000), make([]byte, 4<<10)
	for name, write := range map[string]func() error{
		"Write":       func() error { _, err := a.Write(buf[Headroom:]); return err },
		"WriteFramed": func() error { return a.WriteFramed(buf) },
	} {
		n := testing.AllocsPerRun(200, func() {
			if err := write(); err != nil {
				t.Fatal(err)
			}
			for left := 1000; left > 0; {
				n, err := b.Read(in)
				if err != nil {
					t.Fatal(err)
				}
				left -= n
			}
		})
		if n != 0 {
			t.Errorf("%s and its reading allocate %v times a frame", name, n)
		}
	}
}
