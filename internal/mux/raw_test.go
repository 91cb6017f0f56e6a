package mux

import (
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
)

// raw is a peer that speaks frames by hand.
type raw struct {
	t testing.TB
	c net.Conn
}

// frame is what a raw peer hears, other than data.
type frame struct {
	kind kind
	id   uint32
	body string
}

func (r raw) send(b ...[]byte) {
	r.t.Helper()
	for _, b := range b {
		if _, err := r.c.Write(b); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r raw) next() frame {
	r.t.Helper()
	b := make([]byte, headerLen)
	if _, err := io.ReadFull(r.c, b); err != nil {
		r.t.Fatal(err)
	}
	h, err := parseHeader(b)
	if err != nil {
		r.t.Fatal(err)
	}
	b = make([]byte, h.length)
	if _, err := io.ReadFull(r.c, b); err != nil {
		r.t.Fatal(err)
	}
	return frame{h.kind, h.id, string(b)}
}

func (r raw) expect(want ...frame) {
	r.t.Helper()
	for _, want := range want {
		if got := r.next(); got != want {
			r.t.Fatalf("heard %s on stream %d with %.60q, want %s on stream %d with %.60q",
				got.kind, got.id, got.body, want.kind, want.id, want.body)
		}
	}
}

func hello() []byte                  { return appendByte(nil, kindHello, 0, version) }
func opens(id, window uint32) []byte { return appendWords(nil, kindOpen, id, port, window) }
func bare(k kind, id uint32) []byte  { return appendHeader(nil, k, id, 0) }
func data(id uint32, n int) []byte {
	return append(appendHeader(nil, kindData, id, n), make([]byte, n)...)
}
func words(k kind, id uint32, w ...uint32) []byte { return appendWords(nil, k, id, w...) }

// rawGuest answers a host's session and its peer.
func rawGuest(t testing.TB, o Options) (*Session, raw) {
	a, b := net.Pipe()
	s := New(a, Host, o)
	t.Cleanup(func() { _, _ = b.Close(), s.Close() })
	return s, raw{t, b}
}

// rawHost answers a guest's session and its peer, which has said hello.
func rawHost(t testing.TB, o Options) (*Session, raw) {
	a, b := net.Pipe()
	s := New(a, Guest, o)
	t.Cleanup(func() { _, _ = b.Close(), s.Close() })
	r := raw{t, b}
	r.send(hello())
	return s, r
}

// accepted makes streams to a guest, with ids 1, 3 and so on.
func (r raw) accepted(s *Session, window uint32, ids ...uint32) []net.Conn {
	r.t.Helper()
	l, err := s.Listen(port)
	if err != nil {
		r.t.Fatal(err)
	}
	var conns []net.Conn
	for _, id := range ids {
		r.send(opens(id, window))
		r.expect(frame{kindAccept, id, string(words(kindAccept, id, uint32(s.o.Window))[headerLen:])})
		c, err := l.Accept()
		if err != nil {
			r.t.Fatal(err)
		}
		conns = append(conns, c)
	}
	return conns
}

func credit(id, n uint32) frame {
	return frame{kindCredit, id, string(words(kindCredit, id, n)[headerLen:])}
}

// TestGuestIsSilent until the host has spoken, whatever it wants.
func TestGuestIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		s := New(a, Guest, Options{})
		r := raw{t, b}
		if _, err := s.Listen(port); err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = s.Dial(t.Context(), 7) }()
		heard := make(chan frame)
		go func() { heard <- r.next() }()
		synctest.Wait()
		select {
		case f := <-heard:
			t.Fatalf("it said %s", f.kind)
		default:
		}
		r.send(hello())
		if f := <-heard; f.kind != kindOpen || f.id != 2 {
			t.Fatalf("it said %s on stream %d", f.kind, f.id)
		}
		_, _ = s.Close(), b.Close()
	})
}

// TestHostSpeaksFirst with a hello and no more than it has to say.
func TestHostSpeaksFirst(t *testing.T) {
	s, r := rawGuest(t, Options{})
	go func() {
		if c, err := s.Dial(t.Context(), port); err == nil {
			_, _ = c.Write([]byte("hi"))
			_ = c.Close()
		}
	}()
	r.expect(frame{kindHello, 0, "\x01"}, frame{kindOpen, 1, "\x00\x00\x04\x00\x00\x04\x00\x00"})
	r.send(words(kindAccept, 1, 100))
	r.expect(frame{kindData, 1, "hi"}, frame{kindFin, 1, ""}, frame{kindReset, 1, ""})
	go func() { _, _ = s.Listen(port) }()
	r.send(words(kindOpen, 2, port+1, 100))
	r.expect(frame{kindRefuse, 2, "\x01"})
}

func TestVersion(t *testing.T) {
	a, b := sockets(t)
	s := New(unixConn(t, a), Guest, Options{})
	r := raw{t, unixConn(t, b)}
	r.send(appendByte(nil, kindHello, 0, version+1))
	r.expect(frame{kindBye, 0, string([]byte{byte(byeVersion)})})
	wait(t, "the guest", s.Done())
}

// TestWindow: what goes out is exactly what the peer has room for, and credit
// comes at half of the window, or with data at a quarter.
func TestWindow(t *testing.T) {
	s, r := rawHost(t, Options{Window: 8000})
	c := r.accepted(s, 1000, 1)[0]
	wrote := make(chan int, 1)
	go func() {
		n, _ := c.Write(make([]byte, 2500))
		wrote <- n
	}()
	zeros := func(n int) frame { return frame{kindData, 1, string(make([]byte, n))} }
	r.expect(zeros(1000))
	r.send(words(kindCredit, 1, 300))
	r.expect(zeros(300))
	r.send(words(kindCredit, 1, 1000))
	r.expect(zeros(1000))
	r.send(words(kindCredit, 1, 200), words(kindCredit, 1, 300))
	r.expect(zeros(200))
	if n := <-wrote; n != 2500 {
		t.Errorf("wrote %d", n)
	}

	r.send(data(1, 8000)) // exactly the window
	b := make([]byte, 8000)
	read := func(n int) { _, _ = io.ReadFull(c, b[:n]) }
	read(3999)
	read(1)
	r.expect(credit(1, 4000))
	read(1999)
	go func() { _, _ = c.Write([]byte("x")) }()
	r.expect(frame{kindData, 1, "x"})
	read(1)
	go func() { _, _ = c.Write([]byte("y")) }()
	r.expect(credit(1, 2000), frame{kindData, 1, "y"})
	r.send(data(1, 6000))
	if err := s.Err(); err != nil {
		t.Error(err)
	}
}

// TestCrossing: what was sent before it heard of a stream's end is not held
// against the peer.
func TestCrossing(t *testing.T) {
	s, r := rawHost(t, Options{Window: 8000})
	c := r.accepted(s, 1000, 1)[0]
	go func() { _, _ = c.Write(make([]byte, 1000)) }()
	r.next()
	go func() { _ = c.(*Conn).Reset() }()
	r.expect(frame{kindReset, 1, ""})
	r.send(data(1, 5000), data(1, 3000), words(kindCredit, 1, 1000), bare(kindFin, 1), bare(kindReset, 1))
	r.send(opens(3, 9)) // which it answers
	r.next()
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	r.send(data(1, 1))
	wait(t, "the session", s.Done())
}

// TestRefusalsOwedAreBounded has a peer that dials and reads no answer, giving
// each dial up again: nothing piles up. One that does not give up is cut off.
func TestRefusalsOwedAreBounded(t *testing.T) {
	s, r := rawHost(t, Options{})
	id := uint32(1)
	for ; id < 10_000; id += 2 {
		r.send(opens(id, 9), bare(kindReset, id))
	}
	s.mu.Lock()
	if len(s.streams) > 2 || s.held != 0 {
		t.Errorf("%d streams, %d held", len(s.streams), s.held)
	}
	s.mu.Unlock()
	for range maxStreams + 1 {
		r.send(opens(id, 9))
		id += 2
	}
	if _, err := r.c.Write(bare(kindReset, id)); err == nil {
		t.Error("it may have any number of dials open")
	}
	wait(t, "the session", s.Done())
}

// TestHugeFrames: what is larger than our own frames is fine.
func TestHugeFrames(t *testing.T) {
	s, r := rawHost(t, Options{Window: 1 << 20})
	c := r.accepted(s, 1000, 1)[0]
	go func() {
		for range 3 {
			r.send(data(1, 1<<16-1))
		}
		r.send(bare(kindFin, 1))
	}()
	if n, err := io.Copy(io.Discard, c); n != 3*(1<<16-1) || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// TestPeerVanishes within a frame.
func TestPeerVanishes(t *testing.T) {
	s, r := rawHost(t, Options{})
	c := r.accepted(s, 1000, 1)[0]
	r.send(data(1, 20_000)[:15_000])
	_ = r.c.Close()
	n, err := io.Copy(io.Discard, c)
	if n != 15_000-headerLen || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read %d bytes, %v", n, err)
	}
}
