//go:build linux

package vsock

import (
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// linger is how long a closed connection waits for the guest's reset.
const linger = 2 * time.Second

var (
	errReset       = errs.New(errs.Unavailable, "connection was reset by the guest: %w", syscall.ECONNRESET)
	errDriverReset = errs.New(errs.Unavailable, "guest has reset its socket device: %w", syscall.ECONNRESET)
	errRefused     = errs.New(errs.Unavailable, "nobody listens: %w", syscall.ECONNREFUSED)
	errPipe        = errs.New(errs.Unavailable, "guest does not read any more: %w", syscall.EPIPE)
)

type state uint8

const (
	connecting state = iota // our request is under way
	open                    // until both have shut down, or a reset
	dead                    // owes a reset to the guest, or is not in the table any more
)

// conn is one connection. The server's lock guards all of it.
type conn struct {
	d *Device
	key
	state  state
	gone   bool          // not in the table any more
	closed bool          // by its user
	err    error         // what Read (when the buffer is empty) and Write answer
	dialed chan struct{} // of a dial: closed when it is not connecting any more

	// from the guest
	readable       sync.Cond
	buf            fifo
	size           uint32 // what buf may hold: the credit of the guest
	granted        bool   // size has not been given back
	consumed, told uint32 // bytes taken from buf, and what the guest knows of it
	into           []byte // of the Read that waits
	filled         int    // bytes in into

	// to the guest
	writable               sync.Cond
	writing                bool
	out                    []byte // what the Write that waits has not sent yet
	sent                   uint32
	peerSize, peerConsumed uint32
	asked                  bool // for credit, since there was none

	shut, peerShut uint32 // shutSend, shutReceive
	owes           owed
	inLine         bool
	prev, next     *conn

	readLimit, writeLimit, goodbye alarm
}

var _ net.Conn = (*conn)(nil)

// newConn puts a new connection in the table, or answers nil at the limit.
func (d *Device) newConn(k key) *conn {
	size, ok := d.granted.take()
	if !ok {
		return nil
	}
	c := &conn{d: d, key: k, size: size, granted: true}
	c.readable.L, c.writable.L = d.srv, d.srv
	d.conns[k] = c
	return c
}

// remove takes c out of the table. Bytes that were received can still be read,
// then err is answered (EOF if the guest has said that it sends no more).
func (d *Device) remove(c *conn, err error) {
	delete(d.conns, c.key)
	d.line.remove(c)
	c.owes, c.gone = 0, true
	c.goodbye.stop()
	c.die(err)
	c.settle()
}

// reset ends c and owes the guest a reset, until which it stays in the table.
func (d *Device) reset(c *conn, err error) {
	c.owes = owesReset
	d.line.add(c)
	c.goodbye.stop()
	c.die(err)
}

func (c *conn) die(err error) {
	if c.err == nil {
		c.err = err
	}
	c.setState(dead)
}

func (c *conn) setState(s state) {
	if c.state == connecting && c.dialed != nil {
		close(c.dialed)
	}
	c.state = s
	c.wake()
}

func (c *conn) wake() {
	c.readable.Broadcast()
	c.writable.Broadcast()
}

// settle gives the promise of a buffer back, and the buffer, when nothing more
// can come to it and nothing is to be read from it.
func (c *conn) settle() {
	if c.granted && c.gone && (c.closed || c.buf.size == 0) {
		c.granted = false
		c.buf = fifo{}
		c.d.granted.giveBack(c.size)
	}
}

// Read implements net.Conn. It answers io.EOF when the guest has shut down its
// side, after all that it has sent. Readers take turns.
func (c *conn) Read(p []byte) (int, error) {
	c.d.srv.Lock()
	defer c.d.srv.Unlock()
	for {
		switch {
		case c.closed:
			return 0, net.ErrClosed
		case c.readLimit.rung:
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		case c.into != nil: // another Read waits
		case c.buf.size > 0:
			n := c.buf.read(p)
			c.consumed += uint32(n)
			c.settle()
			c.giveCredit()
			return n, nil
		case c.peerShut&shutSend != 0:
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

// await waits for something to happen, which may put bytes into p. The packet
// that brought them has seen to the credit.
func (c *conn) await(p []byte) int {
	c.into, c.filled = p, 0
	c.readable.Wait()
	c.into = nil
	c.readable.Broadcast() // the next reader's turn
	return c.filled
}

// giveCredit tells the guest of room in the buffer, when it is time for it.
func (c *conn) giveCredit() {
	if c.state != open {
		return
	}
	if c.checkCredit(); c.owes != 0 {
		c.d.flush()
	}
}

// Write implements net.Conn. It returns when all of p lies in the guest's
// buffers, or with what does not an error. Writers take turns.
func (c *conn) Write(p []byte) (int, error) {
	c.d.srv.Lock()
	defer c.d.srv.Unlock()
	for c.writing && c.writeErr() == nil {
		c.writable.Wait()
	}
	if err := c.writeErr(); err != nil || len(p) == 0 {
		return 0, err
	}
	c.writing, c.out = true, p
	c.checkStall()
	c.d.line.add(c)
	c.d.flush()
	var err error
	for len(c.out) > 0 && err == nil {
		if err = c.writeErr(); err == nil {
			c.writable.Wait()
		}
	}
	n := len(p) - len(c.out)
	c.writing, c.out = false, nil
	c.writable.Broadcast() // the next writer's turn
	return n, err
}

func (c *conn) writeErr() error {
	switch {
	case c.closed || c.shut&shutSend != 0:
		return net.ErrClosed
	case c.writeLimit.rung:
		return os.ErrDeadlineExceeded
	case c.err != nil:
		return c.err
	case c.state != open || c.peerShut&shutReceive != 0:
		return errPipe
	}
	return nil
}

// CloseWrite tells the guest that no more data comes: it reads EOF.
func (c *conn) CloseWrite() error {
	c.d.srv.Lock()
	defer c.d.srv.Unlock()
	switch {
	case c.closed:
		return net.ErrClosed
	case c.err != nil:
		return c.err
	case c.state == open && c.shut&shutSend == 0:
		c.shut |= shutSend
		c.wake()
		c.d.owe(c, owesShutdown)
		c.d.flush()
	}
	return nil
}

// Close implements net.Conn. It does not wait; what was written reaches the
// guest. The guest has the time of linger to say goodbye.
func (c *conn) Close() error {
	c.d.srv.Lock()
	defer c.d.srv.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	c.consumed += uint32(c.buf.size)
	c.buf = fifo{}
	c.readLimit.stop()
	c.writeLimit.stop()
	if c.state == open {
		c.shut = shutBoth
		c.goodbye.fire = c.lingered
		c.goodbye.set(c.d, time.Now().Add(linger))
		c.d.owe(c, owesShutdown)
	}
	c.wake()
	c.settle()
	c.d.flush()
	return nil
}

// lingered ends a closed connection to which the guest has said nothing.
func (c *conn) lingered() {
	c.d.reset(c, nil)
	c.d.flush()
}

// Addr is one end of a connection.
type Addr struct {
	CID  uint64
	Port uint32
}

// Network implements net.Addr.
func (a Addr) Network() string { return "vsock" }

// String implements net.Addr: "CID:PORT".
func (a Addr) String() string { return fmt.Sprintf("%d:%d", a.CID, a.Port) }

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return Addr{hostCID, c.host} }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return Addr{c.d.cid, c.guest} }
