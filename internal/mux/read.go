package mux

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/vzcompose/vzcompose/internal/errs"
)

const (
	// inboxSize is how much is read ahead: many small frames in one call.
	inboxSize = 16 << 10
	// narrow is how much is read ahead after a frame that was large, in bytes: the
	// next is likely to be large too, and what is read ahead of it is copied twice.
	narrow = 1 << 10
	// leastDirect is the least of a frame, or of its rest, that is large: it is
	// read to its place directly. In bytes.
	leastDirect = 1 << 10
	// maxIdle is how often a channel may answer a read with nothing.
	maxIdle = 100
)

// inbox reads ahead.
type inbox struct {
	c          io.Reader
	buf        []byte
	start, end int  // what has been read ahead
	bulk       bool // the latest data were large
}

func (r *inbox) size() int { return r.end - r.start }

// next takes n bytes, which are there. They are valid until fill.
func (r *inbox) next(n int) []byte {
	b := r.buf[r.start : r.start+n]
	r.start += n
	return b
}

// fill reads more, in one call.
func (r *inbox) fill() error {
	r.end = copy(r.buf, r.buf[r.start:r.end]) // less than a frame without data
	r.start = 0
	to := len(r.buf)
	if r.bulk {
		to = narrow
	}
	n, err := r.read(r.buf[r.end:to])
	r.end += n
	return err
}

// read is one call that answers something.
func (r *inbox) read(b []byte) (int, error) {
	for range maxIdle {
		n, err := r.c.Read(b)
		if n > 0 {
			return n, nil // an error comes again
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, io.ErrNoProgress
}

// read takes frames until the channel ends or the peer breaks the protocol. It
// waits for nothing but the channel's bytes.
func (s *Session) read() error {
	for {
		if err := s.await(headerLen); err != nil {
			return gone(err)
		}
		h, err := parseHeader(s.in.next(headerLen))
		if err == nil && h.kind == kindData {
			err = s.takeData(h)
		} else if err == nil {
			err = s.takeFrame(h)
		}
		if err != nil {
			return err
		}
	}
}

// gone is the error of a channel that has ended.
func gone(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read the channel: %w", err)
}

// await reads until n bytes lie in the inbox. Before it waits the answers to
// what has come go out.
func (s *Session) await(n int) error {
	for s.in.size() < n {
		s.mu.Lock()
		s.flush()
		s.mu.Unlock()
		if err := s.in.fill(); err != nil {
			return err
		}
	}
	return nil
}

// takeData takes a frame of data: through the inbox as far as it lies there or
// is small, else right to its place.
func (s *Session) takeData(h header) error {
	s.mu.Lock()
	c, err := s.admit(h)
	s.mu.Unlock()
	s.in.bulk = h.length >= leastDirect
	for left := h.length; left > 0 && err == nil; {
		n := 0
		if c != nil && s.in.size() == 0 && left >= leastDirect {
			n, err = s.takeDirect(c, left)
		} else {
			n, err = s.takeAhead(c, left)
		}
		left -= n
	}
	return err
}

// admit checks a frame of data against what the peer may send. It answers nil
// for data that nobody wants.
func (s *Session) admit(h header) (*Conn, error) {
	c := s.streams[h.id]
	switch {
	case s.err != nil:
		return nil, s.err
	case !s.spoken:
		return nil, broke("%s before the hello", h.kind)
	case c == nil:
		return nil, s.stray(h, h.length)
	case c.state != open:
		return nil, broke("data on stream %d before it is open", h.id)
	case c.gotFin:
		return nil, broke("data on stream %d after its fin", h.id)
	case h.length > c.space:
		return nil, broke("%d bytes on stream %d where %d may come", h.length, h.id, c.space)
	}
	c.space -= h.length
	if c.closed {
		c = nil
	}
	return c, nil
}

// takeAhead takes data that lies in the inbox, at most left bytes.
func (s *Session) takeAhead(c *Conn, left int) (int, error) {
	if err := s.await(1); err != nil {
		return 0, gone(err)
	}
	b := s.in.next(min(left, s.in.size()))
	if c != nil {
		s.mu.Lock()
		c.receive(b)
		s.mu.Unlock()
	}
	return len(b), nil
}

// takeDirect reads at most left bytes of data to the queue of c, without the
// lock.
func (s *Session) takeDirect(c *Conn, left int) (int, error) {
	s.mu.Lock()
	b := c.in.tail(left, &s.spare)
	c.in.lent = true
	s.flush()
	s.mu.Unlock()
	n, err := s.in.read(b)
	s.mu.Lock()
	defer s.mu.Unlock()
	c.in.lent = false
	c.in.grow(n)
	s.stats.in += uint64(n)
	if c.closed {
		c.in.drop(&s.spare)
	}
	c.readable.Broadcast()
	c.settle()
	if err != nil {
		return n, gone(err)
	}
	return n, nil
}

// takeFrame takes a frame that is not data.
func (s *Session) takeFrame(h header) error {
	if err := s.await(h.length); err != nil {
		return gone(err)
	}
	b := s.in.next(h.length)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil:
		return s.err
	case h.kind == kindHello:
		return s.takeHello(b[0])
	case h.kind == kindBye:
		return farewell(b[0]).err()
	case !s.spoken:
		return broke("%s before the hello", h.kind)
	case h.kind == kindOpen:
		return s.takeOpen(h.id, word(b), word(b[4:]))
	}
	c := s.streams[h.id]
	if c == nil {
		n := 0
		if h.kind == kindCredit {
			n = word(b)
		}
		return s.stray(h, n)
	}
	return c.takeFrame(h, b)
}

// word reads a u32, which fits an int on the systems that we run on.
func word(b []byte) int { return int(binary.BigEndian.Uint32(b)) }

func (s *Session) takeHello(v byte) error {
	switch {
	case s.side == Host || s.spoken:
		return broke("a hello where none is due")
	case v != version:
		s.spoken = true // the peer may hear why
		return errs.New(errs.Unsupported, "the peer speaks version %d, this program %d", v, version)
	}
	s.spoken = true
	return nil
}

// takeOpen makes a stream of the peer's dial, if somebody listens.
func (s *Session) takeOpen(id uint32, port, window int) error {
	switch {
	case s.ours(id) || id <= s.lastID:
		return broke("dial with id %d, which is not new", id)
	case window < 1 || window > maxWindow:
		return broke("dial with a window of %d bytes", window)
	case s.peers >= maxStreams:
		return broke("more than %d dials at once", maxStreams)
	}
	s.lastID = id
	c := s.newConn(id, uint32(port), accepting)
	c.peerWindow, c.credit = window, window
	s.add(c)
	l := s.listeners[c.port]
	switch {
	case l == nil:
		c.refusal = refusedNobody
	case len(l.backlog) >= s.o.Backlog:
		c.refusal = refusedBacklog
	case s.held >= s.o.Streams:
		c.refusal = refusedLimit
	default:
		s.hold(c)
		c.waitsAt = l
		l.backlog = append(l.backlog, c)
		l.ready.Signal()
		s.owe(c, owesAccept)
		return nil
	}
	c.state = refusing
	s.owe(c, owesRefuse)
	return nil
}

// takeFrame takes a frame of a stream that is in the table.
func (c *Conn) takeFrame(h header, b []byte) error {
	switch {
	case c.owes&owesOpen != 0:
		return broke("%s on stream %d, which was never open", h.kind, h.id)
	case c.state == dialing && h.kind == kindAccept:
		return c.accepted(word(b))
	case c.state == dialing && h.kind == kindRefuse:
		c.s.forget(c, false)
		c.die(refusal(b[0]).err())
		return nil
	case c.state == open && h.kind == kindCredit:
		return c.takeCredit(word(b))
	case c.state == open && h.kind == kindFin && !c.gotFin:
		c.takeFin()
		return nil
	case c.state != dialing && h.kind == kindReset:
		c.takeReset()
		return nil
	}
	return broke("%s on stream %d, where none is due", h.kind, h.id)
}

func (c *Conn) accepted(window int) error {
	if window < 1 || window > maxWindow {
		return broke("accept with a window of %d bytes", window)
	}
	c.peerWindow, c.credit = window, window
	c.state = open
	close(c.answered)
	return nil
}

// takeCredit takes credit, which is never for more than what we have sent.
func (c *Conn) takeCredit(n int) error {
	if n < 1 || n > c.peerWindow-c.credit {
		return broke("credit of %d bytes on stream %d where %d are out", n, c.id, c.peerWindow-c.credit)
	}
	c.credit += n
	c.writable.Broadcast()
	return nil
}

func (c *Conn) takeFin() {
	c.gotFin, c.space = true, 0
	c.readable.Broadcast()
	if c.sentFin {
		c.s.forget(c, true)
	}
}

// takeReset ends the stream. After a fin that is a peer that closed: what it has
// sent is whole, and can be read to its end.
func (c *Conn) takeReset() {
	c.s.forget(c, false)
	if c.gotFin {
		c.deaf = true
		c.wake()
		return
	}
	if c.waitsAt != nil {
		c.waitsAt.remove(c)
	}
	c.die(errReset)
}
