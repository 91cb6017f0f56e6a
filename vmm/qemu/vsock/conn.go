//go:build linux

package vsock

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// closeLimit is how long the guest may take to acknowledge the end of a
// connection.
const closeLimit = 2 * time.Second

// state of a connection.
type state int

const (
	connecting state = iota
	open
	ended
)

// Conn is a connection. The server's lock guards all of it.
type Conn struct {
	d       *Device
	at      ports
	state   state
	err     error // why it ended, where it did not end well
	closed  bool  // by its user
	abrupt  bool  // it is reset when it is closed
	changed sync.Cond

	received  fifo
	buffer    int    // bytes that received may hold
	forwarded uint32 // bytes handed to the reader, ever
	reported  uint32 // forwarded, as the guest knows it
	sent      uint32 // bytes, ever

	guestBuffer, guestForwarded uint32 // the guest's, as it last said
	guestShut, shut             uint32 // directions that the guest and we have ended
	requested                   bool   // the guest was asked for credit

	waiting [opCreditRequest + 1]bool // operations that are to be said
	queued  bool                      // it is among the device's signals

	readBy, writeBy deadline
	closing         *time.Timer
}

// deadline is a point in time, and the timer that wakes who waits for it.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

// packet takes a valid packet of the guest. It is called with the lock held, in
// Guard.
func (c *Conn) packet(h *header, payload [][]byte) {
	c.updateCredit(h)
	c.changed.Broadcast()
	switch {
	case h.op == opReset && c.state == connecting:
		c.d.drop(c, syscall.ECONNREFUSED)
	case h.op == opReset:
		c.d.drop(c, c.lost())
	case h.op == opResponse && c.state == connecting:
		c.state = open
	case c.state != open:
		c.d.abort(c)
	case h.op == opShutdown:
		c.guestShut |= h.flags & shutBoth
		if c.guestShut == shutBoth {
			c.d.resets = append(c.d.resets, c.at)
			c.d.drop(c, nil)
		}
	case h.op == opData:
		c.data(int(h.length), payload)
	case h.op == opCreditRequest:
		c.signal(opCreditUpdate)
	case h.op == opCreditUpdate:
	default:
		c.d.abort(c)
	}
}

// lost is what a reset by the guest means: the answer to our own end, or the
// loss of what was under way.
func (c *Conn) lost() error {
	if c.closed || c.guestShut&shutSend != 0 {
		return nil
	}
	return syscall.ECONNRESET
}

func (c *Conn) updateCredit(h *header) { c.guestBuffer, c.guestForwarded = h.buffer, h.forwarded }

// data takes n bytes. More than there is room for was not granted.
func (c *Conn) data(n int, payload [][]byte) {
	if n > c.buffer-c.received.n || c.guestShut&shutSend != 0 {
		c.d.abort(c)
		return
	}
	if c.closed { // nobody reads it
		c.forwarded += uint32(n)
		return
	}
	c.received.reserve(n)
	for n > 0 {
		p := payload[0][:min(n, len(payload[0]))]
		c.received.put(p)
		n -= len(p)
		payload = payload[1:]
	}
}

// signal has an operation said as soon as there is a receive buffer for it.
func (c *Conn) signal(op operation) {
	c.waiting[op] = true
	if !c.queued {
		c.queued = true
		c.d.signals = append(c.d.signals, c)
	}
}

// sendWaiting sends the operations that wait, in the order in which they make sense, and
// reports whether none is left.
func (c *Conn) sendWaiting() bool {
	for _, op := range [...]operation{opRequest, opResponse, opCreditUpdate, opCreditRequest, opShutdown} {
		if !c.waiting[op] || c.state == ended {
			continue
		}
		h := c.header(op)
		if op == opShutdown {
			h.flags = c.shut
		}
		if _, ok := c.d.send(&h, nil); !ok {
			return false
		}
		c.waiting[op], c.reported = false, c.forwarded
	}
	c.queued = false
	return true
}

func (c *Conn) header(op operation) header {
	return header{srcPort: c.at.host, dstPort: c.at.guest, op: op, buffer: uint32(c.buffer), forwarded: c.forwarded}
}

// end makes it of no use but for reading what was received, where err is nil.
func (c *Conn) end(err error) {
	c.state, c.err = ended, err
	c.guestShut = shutBoth
	if err != nil {
		c.received = fifo{}
	}
	if c.closed {
		c.release()
	}
	if c.closing != nil {
		c.closing.Stop()
	}
	c.changed.Broadcast()
}

// Read reads what the guest has sent.
func (c *Conn) Read(b []byte) (n int, err error) {
	c.d.server.Lock()
	defer c.d.server.Unlock()
	for {
		switch {
		case c.closed:
			return 0, c.fault("read", net.ErrClosed)
		case c.readBy.passed():
			return 0, c.fault("read", os.ErrDeadlineExceeded)
		case len(b) == 0:
			return 0, nil
		case c.received.n > 0:
			n = c.received.take(b)
			c.d.guard(func() { c.took(n) })
			return n, nil
		case c.err != nil:
			return 0, c.fault("read", c.err)
		case c.guestShut&shutSend != 0:
			return 0, io.EOF
		}
		c.changed.Wait()
	}
}

// took counts bytes that the reader has taken. The guest is told when it could
// run dry: Linux sends no more than the smaller of both buffers, and does not
// ask.
func (c *Conn) took(n int) {
	c.forwarded += uint32(n)
	smaller := min(uint32(c.buffer), c.guestBuffer)
	if c.state == open && c.guestShut&shutSend == 0 && c.forwarded-c.reported >= smaller/2 {
		c.signal(opCreditUpdate)
	}
}

// Write sends to the guest, and blocks while that has no room.
func (c *Conn) Write(b []byte) (n int, err error) {
	for {
		k, err := c.writeSome(b[n:min(len(b), n+maxPayload)])
		if n += k; err != nil || n == len(b) {
			return n, err
		}
	}
}

// writeSome sends some of b, at least a byte.
func (c *Conn) writeSome(b []byte) (n int, err error) {
	c.d.server.Lock()
	defer c.d.server.Unlock()
	for {
		switch {
		case c.closed || c.shut&shutSend != 0:
			return 0, c.fault("write", net.ErrClosed)
		case c.err != nil:
			return 0, c.fault("write", c.err)
		case c.guestShut&shutReceive != 0:
			return 0, c.fault("write", syscall.EPIPE)
		case c.writeBy.passed():
			return 0, c.fault("write", os.ErrDeadlineExceeded)
		case len(b) == 0:
			return 0, nil
		}
		c.d.guard(func() { n = c.push(b) })
		if n > 0 {
			return n, nil
		}
		c.changed.Wait()
	}
}

// push sends as much of b as the guest has room for, in packets of the size of its
// receive buffers.
func (c *Conn) push(b []byte) (n int) {
	for n < len(b) {
		credit := c.availableCredit()
		if credit == 0 {
			if n == 0 && !c.requested {
				c.requested = true
				c.signal(opCreditRequest)
			}
			return n
		}
		c.requested = false
		h := c.header(opData)
		k, ok := 0, false
		if c.d.flush(); len(c.d.resets) == 0 && len(c.d.signals) == 0 { // they come first
			k, ok = c.d.send(&h, b[n:n+min(len(b)-n, credit)])
		}
		if !ok {
			if n == 0 {
				c.d.starved[c] = struct{}{}
			}
			return n
		}
		c.reported = c.forwarded
		c.sent += uint32(k)
		n += k
	}
	return n
}

// availableCredit is how many bytes the guest has granted that were not sent yet. What it
// says may be nonsense.
func (c *Conn) availableCredit() int {
	underWay := c.sent - c.guestForwarded
	if underWay >= c.guestBuffer {
		return 0
	}
	return int(min(c.guestBuffer-underWay, maxPayload))
}

// CloseWrite ends the stream to the guest, which sees its end.
func (c *Conn) CloseWrite() error {
	c.d.locked(func() { c.shutdown(shutSend) })
	return nil
}

// CloseRead has the guest know that nothing more is read.
func (c *Conn) CloseRead() error {
	c.d.locked(func() { c.shutdown(shutReceive) })
	return nil
}

// shutdown ends directions.
func (c *Conn) shutdown(what uint32) {
	if c.state != open || c.shut|what == c.shut {
		return
	}
	c.shut |= what
	c.signal(opShutdown)
	c.changed.Broadcast()
}

// Close ends the connection. What was written before reaches the guest; what the
// guest has sent and nobody has read is lost.
func (c *Conn) Close() error {
	c.d.locked(c.close)
	return nil
}

func (c *Conn) close() {
	if c.closed {
		return
	}
	c.closed = true
	c.readBy.stop()
	c.writeBy.stop()
	c.forwarded += uint32(c.received.n)
	c.received = fifo{}
	c.changed.Broadcast()
	switch {
	case c.state == ended:
		c.release()
	case c.state == connecting || c.abrupt:
		c.d.abort(c)
	default:
		c.shutdown(shutBoth)
		c.closing = time.AfterFunc(closeLimit, func() { c.d.locked(c.giveUp) })
	}
}

// giveUp resets a connection whose end the guest has not acknowledged.
func (c *Conn) giveUp() {
	if c.state != ended {
		c.d.abort(c)
	}
}

// release is the last of a connection.
func (c *Conn) release() {
	c.d.live--
	c.d.granted -= c.buffer
}

// SetLinger, with 0, has Close reset the connection, as that of net.TCPConn does.
func (c *Conn) SetLinger(seconds int) error {
	c.d.locked(func() { c.abrupt = seconds == 0 })
	return nil
}

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	c.set(&c.readBy, t)
	c.set(&c.writeBy, t)
	return nil
}

// SetReadDeadline bounds Read.
func (c *Conn) SetReadDeadline(t time.Time) error { c.set(&c.readBy, t); return nil }

// SetWriteDeadline bounds Write.
func (c *Conn) SetWriteDeadline(t time.Time) error { c.set(&c.writeBy, t); return nil }

func (c *Conn) set(d *deadline, t time.Time) {
	c.d.server.Lock()
	defer c.d.server.Unlock()
	d.stop()
	d.at = t
	if !t.IsZero() && !c.closed {
		d.timer = time.AfterFunc(time.Until(t), func() {
			c.d.server.Lock()
			defer c.d.server.Unlock()
			c.changed.Broadcast()
		})
	}
	c.changed.Broadcast()
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

func (c *Conn) fault(op string, err error) error {
	return &net.OpError{Op: op, Net: "vsock", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// LocalAddr is the host's end.
func (c *Conn) LocalAddr() net.Addr { return Addr{HostCID, c.at.host} }

// RemoteAddr is the guest's.
func (c *Conn) RemoteAddr() net.Addr { return Addr{c.d.cid, c.at.guest} }
