package mux

import (
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/vzcompose/vzcompose/internal/errs"
)

const (
	// maxStreams bounds the streams of a session, and is part of the protocol:
	// a side that has more of its own open at once breaks it.
	maxStreams = 1024
	// maxWindow bounds what a peer may say that it can hold, in bytes.
	maxWindow = 1 << 30

	leastWindow    = 4 << 10
	mostWindow     = 16 << 20
	defaultWindow  = 256 << 10
	defaultBacklog = 128
)

// Side says which end of a channel a session is.
type Side uint8

// The sides. The host speaks first.
const (
	Host  Side = 1
	Guest Side = 2
)

func (s Side) String() string {
	if s == Host {
		return "host"
	}
	return "guest"
}

// peer is the other end.
func (s Side) peer() Side { return Host + Guest - s }

// Options are the bounds of a session; zero is the default of each, and what
// lies outside the range becomes its nearest end.
type Options struct {
	// Window is how many bytes of a stream the peer may send ahead of who reads
	// them: 4 KiB to 16 MiB, 256 KiB by default. Times Streams it is what a
	// peer can make us hold.
	Window int
	// Streams bounds the streams of both sides: 1 to 1024, which is the default.
	Streams int
	// Backlog bounds what a listener has not accepted: 1 to 1024, 128 by default.
	Backlog int
}

func (o Options) filled() Options {
	return Options{
		Window:  within(o.Window, leastWindow, mostWindow, defaultWindow),
		Streams: within(o.Streams, 1, maxStreams, maxStreams),
		Backlog: within(o.Backlog, 1, maxStreams, defaultBacklog),
	}
}

func within(v, least, most, standard int) int {
	if v == 0 {
		return standard
	}
	return max(least, min(most, v))
}

// Session is one end of a channel. It is for many goroutines.
type Session struct {
	c       io.ReadWriteCloser
	side    Side
	o       Options
	in      inbox          // the reader's alone
	running sync.WaitGroup // of the reader, and of who writes what would have blocked
	done    chan struct{}  // closed once err is set and c is closed

	mu        sync.Mutex // guards the following, and all of each stream and listener
	err       error      // why it ended
	spoken    bool       // the host's hello was sent, or came
	greeting  bool       // the hello is owed
	streams   map[uint32]*Conn
	listeners map[uint32]*listener
	nextID    uint64 // of our next dial; past the range of ids once they are used up
	lastID    uint32 // of the peer's latest dial
	peers     int    // of streams, how many the peer dialed
	held      int    // streams that hold memory of ours, or may come to
	spare     pool
	strays    budget
	stats     stats

	outbox
}

// stats count bytes of data, for tests.
type stats struct {
	in, out             uint64
	copiedIn, copiedOut uint64 // by us, besides what the channel's read and write copy
}

// New returns the end of c that side says, and starts to read. The session owns
// c from here on: c's Close must break off its Read and Write. It ends with c,
// with a peer that breaks the protocol, or with Close.
func New(c io.ReadWriteCloser, side Side, o Options) *Session {
	s := prepare(c, side, o)
	s.start()
	return s
}

// NewListener is New and Listen in one: no dial of the peer, which may have been
// on its way for long, finds the session without the listener.
func NewListener(c io.ReadWriteCloser, side Side, o Options, port uint32) (*Session, net.Listener, error) {
	s := prepare(c, side, o)
	l, err := s.Listen(port)
	s.start()
	return s, l, err
}

func (s *Session) start() { s.running.Go(func() { s.end(s.read()) }) }

// prepare makes a session that does not read yet.
func prepare(c io.ReadWriteCloser, side Side, o Options) *Session {
	s := &Session{
		c: c, side: side, o: o.filled(), done: make(chan struct{}),
		in:      inbox{c: c, buf: make([]byte, inboxSize)},
		streams: map[uint32]*Conn{}, listeners: map[uint32]*listener{},
		nextID: uint64(side),
	}
	s.learn(c, &s.mu)
	return s
}

// Done is closed when the session has ended; Err then says why.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err answers why the session ended, nil while it lasts. Its class is
// errs.Unavailable; where the peer broke the protocol the text says how.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close ends the session and its channel, and waits for its goroutines. The
// peer is told where that does not take waiting. What streams have received can
// still be read from them; what they were writing may be lost.
func (s *Session) Close() error {
	err := s.end(errs.New(errs.Canceled, "session was closed: %w", net.ErrClosed))
	<-s.done
	s.running.Wait()
	return err
}

// end ends the session, once; it answers the error of closing the channel.
func (s *Session) end(cause error) error {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return nil
	}
	s.err = errs.New(errs.Unavailable, "the channel has ended: %w", cause)
	for _, c := range s.streams {
		s.forget(c, false)
		c.die(s.err)
	}
	for _, l := range s.listeners {
		l.end(s.err)
	}
	s.spare = pool{}
	if code := farewellOf(cause); s.spoken && code != 0 {
		s.sayBye(code)
	}
	s.mu.Unlock()
	err := s.c.Close()
	close(s.done)
	return err
}

// farewellOf is what the peer is told of why we end the session; 0 is nothing,
// of a channel that is gone.
func farewellOf(cause error) farewell {
	switch errs.ClassOf(cause) {
	case errs.Canceled:
		return byeClosed
	case errs.DataLoss:
		return byeBroken
	case errs.Unsupported:
		return byeVersion
	}
	return 0
}

// ours reports whether id is one of our dials. The host's ids are odd.
func (s *Session) ours(id uint32) bool { return id%2 == uint32(s.side)%2 }

// was reports whether a stream of that id has ever been.
func (s *Session) was(id uint32) bool {
	if s.ours(id) {
		return uint64(id) < s.nextID
	}
	return id <= s.lastID
}

// add puts a stream in the table.
func (s *Session) add(c *Conn) {
	s.streams[c.id] = c
	if !s.ours(c.id) {
		s.peers++
	}
}

// hold counts c among the streams that use memory.
func (s *Session) hold(c *Conn) {
	c.held = true
	s.held++
}

// forget takes c out of the table: no frame of it will be sent or is due. Where
// the peer may not know that yet, what it may still send is a stray.
func (s *Session) forget(c *Conn, crossing bool) {
	if c.gone {
		return
	}
	c.gone = true
	delete(s.streams, c.id)
	if !s.ours(c.id) {
		s.peers--
	}
	s.owing.remove(&c.control)
	c.owes = 0
	if crossing {
		s.strays.allow(c)
	}
	c.settle()
}

// budget is what the peer may still send to streams that are not in the table:
// frames that crossed with our end of them. It is kept for all of them in sum,
// so that nothing has to be remembered of each.
type budget struct {
	bytes uint64 // of data and of credit
	ends  uint64 // accepts, refusals, fins and resets
}

// allow adds what may come to c, which is forgotten.
func (b *budget) allow(c *Conn) {
	b.bytes += uint64(c.peerWindow - c.credit)
	b.ends++ // a reset
	if !c.gotFin && c.state != refusing {
		b.bytes += uint64(c.space)
		b.ends++
	}
	if c.state == dialing {
		b.ends++
	}
}

// stray takes a frame with no stream in the table, of n bytes of data or credit.
func (s *Session) stray(h header, n int) error {
	left, cost := &s.strays.ends, uint64(1)
	if h.kind == kindData || h.kind == kindCredit {
		left, cost = &s.strays.bytes, uint64(n)
	}
	switch {
	case !s.was(h.id):
		return broke("%s on stream %d, which was never open", h.kind, h.id)
	case *left < cost:
		return broke("%s on stream %d, which has ended", h.kind, h.id)
	}
	*left -= cost
	return nil
}

// Addr is one end of a stream.
type Addr struct {
	Side Side
	Port uint32 // that was dialed: the same on both ends
}

var _ net.Addr = Addr{}

// Network implements net.Addr.
func (a Addr) Network() string { return "mux" }

// String implements net.Addr: "guest:1024".
func (a Addr) String() string { return fmt.Sprintf("%s:%d", a.Side, a.Port) }
