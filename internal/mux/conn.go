package mux

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/vzcompose/vzcompose/internal/errs"
)

var (
	errReset = errs.New(errs.Unavailable, "stream was reset by the peer: %w", syscall.ECONNRESET)
	errPipe  = errs.New(errs.Unavailable, "peer does not read any more: %w", syscall.EPIPE)
)

// state of a stream that is in the table.
type state uint8

const (
	dialing   state = iota // our dial is owed or under way
	accepting              // we owe the peer's dial an accept
	refusing               // we owe it a refusal
	open                   // data may flow
)

// Conn is one stream: a net.Conn with CloseWrite and Reset. It is for many
// goroutines; readers take turns, and writers do. The session's lock guards all
// of it.
type Conn struct {
	s        *Session
	id, port uint32
	state    state
	gone     bool          // not in the table any more
	held     bool          // counted in s.held
	closed   bool          // by its user
	err      error         // what Read (when the queue is empty) and Write answer
	answered chan struct{} // of a dial: closed when it is not dialing any more
	waitsAt  *listener     // where nobody has accepted it yet
	refusal  refusal       // that is owed

	// from the peer
	readable sync.Cond
	in       queue
	space    int    // what the peer may still send, in bytes
	consumed int    // bytes taken out, and not yet given as credit
	into     []byte // of the Read that waits
	filled   int    // bytes in into
	gotFin   bool

	// to the peer
	writable           sync.Cond
	writing            bool  // a Write is under way
	turn               place // in the line of writers
	granted            bool  // it is this stream's turn
	credit, peerWindow int   // what may be sent, and the most that ever may, in bytes
	shut, sentFin      bool  // CloseWrite was called; its frame is out
	deaf               bool  // the peer reads no more
	owes               owed
	control            place // in the line of those who owe

	readLimit, writeLimit limit
}

var _ net.Conn = (*Conn)(nil)

func (s *Session) newConn(id, port uint32, st state) *Conn {
	c := &Conn{s: s, id: id, port: port, state: st, space: s.o.Window}
	c.readable.L, c.writable.L = &s.mu, &s.mu
	c.turn.of, c.control.of = c, c
	return c
}

// Read implements net.Conn. It answers io.EOF after the peer's CloseWrite or
// Close; after a reset, or the channel's end, what had come can still be read.
func (c *Conn) Read(p []byte) (int, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, net.ErrClosed
		case c.readLimit.passed():
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		case c.into != nil: // another Read waits
		case c.in.size > 0:
			return c.readQueue(p), nil
		case c.gotFin:
			return 0, io.EOF
		case c.err != nil:
			return 0, c.err
		default:
			if n := c.await(p); n > 0 {
				return n, nil
			}
			continue
		}
		c.readable.Wait()
	}
}

func (c *Conn) readQueue(p []byte) int {
	n := c.in.read(p, &c.s.spare)
	c.s.stats.copiedIn += uint64(n)
	c.took(n)
	c.settle()
	c.s.flush()
	return n
}

// await waits for something to happen, which may put bytes into p.
func (c *Conn) await(p []byte) int {
	c.into, c.filled = p, 0
	c.readable.Wait()
	c.into = nil
	c.readable.Broadcast() // the next reader's turn
	return c.filled
}

// receive takes bytes from the peer, for which there is space: to the Read that
// waits, otherwise to the queue.
func (c *Conn) receive(b []byte) {
	c.s.stats.in += uint64(len(b))
	if c.closed {
		return
	}
	c.s.stats.copiedIn += uint64(len(b))
	if c.into != nil && c.in.size == 0 {
		n := copy(c.into[c.filled:], b)
		c.filled += n
		c.took(n)
		b = b[n:]
	}
	c.in.write(b, &c.s.spare)
	c.readable.Broadcast()
}

// took notes that n bytes make room, and owes the peer credit once it is half of
// the window.
func (c *Conn) took(n int) {
	c.consumed += n
	if c.creditDue(c.s.o.Window / 2) {
		c.s.owe(c, owesCredit)
	}
}

// creditDue reports whether the peer could use credit of at least so many bytes.
func (c *Conn) creditDue(least int) bool {
	return c.consumed >= least && c.state == open && !c.gotFin && !c.closed && !c.gone
}

// Write implements net.Conn. It returns when the channel has taken all of p, in
// frames between which other streams have their turns. A deadline, or Close,
// that comes while the channel takes a frame waits for that frame, since half of
// one would end the session: where the channel is stuck (a peer that is paused),
// only the end of the session breaks it off.
func (c *Conn) Write(p []byte) (int, error) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	for c.writing && c.writeErr() == nil {
		c.writable.Wait()
	}
	if err := c.writeErr(); err != nil || len(p) == 0 {
		return 0, err
	}
	c.writing = true
	done := 0
	var err error
	for done < len(p) && err == nil {
		var n int
		n, err = c.writeFrame(p[done:])
		done += n
	}
	c.writing = false
	c.writable.Broadcast() // the next writer's turn
	return done, err
}

func (c *Conn) writeErr() error {
	switch {
	case c.closed || c.shut:
		return net.ErrClosed
	case c.writeLimit.passed():
		return os.ErrDeadlineExceeded
	case c.err != nil:
		return c.err
	case c.deaf:
		return errPipe
	}
	return nil
}

// CloseWrite tells the peer that no more data comes: it reads io.EOF after what
// was written. It does not wait.
func (c *Conn) CloseWrite() error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	switch {
	case c.closed:
		return net.ErrClosed
	case c.err != nil:
		return c.err
	case c.shut:
		return nil
	}
	c.shut = true
	c.writable.Broadcast()
	c.s.owe(c, owesFin)
	c.s.flush()
	return nil
}

// Close implements net.Conn. It does not wait; what was written reaches the
// peer, which then reads io.EOF. What the peer has sent and nobody has read is
// dropped, and its writes fail.
func (c *Conn) Close() error {
	what := owesReset
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.gotFin {
		what = 0
	}
	if !c.shut {
		what |= owesFin
	}
	c.close(what)
	return nil
}

// Reset closes the stream as broken: the peer's reads fail too, after what has
// reached it. It does not wait.
func (c *Conn) Reset() error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.owes &^= owesFin
	c.close(owesReset)
	return nil
}

func (c *Conn) close(what owed) {
	if c.closed {
		return
	}
	c.drop()
	c.s.owe(c, what)
	c.s.flush()
}

// drop ends c for its user, who may not have come to have it.
func (c *Conn) drop() {
	c.closed = true
	c.readLimit.stop()
	c.writeLimit.stop()
	c.wake()
	if !c.in.lent { // otherwise the reader drops it
		c.in.drop(&c.s.spare)
	}
	c.settle()
}

// abandon ends a stream that no user has. What the peer has not heard of it need
// not hear of.
func (c *Conn) abandon() {
	c.drop()
	c.waitsAt = nil
	switch {
	case c.owes&owesOpen != 0:
		c.s.forget(c, false)
	case c.state == accepting:
		c.state, c.refusal, c.owes = refusing, refusedNobody, 0
		c.s.owe(c, owesRefuse)
	default:
		c.s.owe(c, owesReset)
	}
}

// die ends c from below.
func (c *Conn) die(err error) {
	if c.err == nil {
		c.err = err
		if c.state == dialing {
			close(c.answered)
		}
	}
	c.wake()
}

func (c *Conn) wake() {
	c.readable.Broadcast()
	c.writable.Broadcast()
}

// settle stops to count a stream to which nothing more can come and of which
// nothing is left to be read.
func (c *Conn) settle() {
	s := c.s
	if !c.held || !c.gone || c.in.lent || !c.closed && c.in.size > 0 {
		return
	}
	c.held = false
	if s.held--; s.held == 0 {
		s.spare = pool{}
	}
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return Addr{c.s.side, c.port} }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return Addr{c.s.side.peer(), c.port} }
