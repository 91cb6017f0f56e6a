package mux

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// TestHostile: a peer that breaks the protocol ends the session, which says how
// it did. The session is the guest's. There were two streams, each of which has
// sent the 100 bytes that it may: 1, and 3, which has ended; so that 100 bytes and
// one reset may still come to streams that are not there.
func TestHostile(t *testing.T) {
	for name, c := range map[string]struct {
		send []byte
		want string
	}{
		"no kind":               {bare(0, 1), "frame of kind 0"},
		"unknown kind":          {bare(10, 1), "frame of kind 10"},
		"flags":                 {[]byte{byte(kindFin), 1, 0, 0, 0, 0, 0, 1}, "fin with flags 0x1"},
		"empty data":            {data(1, 0), "data of 0 bytes"},
		"long fin":              {appendHeader(nil, kindFin, 1, 5), "fin of 5 bytes"},
		"short open":            {appendHeader(nil, kindOpen, 5, 4), "open of 4 bytes"},
		"second hello":          {hello(), "a hello where none is due"},
		"hello on a stream":     {appendByte(nil, kindHello, 1, 1), "hello on stream 1"},
		"data on the session":   {data(0, 1), "data on stream 0"},
		"over the window":       {bytes.Join([][]byte{data(1, 8000), data(1, 193)}, nil), "193 bytes on stream 1 where 192 may come"},
		"id used again":         {opens(1, 9), "id 1, which is not new"},
		"id of an ended stream": {opens(3, 9), "id 3, which is not new"},
		"id of our side":        {opens(4, 9), "id 4, which is not new"},
		"no window":             {opens(5, 0), "window of 0 bytes"},
		"huge window":           {opens(5, 1<<31), "window of 2147483648 bytes"},
		"data nowhere":          {data(5, 1), "data on stream 5, which was never open"},
		"data on no dial":       {data(2, 1), "data on stream 2, which was never open"},
		"accept of no dial":     {words(kindAccept, 2, 9), "accept on stream 2, which was never open"},
		"accept of its dial":    {words(kindAccept, 1, 9), "accept on stream 1, where none is due"},
		"refusal of its dial":   {appendByte(nil, kindRefuse, 1, 1), "refuse on stream 1, where none is due"},
		"data after fin":        {append(bare(kindFin, 1), data(1, 1)...), "data on stream 1 after its fin"},
		"fin twice":             {append(bare(kindFin, 1), bare(kindFin, 1)...), "fin on stream 1, where none is due"},
		"resets":                {bytes.Repeat(bare(kindReset, 1), 3), "reset on stream 1, which has ended"},
		"data after reset":      {append(bare(kindReset, 1), data(1, 101)...), "data on stream 1, which has ended"},
		"too much credit":       {words(kindCredit, 1, 101), "credit of 101 bytes on stream 1 where 100 are out"},
		"credit twice":          {append(words(kindCredit, 1, 60), words(kindCredit, 1, 60)...), "credit of 60 bytes on stream 1 where 40 are out"},
		"credit for nothing":    {words(kindCredit, 1, 0), "credit of 0 bytes"},
		"huge credit":           {words(kindCredit, 1, 1<<32-1), "credit of 4294967295 bytes"},
		"credit after the end":  {words(kindCredit, 3, 101), "credit on stream 3, which has ended"},
		"resets after the end":  {bytes.Repeat(bare(kindReset, 3), 2), "reset on stream 3, which has ended"},
		"data before accept":    {append(opens(5, 9), data(5, 1)...), "data on stream 5 before it is open"},
		"fin before accept":     {append(opens(5, 9), bare(kindFin, 5)...), "fin on stream 5, where none is due"},
		"dials without end":     {dials(), "more than 1024 dials at once"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testHostile(t, c.send, c.want) })
		})
	}
}

func testHostile(t *testing.T, b []byte, want string) {
	s, r := rawHost(t, Options{Window: 8192})
	conns := r.accepted(s, 100, 1, 3)
	for _, c := range conns {
		go func() { _, _ = c.Write(make([]byte, 100)) }()
		r.next()
	}
	r.send(bare(kindFin, 3))
	_ = conns[1].Close()
	r.expect(frame{kindFin, 3, ""})
	synctest.Wait()     // nothing is being written
	_, _ = r.c.Write(b) // it may not get to take all
	wait(t, "the session", s.Done())
	if err := s.Err(); !errs.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "peer broke the protocol: ") ||
		!strings.Contains(err.Error(), want) {
		t.Errorf("ended with %v, want %s", err, want)
	}
	if _, err := conns[0].Write([]byte("x")); !errs.Is(err, errs.Unavailable) {
		t.Errorf("write: %v", err)
	}
}

// dials are more than may be open, even if as many refusals as one write takes
// are under way.
func dials() (all []byte) {
	for i := range uint32(2 * maxStreams) {
		all = append(all, opens(5+2*i, 9)...)
	}
	return all
}

// TestHostileGuest: so does one that speaks before it is spoken to, or answers
// what was not asked.
func TestHostileGuest(t *testing.T) {
	for name, b := range map[string][]byte{
		"hello": hello(), "open": opens(2, 9), "data": data(1, 1), "accept": words(kindAccept, 1, 9),
	} {
		t.Run(name, func(t *testing.T) {
			s, r := rawGuest(t, Options{})
			_, _ = r.c.Write(b)
			wait(t, "the session", s.Done())
			if err := s.Err(); !strings.Contains(err.Error(), "broke the protocol") {
				t.Error(err)
			}
		})
	}
	for name, b := range map[string][]byte{
		"data":           data(1, 1),
		"credit":         words(kindCredit, 1, 1),
		"reset":          bare(kindReset, 1),
		"huge window":    words(kindAccept, 1, 1<<31),
		"accept twice":   append(words(kindAccept, 1, 9), words(kindAccept, 1, 9)...),
		"refused twice":  bytes.Repeat(appendByte(nil, kindRefuse, 1, 1), 2),
		"accept refused": append(words(kindAccept, 1, 9), appendByte(nil, kindRefuse, 1, 1)...),
	} {
		t.Run("answer/"+name, func(t *testing.T) {
			s, r := rawGuest(t, Options{})
			dialed := make(chan error, 1)
			go func() {
				_, err := s.Dial(t.Context(), port)
				dialed <- err
			}()
			r.next() // hello
			r.next() // open
			_, _ = r.c.Write(b)
			wait(t, "the session", s.Done())
			if err := s.Err(); !strings.Contains(err.Error(), "broke the protocol") {
				t.Error(err)
			}
			<-dialed
		})
	}
}

// FuzzPeer plays bytes of a peer to a session with streams in every state: it
// does not panic, holds no more than it may, and has ended if it broke.
func FuzzPeer(f *testing.F) {
	accepts := append(words(kindAccept, 2, 100), words(kindAccept, 4, 1<<20)...)
	for _, b := range [][]byte{
		{}, hello(),
		bytes.Join([][]byte{hello(), opens(1, 9), accepts, data(2, 3000), words(kindCredit, 4, 10), bare(kindFin, 2), bare(kindReset, 4)}, nil),
		bytes.Join([][]byte{hello(), accepts, data(4, 9000), data(2, 5), bare(kindReset, 2), data(6, 1)}, nil),
		bytes.Join([][]byte{hello(), appendByte(nil, kindRefuse, 2, 2), opens(1, 50), opens(3, 60), bare(kindReset, 1)}, nil),
		bytes.Join([][]byte{hello(), accepts, appendByte(nil, kindBye, 0, 2)}, nil),
	} {
		f.Add(b, uint8(0))
		f.Add(b, uint8(0xff))
	}
	f.Fuzz(func(t *testing.T, b []byte, choices uint8) {
		mine, theirs := net.Pipe()
		o := Options{Window: 8 << 10, Streams: 4, Backlog: 2}
		s := New(mine, Guest, o)
		if choices&1 != 0 {
			go drain(theirs)
		}
		l, err := s.Listen(port)
		if err != nil {
			t.Fatal(err)
		}
		used := make(chan struct{})
		go func() {
			defer close(used)
			use(s, l, choices)
		}()
		_, _ = theirs.Write(b) // it ends early where the session does
		checkBounds(t, s, o)
		_ = theirs.Close()
		wait(t, "the session", s.Done())
		_ = s.Close()
		wait(t, "who uses it", used)
		s.mu.Lock()
		if len(s.streams) != 0 || s.peers != 0 || s.owing.first != nil || s.writers.first != nil {
			t.Errorf("it ended with %d streams, %d of the peer", len(s.streams), s.peers)
		}
		s.mu.Unlock()
	})
}

func drain(c net.Conn) {
	b := make([]byte, 4<<10)
	for {
		if _, err := c.Read(b); err != nil {
			return
		}
	}
}

func checkBounds(t *testing.T, s *Session, o Options) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.streams) > maxStreams+o.Streams || s.held > o.Streams || s.peers > maxStreams || s.spare.count > maxSpare {
		t.Errorf("%d streams, %d of the peer, %d held, %d chunks", len(s.streams), s.peers, s.held, s.spare.count)
	}
	for id, c := range s.streams {
		if c.in.size > o.Window || c.space < 0 || c.space+c.consumed+c.in.size > o.Window || c.credit > c.peerWindow || c.credit < 0 {
			t.Errorf("stream %d holds %d bytes, %d may come, %d consumed; %d of %d may go", id, c.in.size, c.space, c.consumed, c.credit, c.peerWindow)
		}
		chunks := 0
		for x := c.in.first; x != nil; x = x.next {
			chunks++
		}
		if chunks > o.Window/chunkSize+2 {
			t.Errorf("stream %d has %d chunks", id, chunks)
		}
	}
}

// use dials and accepts, and does with the streams what choices says, until the
// session ends.
func use(s *Session, l net.Listener, choices uint8) {
	var all sync.WaitGroup
	each := func(c net.Conn) {
		m := c.(*Conn)
		if choices&2 != 0 {
			_ = m.CloseWrite()
		}
		if choices&4 != 0 {
			all.Go(func() { _, _ = m.Write(make([]byte, 200)) })
		}
		switch choices >> 3 & 3 {
		case 1:
			_, _ = io.Copy(io.Discard, m)
		case 2:
			_ = m.Reset()
		case 3:
			_, _ = m.Read(make([]byte, 10))
			_ = m.Close()
		}
	}
	for range 2 {
		all.Go(func() {
			if c, err := s.Dial(context.Background(), 7); err == nil {
				each(c)
			}
		})
	}
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { each(c) })
		}
	})
	all.Wait()
}
