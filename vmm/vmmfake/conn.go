package vmmfake

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// pipeSize is how many bytes wait in one direction, as in a virtual socket.
const pipeSize = 256 << 10

// errStopped is what a wait answers that was told to stop.
var errStopped = errors.New("stopped")

// pipe is one direction of a connection, or a process's stdio: a bounded
// buffer between one who writes and one who reads.
type pipe struct {
	mu      sync.Mutex // guards the following
	buf     []byte     // of it the bytes from head on are unread, never over pipeSize
	head    int
	ended   bool  // no more will be written
	hungUp  bool  // no more will be read
	err     error // why both ends fail at once
	changed chan struct{}
}

func newPipe() *pipe { return &pipe{changed: make(chan struct{})} }

func (p *pipe) wakeLocked() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// read answers what is there, waiting for the first byte until stop is closed.
func (p *pipe) read(b []byte, stop <-chan struct{}) (int, error) {
	for {
		if stopped(stop) {
			return 0, errStopped
		}
		p.mu.Lock()
		n, err := p.takeLocked(b)
		changed := p.changed
		p.mu.Unlock()
		if n > 0 || err != nil || len(b) == 0 {
			return n, err
		}
		select {
		case <-changed:
		case <-stop:
		}
	}
}

func (p *pipe) takeLocked(b []byte) (int, error) {
	switch {
	case p.err != nil:
		return 0, p.err
	case p.hungUp:
		return 0, net.ErrClosed
	case p.head == len(p.buf) && p.ended:
		return 0, io.EOF
	case p.head == len(p.buf):
		return 0, nil
	}
	n := copy(b, p.buf[p.head:])
	if p.head += n; p.head == len(p.buf) {
		p.buf, p.head = p.buf[:0], 0
	}
	p.wakeLocked()
	return n, nil
}

// write puts all of b in, waiting for room until stop is closed.
func (p *pipe) write(b []byte, stop <-chan struct{}) (int, error) {
	done := 0
	for {
		if stopped(stop) {
			return done, errStopped
		}
		p.mu.Lock()
		n, err := p.putLocked(b[done:])
		changed := p.changed
		p.mu.Unlock()
		done += n
		if done == len(b) || err != nil {
			return done, err
		}
		select {
		case <-changed:
		case <-stop:
		}
	}
}

func (p *pipe) putLocked(b []byte) (int, error) {
	switch {
	case p.err != nil:
		return 0, p.err
	case p.ended:
		return 0, net.ErrClosed
	case p.hungUp:
		return 0, syscall.EPIPE
	}
	n := min(len(b), pipeSize-(len(p.buf)-p.head))
	if n == 0 {
		return 0, nil
	}
	if len(p.buf)+n > cap(p.buf) && p.head > 0 {
		p.buf, p.head = p.buf[:copy(p.buf, p.buf[p.head:])], 0
	}
	p.buf = append(p.buf, b[:n]...)
	p.wakeLocked()
	return n, nil
}

// end says that no more will be written; what is there can still be read.
func (p *pipe) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	p.wakeLocked()
}

// hangUp says that no more will be read.
func (p *pipe) hangUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hungUp, p.buf, p.head = true, nil, 0
	p.wakeLocked()
}

// reset breaks it; what is in it is lost.
func (p *pipe) reset(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil && (!p.ended || !p.hungUp) {
		p.err, p.buf, p.head = err, nil, 0
	}
	p.wakeLocked()
}

func stopped(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// addr is an address of a virtual socket.
type addr struct{ cid, port uint32 }

func (a addr) Network() string { return "vsock" }
func (a addr) String() string  { return fmt.Sprintf("%d:%d", a.cid, a.port) }

// conn is one end of a connection. Like that of Virtualization.framework it has
// no half-close, so that nobody comes to rely on one.
type conn struct {
	in, out       *pipe
	local, remote addr
	rd, wd        deadline
	onClose       func()
	going         func() // blocks while whoever has this end stands still; nil: it never does
}

// newConns makes the two ends of a connection; onClose is called when one is
// closed, maybe twice.
func newConns(a, b addr, onClose func()) (*conn, *conn) {
	p, q := newPipe(), newPipe()
	return &conn{in: p, out: q, local: a, remote: b, rd: newDeadline(), wd: newDeadline(), onClose: onClose},
		&conn{in: q, out: p, local: b, remote: a, rd: newDeadline(), wd: newDeadline(), onClose: onClose}
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.in.read(b, c.rd.wait())
	if c.going != nil {
		c.going()
	}
	return n, c.fault("read", err)
}

func (c *conn) Write(b []byte) (int, error) {
	if c.going != nil {
		c.going()
	}
	n, err := c.out.write(b, c.wd.wait())
	return n, c.fault("write", err)
}

func (c *conn) fault(op string, err error) error {
	switch err {
	case nil, io.EOF:
		return err
	case errStopped:
		err = os.ErrDeadlineExceeded
	}
	return &net.OpError{Op: op, Net: "vsock", Source: c.local, Addr: c.remote, Err: err}
}

// Close ends both directions. The peer reads what was written before.
func (c *conn) Close() error {
	c.out.end()
	c.in.hangUp()
	c.onClose()
	return nil
}

func (c *conn) reset(err error) {
	c.in.reset(err)
	c.out.reset(err)
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error {
	c.rd.set(t)
	c.wd.set(t)
	return nil
}
func (c *conn) SetReadDeadline(t time.Time) error  { c.rd.set(t); return nil }
func (c *conn) SetWriteDeadline(t time.Time) error { c.wd.set(t); return nil }

// deadline is a channel that is closed while a point in time has passed.
type deadline struct {
	mu     *sync.Mutex // guards the following
	timer  *time.Timer
	passed chan struct{}
}

func newDeadline() deadline { return deadline{mu: new(sync.Mutex), passed: make(chan struct{})} }

func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.passed
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.passed // its function is about to close it
	}
	d.timer = nil
	over := stopped(d.passed)
	left := time.Until(t)
	if !t.IsZero() && left <= 0 {
		if !over {
			close(d.passed)
		}
		return
	}
	if over {
		d.passed = make(chan struct{})
	}
	if !t.IsZero() {
		ch := d.passed
		d.timer = time.AfterFunc(left, func() { close(ch) })
	}
}

// maxBacklog is how many connections wait for Accept.
const maxBacklog = 128

// listener hands on connections.
type listener struct {
	at      addr
	queue   chan net.Conn
	onClose func()

	mu   sync.Mutex // serialises offers and the close
	done chan struct{}
}

func newListener(at addr, onClose func()) *listener {
	return &listener{at: at, queue: make(chan net.Conn, maxBacklog), onClose: onClose, done: make(chan struct{})}
}

// offer reports whether c was taken.
func (l *listener) offer(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if stopped(l.done) {
		return false
	}
	select {
	case l.queue <- c:
		return true
	default:
		return false
	}
}

func (l *listener) Accept() (net.Conn, error) {
	if !stopped(l.done) {
		select {
		case c := <-l.queue:
			return c, nil
		case <-l.done:
		}
	}
	return nil, &net.OpError{Op: "accept", Net: "vsock", Addr: l.at, Err: net.ErrClosed}
}

// Close wakes Accept, and closes what nobody has accepted.
func (l *listener) Close() error {
	l.mu.Lock()
	first := !stopped(l.done)
	if first {
		close(l.done) // from here on no offer is taken
	}
	l.mu.Unlock()
	if !first {
		return nil
	}
	l.onClose()
	for {
		select {
		case c := <-l.queue:
			_ = c.Close()
		default:
			return nil
		}
	}
}

func (l *listener) Addr() net.Addr { return l.at }
