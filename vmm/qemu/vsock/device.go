//go:build linux

package vsock

import (
	"context"
	"encoding/binary"
	"net"
	"slices"
	"sync"
	"syscall"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm/qemu/vhostuser"
)

// Queues of the device. The third of VIRTIO's, for events, stays in QEMU.
const (
	rxQueue = 0 // to the guest
	txQueue = 1 // from it
	queues  = 2
)

// Bounds of what a guest can make this process keep.
const (
	maxConns   = 1024
	maxBacklog = 128      // connections of one listener that no one has accepted
	maxResets  = 256      // resets that wait for a receive buffer
	maxBytes   = 64 << 20 // received bytes of all connections, see grantBuffer

	mostBuffer  = 256 << 10 // bytes of one connection; what Linux has, too
	leastBuffer = 16 << 10
)

// perKick is how many packets one kick has read before others get the lock.
const perKick = 128

// Ports of the host from which Dial connects.
const (
	firstPort = 1 << 30
	lastPort  = 1<<31 - 1
)

// Device is a virtual socket device. Make it with New.
type Device struct {
	cid    uint32
	server *vhostuser.Server

	// The server's lock guards the following.
	conns     map[ports]*Conn
	listeners map[uint32]*Listener
	live      int // connections that are open, or that their user has not closed
	granted   int // bytes of buffer that those have
	nextPort  uint32
	gone      bool

	// What waits for a receive buffer, in the order in which it is sent. While
	// anything does, the driver is asked to kick.
	resets    []ports            // of what is no connection (any more)
	signals   []*Conn            // that have something to say which is no data
	starved   map[*Conn]struct{} // whose writers wait
	txBlocked bool               // packets of the guest wait for room in resets

	usable sync.Cond // both queues run, or never will again
}

// ports name a connection.
type ports struct{ host, guest uint32 }

// New allocates the device of the guest with the given context ID.
func New(cid uint32) *Device {
	d := &Device{cid: cid, conns: map[ports]*Conn{}, listeners: map[uint32]*Listener{}, starved: map[*Conn]struct{}{}, nextPort: firstPort}
	d.server = vhostuser.NewServer(d)
	d.usable.L = locker{d.server}
	return d
}

// locker is a server as a sync.Locker.
type locker struct{ *vhostuser.Server }

// CID is the guest's context ID.
func (d *Device) CID() uint32 { return d.cid }

// Serve owns c and serves the machine behind it until that is gone, or Close.
// When it returns, all connections and listeners have ended.
func (d *Device) Serve(c *net.UnixConn) error {
	err := d.server.Serve(c)
	d.server.Lock()
	defer d.server.Unlock()
	d.gone = true
	d.dropAll()
	for _, l := range d.listeners {
		l.end()
	}
	d.usable.Broadcast()
	return err
}

// Close ends Serve.
func (d *Device) Close() error { return d.server.Close() }

// Ready blocks until the guest's driver serves sockets. The machine's end is
// errs.Unavailable.
func (d *Device) Ready(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() {
		d.server.Lock()
		defer d.server.Unlock()
		d.usable.Broadcast()
	})()
	d.server.Lock()
	defer d.server.Unlock()
	return d.readyLocked(ctx)
}

// readyLocked waits on usable, which who calls it has ctx broadcast.
func (d *Device) readyLocked(ctx context.Context) error {
	for {
		switch {
		case d.gone:
			return errs.New(errs.Unavailable, "the machine is gone")
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case d.serves():
			return nil
		}
		d.usable.Wait()
	}
}

// serves reports whether both queues run. Linux's driver has its sockets in place
// before it starts them.
func (d *Device) serves() bool {
	return d.server.Queue(rxQueue).Ready() && d.server.Queue(txQueue).Ready()
}

// Queues, Features and Config are what the driver sees (VIRTIO 1.2, 5.10.3 and
// 5.10.4).
func (d *Device) Queues() int { return queues }

// Features has none: a device without a type of sockets has streams.
func (d *Device) Features() uint64 { return 0 }

// Config is the guest's context ID.
func (d *Device) Config() []byte { return binary.LittleEndian.AppendUint64(nil, uint64(d.cid)) }

// Started goes on where both queues are there. A pause and a reset look alike
// when queues stop; a driver that has reset the device begins both at 0.
func (d *Device) Started(int) {
	if !d.serves() {
		return
	}
	if d.server.Queue(rxQueue).Position() == 0 && d.server.Queue(txQueue).Position() == 0 {
		d.dropAll()
	}
	d.server.Queue(rxQueue).Poke()
	d.server.Queue(txQueue).Poke()
	d.usable.Broadcast()
}

// Stopped has nothing to do: writers wait for receive buffers.
func (d *Device) Stopped(int) {}

// Kicked goes on with what the driver has put into a queue.
func (d *Device) Kicked(i int) (more bool) {
	if !d.serves() {
		return false
	}
	if i == txQueue {
		return d.receive()
	}
	rx := d.server.Queue(rxQueue)
	rx.RefuseKicks() // who finds too few buffers wants them again
	d.flush()
	rx.Notify()
	for c := range d.starved {
		c.changed.Broadcast()
	}
	clear(d.starved)
	if d.txBlocked && len(d.resets) < maxResets {
		d.txBlocked = false
		d.server.Queue(txQueue).Poke()
	}
	return false
}

// receive reads packets of the guest.
func (d *Device) receive() (more bool) {
	q := d.server.Queue(txQueue)
	q.RefuseKicks()
	defer d.server.Queue(rxQueue).Notify()
	defer q.Notify()
	defer d.flush()
	for range perKick {
		if len(d.resets) >= maxResets {
			if d.flush(); len(d.resets) >= maxResets {
				d.txBlocked = true // until the guest takes some
				return false
			}
		}
		c, ok, err := q.Pop()
		if err != nil {
			return false // the queue is broken, until the driver resets it
		}
		if !ok {
			if q.WantKicks() {
				q.RefuseKicks()
				continue
			}
			return false
		}
		d.packet(c.Readable)
		q.Push(c.Head, 0)
	}
	return true
}

// packet takes one packet, whose pieces lie in guest memory.
func (d *Device) packet(pieces [][]byte) {
	var b [headerLen]byte
	n, payload := gather(b[:], pieces)
	if n < headerLen {
		return // nobody to answer
	}
	h := parseHeader(&b)
	if h.srcCID != uint64(d.cid) || h.dstCID != HostCID {
		return // of others, or for others
	}
	at := ports{host: h.dstPort, guest: h.srcPort}
	c := d.conns[at]
	valid := h.sockType == typeStream && h.length <= maxPayload && uint64(h.length) <= total(payload)
	switch {
	case c != nil && !valid:
		d.abort(c)
	case c != nil:
		c.packet(&h, payload)
	case valid && h.op == opRequest:
		d.request(at, &h)
	case h.op != opReset:
		d.resets = append(d.resets, at)
	}
}

// request takes a connection of the guest to a port of the host, or refuses it.
func (d *Device) request(at ports, h *header) {
	l := d.listeners[at.host]
	if l == nil || len(l.backlog) >= maxBacklog || d.live >= maxConns {
		d.resets = append(d.resets, at)
		return
	}
	c := d.add(at)
	c.state = open
	c.updateCredit(h)
	c.signal(opResponse)
	l.backlog = append(l.backlog, c)
	l.changed.Signal()
}

// add makes a connection, which counts until it has ended and its user has closed
// it.
func (d *Device) add(at ports) *Conn {
	c := &Conn{d: d, at: at, buffer: grantBuffer(d.granted)}
	c.changed.L = locker{d.server}
	d.live++
	d.granted += c.buffer
	d.conns[at] = c
	return c
}

// grantBuffer is how many bytes a connection may have waiting, where others have
// been promised so many: a part of what is left, so that all of maxConns get
// leastBuffer at least, and few get mostBuffer.
func grantBuffer(granted int) int {
	size := mostBuffer
	for size > leastBuffer && size > (maxBytes-granted)/8 {
		size /= 2
	}
	return size
}

// drop takes a connection from the table. err is what its readers and writers get,
// nil where its stream has ended well.
func (d *Device) drop(c *Conn, err error) {
	delete(d.conns, c.at)
	delete(d.starved, c)
	if c.queued {
		d.signals = slices.DeleteFunc(d.signals, func(x *Conn) bool { return x == c })
	}
	c.end(err)
}

// dropAll ends what there is with a driver that is gone.
func (d *Device) dropAll() {
	d.resets, d.signals, d.txBlocked = nil, nil, false
	for _, c := range d.conns {
		d.drop(c, syscall.ECONNRESET)
	}
}

// abort resets a connection.
func (d *Device) abort(c *Conn) {
	d.resets = append(d.resets, c.at)
	d.drop(c, syscall.ECONNRESET)
}

// flush sends what waits for receive buffers and is no data. The driver is yet to
// be notified.
func (d *Device) flush() {
	for len(d.resets) > 0 {
		h := header{dstPort: d.resets[0].guest, srcPort: d.resets[0].host, op: opReset}
		if _, ok := d.send(&h, nil); !ok {
			return
		}
		d.resets = d.resets[1:]
	}
	d.resets = nil
	for len(d.signals) > 0 {
		if !d.signals[0].sendWaiting() {
			return
		}
		d.signals = d.signals[1:]
	}
	d.signals = nil
}

// send writes one packet to the next receive buffer, with as much of the payload
// as fits, and returns how much that was. It is not ok where there is none: the
// driver kicks when there is.
func (d *Device) send(h *header, payload []byte) (n int, ok bool) {
	q := d.server.Queue(rxQueue)
	c, ok, err := q.Pop()
	if !ok && err == nil && q.WantKicks() { // there is one meanwhile
		c, ok, err = q.Pop()
	}
	if !ok || err != nil {
		return 0, false
	}
	space := total(c.Writable)
	if len(c.Readable) > 0 || space < headerLen || space == headerLen && len(payload) > 0 {
		q.Fail(errs.New(errs.InvalidArgument, "a receive buffer of %d bytes", space))
		return 0, false
	}
	n = int(min(uint64(len(payload)), space-headerLen, maxPayload))
	h.srcCID, h.dstCID, h.sockType, h.length = HostCID, uint64(d.cid), typeStream, uint32(n)
	head := h.encode()
	scatter(scatter(c.Writable, head[:]), payload[:n])
	q.Push(c.Head, uint32(headerLen+n))
	return n, true
}

// locked runs fn, which may touch guest memory, with the lock held. The driver is
// notified of what it has sent.
func (d *Device) locked(fn func()) {
	d.server.Lock()
	defer d.server.Unlock()
	d.guard(fn)
}

func (d *Device) guard(fn func()) {
	d.server.Guard(func() {
		fn()
		d.flush()
		d.server.Queue(rxQueue).Notify()
	})
}
