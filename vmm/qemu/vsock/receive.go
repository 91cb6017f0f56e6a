//go:build linux

package vsock

import (
	"github.com/vzcompose/vzcompose/vmm/qemu/vhostuser"
)

// take works on packets of the guest, a batch at most, and answers whether there
// are more. It holds back while too many answers wait for the guest's buffers:
// VIRTIO 1.2, 5.10.6.1.1. The lock is held, in Guard.
func (d *Device) take() (more bool) {
	tx := d.tx()
	tx.RefuseKicks()
	more = d.takeBatch(tx)
	tx.Notify()
	return d.pump() || more
}

func (d *Device) takeBatch(tx *vhostuser.Queue) (more bool) {
	for range batch {
		if d.resets.full() {
			d.pump()
		}
		if d.resets.full() {
			d.held = true // until pump has made room
			return false
		}
		chain, ok, err := tx.Pop()
		if err != nil {
			d.broke(err)
			return false
		}
		if !ok {
			if !tx.WantKicks() {
				return false
			}
			tx.RefuseKicks()
			continue
		}
		d.packet(chain)
		tx.Push(chain.Head, 0)
	}
	return true
}

// packet takes one packet of the guest. What is not its own, or not for the
// host, is dropped without a word.
func (d *Device) packet(chain vhostuser.Chain) {
	var h header
	payload, size, ok := h.unpack(chain)
	if !ok || h.srcCID != d.cid || h.dstCID != hostCID {
		return
	}
	k := key{host: h.dstPort, guest: h.srcPort}
	c := d.conns[k]
	if h.kind != typeStream {
		d.refuse(k, &h)
		return
	}
	if c == nil {
		if h.op != opRequest || !d.accept(k, &h) {
			d.refuse(k, &h)
		}
		return
	}
	if c.state == dead {
		if h.op == opReset {
			d.remove(c, nil)
		}
		return // the reset that it owes is the answer
	}
	if int64(h.len) > int64(size) || h.len > maxPacket {
		d.reset(c, errReset)
		return
	}
	c.peerSize, c.peerConsumed = h.bufAlloc, h.fwdCnt
	if c.credit() > 0 {
		c.asked = false
	}
	c.handle(&h, payload)
	if c.state == open {
		c.checkCredit()
		if c.due() {
			d.line.add(c)
		}
	}
}

// refuse answers a packet of no connection.
func (d *Device) refuse(k key, h *header) {
	if h.op == opReset {
		return
	}
	d.stats.Resets++
	d.resets.push(reset{key: k, kind: h.kind})
}

// accept makes a connection of a request of the guest, if somebody listens.
func (d *Device) accept(k key, h *header) bool {
	l := d.listeners[k.host]
	if l == nil || len(l.backlog) >= maxBacklog {
		return false
	}
	c := d.newConn(k)
	if c == nil {
		return false
	}
	c.state = open
	c.peerSize, c.peerConsumed = h.bufAlloc, h.fwdCnt
	l.backlog = append(l.backlog, c)
	l.ready.Signal()
	d.owe(c, owesResponse)
	return true
}

// handle takes a packet of a connection that is not dead.
func (c *conn) handle(h *header, payload [][]byte) {
	d := c.d
	switch {
	case h.op == opReset:
		err := errReset
		if c.state == connecting {
			err = errRefused
		}
		d.remove(c, err)
	case h.op == opResponse && c.state == connecting:
		c.setState(open)
	case c.state != open:
		d.reset(c, errReset)
	case h.op == opShutdown:
		c.peerShutdown(h.flags & shutBoth)
	case h.op == opData:
		c.receive(payload, int(h.len))
	case h.op == opCreditRequest:
		d.owe(c, owesCredit)
	case h.op == opCredit:
	default:
		d.reset(c, errReset)
	}
}

// peerShutdown takes note of what the guest will not do any more. When it is
// done with the connection it waits for a reset; bytes that it has sent can
// still be read.
func (c *conn) peerShutdown(flags uint32) {
	c.peerShut |= flags
	if c.peerShut == shutBoth || c.closed && c.peerShut&shutSend != 0 {
		c.d.reset(c, nil)
		return
	}
	c.wake()
}

// receive takes n bytes of data: to the Read that waits, otherwise to the
// buffer. The guest may not send more than it was given credit for, nor after
// it has said that it will not.
func (c *conn) receive(payload [][]byte, n int) {
	if n > int(c.size)-c.buf.size || c.peerShut&shutSend != 0 {
		c.d.reset(c, errReset)
		return
	}
	if n == 0 {
		return
	}
	c.d.stats.FromGuest.Packets++
	c.d.stats.FromGuest.Bytes += uint64(n)
	if c.closed {
		c.consumed += uint32(n)
		return
	}
	for n > 0 {
		piece := payload[0][:min(n, len(payload[0]))]
		payload = payload[1:]
		n -= len(piece)
		if c.into != nil && c.buf.size == 0 {
			k := copy(c.into[c.filled:], piece)
			c.filled += k
			c.consumed += uint32(k)
			piece = piece[k:]
		}
		if len(piece) > 0 {
			c.buf.write(piece, int(c.size))
		}
	}
	c.readable.Broadcast()
}

// checkCredit owes the guest an update when half of what it may send has been
// consumed since it last heard. What it may send is the smaller of the two
// buffers: current kernels never use more than the size of their own, and ask
// for no update, so that a rule with only ours in it can stop both sides.
func (c *conn) checkCredit() {
	since := c.consumed - c.told
	if since > 0 && since >= min(c.size, c.peerSize)/2 && !c.closed && c.peerShut&shutSend == 0 {
		c.d.owe(c, owesCredit)
	}
}
