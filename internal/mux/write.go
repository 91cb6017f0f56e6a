package mux

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// turnSize is the most that one write call takes, in bytes, after which it
	// is another stream's turn. Linux's virtio serial ports take no more in one
	// call.
	turnSize = 32 << 10
	// owedSize is how much of it may be frames other than data.
	owedSize = 8 << 10
)

// owed says which frames other than data a stream has to send.
type owed uint8

const (
	owesOpen owed = 1 << iota
	owesRefuse
	owesAccept
	owesCredit
	owesFin
	owesReset
)

// outbox is the writing side of a session. Who holds busy may write to the
// channel, with the lock given up meanwhile, and uses frame; the lock guards the
// rest.
type outbox struct {
	w       io.Writer // the channel, without a Wrapper
	busy    bool
	free    sync.Cond // told of the end of busy once the session has ended
	torn    bool      // half a frame went out: nothing may follow it
	owing   line      // streams that owe frames other than data
	writers line      // streams with data, each waiting for busy
	frame   []byte

	gathers bool // the channel takes several buffers in one call
	parts   [2][]byte
	bufs    net.Buffers
	attempt *attempt // nil where the channel has no such thing
}

// Wrapper is a channel that differs from the one under it in Read alone, as that
// of a serial port does which waits for its host: Write may be bypassed.
type Wrapper interface {
	Unwrap() io.ReadWriteCloser
}

// learn finds out what c is good for; mu is the lock.
func (o *outbox) learn(c io.ReadWriteCloser, mu *sync.Mutex) {
	if w, ok := c.(Wrapper); ok {
		c = w.Unwrap()
	}
	o.w, o.attempt, o.free.L = c, newAttempt(c), mu
	switch c.(type) {
	case *net.UnixConn, *net.TCPConn:
		o.gathers = true
	}
}

// owe notes that c has to send frames; flush or the next write sends them.
func (s *Session) owe(c *Conn, what owed) {
	if c.gone || what == 0 {
		return
	}
	c.owes |= what
	s.owing.add(&c.control)
}

// due reports whether frames other than data can be sent. The guest's side is
// silent until the host has spoken.
func (s *Session) due() bool {
	return s.err == nil && (s.greeting || s.owing.first != nil && (s.spoken || s.side == Host))
}

// flush sends what is owed, as far as that does not take waiting; what is left
// goes on by itself. The lock is held, and given up meanwhile.
func (s *Session) flush() {
	for !s.busy && s.due() {
		s.busy = true
		s.frame = s.gather(s.frame[:0])
		s.mu.Unlock()
		n, err := s.try(s.frame)
		if err != nil {
			_ = s.end(err) // the streams have it
		}
		s.mu.Lock()
		if n < len(s.frame) && s.err == nil {
			s.running.Go(func() { s.finish(n) })
			return // busy is its
		}
		s.torn = 0 < n && n < len(s.frame)
		s.pass()
	}
}

// finish writes what flush could not, from n on.
func (s *Session) finish(n int) {
	err := s.write(s.frame[n:])
	if err != nil {
		s.torn = s.torn || n > 0
		_ = s.end(err) // the streams have it
	}
	s.mu.Lock()
	s.pass()
	s.flush()
	s.mu.Unlock()
}

// pass gives busy to the writer that has waited longest, if there is one.
func (s *Session) pass() {
	s.busy = false
	s.free.Broadcast()
	if p := s.writers.first; p != nil {
		s.writers.remove(p)
		s.busy, p.of.granted = true, true
		p.of.writable.Broadcast()
	}
}

// gather appends frames that are owed, first come, first served.
func (s *Session) gather(b []byte) []byte {
	if s.greeting {
		s.greeting, s.spoken = false, true
		b = appendByte(b, kindHello, 0, version)
	}
	for s.owing.first != nil && len(b)+maxOwed <= owedSize {
		b = s.owing.first.of.settleDebts(b)
	}
	return b
}

// settleDebts appends all that c owes.
func (c *Conn) settleDebts(b []byte) []byte {
	s, owes := c.s, c.owes
	c.owes = 0
	s.owing.remove(&c.control)
	if owes&owesOpen != 0 {
		b = appendWords(b, kindOpen, c.id, c.port, uint32(s.o.Window))
	}
	if owes&owesRefuse != 0 {
		b = appendByte(b, kindRefuse, c.id, byte(c.refusal))
	}
	if owes&owesAccept != 0 {
		c.state = open
		b = appendWords(b, kindAccept, c.id, uint32(s.o.Window))
	}
	if owes&owesCredit != 0 && c.creditDue(1) {
		b = c.giveCredit(b)
	}
	if owes&owesFin != 0 {
		c.sentFin = true
		b = appendHeader(b, kindFin, c.id, 0)
	}
	if owes&owesReset != 0 {
		b = appendHeader(b, kindReset, c.id, 0)
	}
	if owes&(owesReset|owesRefuse) != 0 || c.sentFin && c.gotFin {
		s.forget(c, true)
	}
	return b
}

func (c *Conn) giveCredit(b []byte) []byte {
	n := c.consumed
	c.consumed = 0
	c.space += n
	return appendWords(b, kindCredit, c.id, uint32(n))
}

// writeFrame sends a part of p, once there is credit and it is this stream's
// turn, and answers how much.
func (c *Conn) writeFrame(p []byte) (int, error) {
	s := c.s
	for {
		if err := c.writeErr(); err != nil {
			c.stepBack()
			return 0, err
		}
		if c.granted || c.credit > 0 && !s.busy {
			return c.send(p)
		}
		if c.credit > 0 {
			s.writers.add(&c.turn)
		}
		c.writable.Wait()
	}
}

// stepBack gives up the place in the line, or the turn.
func (c *Conn) stepBack() {
	s := c.s
	s.writers.remove(&c.turn)
	if c.granted {
		c.granted = false
		s.pass()
		s.flush()
	}
}

// send writes one frame of data, and what others owe in front of it.
func (c *Conn) send(p []byte) (int, error) {
	s := c.s
	s.busy, c.granted = true, false
	b := c.settleDebts(s.frame[:0]) // an accept is among them where one is owed
	if c.creditDue(s.o.Window / 4) {
		b = c.giveCredit(b)
	}
	b = s.gather(b)
	p = p[:min(len(p), c.credit, turnSize-len(b)-headerLen)]
	s.frame = appendHeader(b, kindData, c.id, len(p))
	c.credit -= len(p)
	s.mu.Unlock()
	err := s.writeBoth(p)
	if err != nil {
		_ = s.end(err) // the streams have it
	}
	s.mu.Lock()
	s.pass() // also of a write that failed: whoever ends the session waits for it
	if err != nil {
		return 0, s.err
	}
	s.stats.out += uint64(len(p))
	s.flush()
	return len(p), nil
}

// writeBoth writes frame and p in one call. The caller has busy.
func (s *Session) writeBoth(p []byte) error {
	if !s.gathers {
		s.frame = append(s.frame, p...)
		s.stats.copiedOut += uint64(len(p))
		return s.write(s.frame)
	}
	s.parts = [2][]byte{s.frame, p}
	s.bufs = s.parts[:]
	n, err := s.bufs.WriteTo(s.w)
	s.torn = err != nil && n > 0
	s.parts[1] = nil // it is the caller's
	return err
}

func (s *Session) write(b []byte) error {
	n, err := s.w.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	s.torn = err != nil && n > 0
	return err
}

// sayBye tells the peer why the session, which has ended here, has: a channel
// need not have an end of its own. What is being written is broken off; a peer
// that has not read so far is not told. The lock is held, and given up meanwhile.
func (s *Session) sayBye(code farewell) {
	if s.attempt == nil {
		return
	}
	_ = s.attempt.setLimit(time.Unix(1, 0))
	for s.busy {
		s.free.Wait()
	}
	_ = s.attempt.setLimit(time.Time{})
	if !s.torn {
		_, _ = s.try(appendByte(nil, kindBye, 0, byte(code))) // a courtesy
	}
}

// try writes as much of b as the channel takes without waiting. The caller has
// busy.
func (s *Session) try(b []byte) (int, error) {
	if s.attempt == nil {
		return 0, nil
	}
	return s.attempt.write(b)
}

// attempt is a write that does not block.
type attempt struct {
	raw      syscall.RawConn
	setLimit func(time.Time) error // the write deadline of the channel
	once     func(fd uintptr) bool // do, made once so that no write allocates
	b        []byte
	n        int
	err      error
}

// newAttempt answers nil for a channel whose Write cannot be bypassed: only the
// standard library's own types are known to do nothing else in it.
func newAttempt(c io.Writer) *attempt {
	switch c := c.(type) {
	case *net.UnixConn:
		return attemptOn(c)
	case *net.TCPConn:
		return attemptOn(c)
	case *os.File:
		return attemptOn(c)
	}
	return nil
}

func attemptOn(c interface {
	syscall.Conn
	SetWriteDeadline(time.Time) error
}) *attempt {
	if c.SetWriteDeadline(time.Time{}) != nil {
		return nil // it is not polled: a write would block
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	a := &attempt{raw: raw, setLimit: c.SetWriteDeadline}
	a.once = a.do
	return a
}

func (a *attempt) write(b []byte) (int, error) {
	a.b, a.n, a.err = b, 0, nil
	err := a.raw.Write(a.once)
	if err == nil {
		err = a.err
	}
	a.b = nil
	return a.n, err
}

// do is one attempt, after which the poller is not asked to wait.
func (a *attempt) do(fd uintptr) bool {
	for {
		n, err := syscall.Write(int(fd), a.b)
		switch err {
		case nil:
			a.n = n
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
		default:
			a.err = err
		}
		return true
	}
}
