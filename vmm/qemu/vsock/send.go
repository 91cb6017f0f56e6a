//go:build linux

package vsock

import (
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm/qemu/vhostuser"
)

// owed says which packets without data a connection has to send.
type owed uint8

const (
	owesRequest owed = 1 << iota
	owesResponse
	owesShutdown
	owesCredit
	owesCreditRequest
	owesReset
)

// flush sends what can be sent now. The lock is held.
func (d *Device) flush() {
	more := false
	d.srv.Guard(func() { more = d.pump() })
	if more {
		d.rx().Poke()
	}
}

// pump fills the guest's buffers with what is to be sent, a batch at most, and
// answers whether there was more. While something waits for buffers the guest
// is asked to kick; otherwise not. The lock is held, in Guard.
func (d *Device) pump() (more bool) {
	if !d.running() {
		return false
	}
	rx := d.rx()
	sent := 0
	for d.anyDue() {
		if sent == batch {
			more = true
			break
		}
		chain, ok, err := rx.Pop()
		if err != nil {
			d.broke(err)
			return false
		}
		if !ok {
			if rx.WantKicks() {
				continue
			}
			d.stats.Starved++
			break
		}
		sent++
		if !d.fill(chain) {
			return false
		}
	}
	if d.line.first == nil && d.resets.size == 0 || more {
		rx.RefuseKicks()
	}
	rx.Notify()
	if d.held && !d.resets.full() {
		d.held = false
		d.tx().Poke()
	}
	return more
}

// anyDue says whether something is to be sent, and takes connections that have
// nothing to send (any more) out of the line.
func (d *Device) anyDue() bool {
	if d.resets.size > 0 {
		return true
	}
	for d.line.first != nil && !d.line.first.due() {
		d.line.remove(d.line.first)
	}
	return d.line.first != nil
}

// fill puts the next packet into a buffer of the guest.
func (d *Device) fill(chain vhostuser.Chain) bool {
	room := length(chain.Writable)
	if len(chain.Readable) > 0 || room < headerSize {
		// VIRTIO 1.2, 5.10.6.3: write-only, and the header must fit
		d.broke(errs.New(errs.InvalidArgument, "receive buffer of %d bytes", room))
		return false
	}
	rx := d.rx()
	if d.resets.size > 0 {
		r := d.resets.pop()
		h := d.header(r.key, opReset)
		h.kind = r.kind
		rx.Push(chain.Head, h.pack(chain, nil))
		return true
	}
	c := d.line.first
	d.line.remove(c)
	op, n := c.pick(room - headerSize)
	h := d.header(c.key, op)
	h.len, h.bufAlloc, h.fwdCnt = uint32(n), c.size, c.consumed
	if op == opShutdown {
		h.flags = c.shut
	}
	rx.Push(chain.Head, h.pack(chain, c.out[:n]))
	c.packetSent(op, n)
	if op == opReset {
		d.remove(c, nil)
	} else if c.due() {
		d.line.add(c)
	}
	return true
}

func (d *Device) header(k key, op operation) header {
	return header{srcCID: hostCID, dstCID: d.cid, srcPort: k.host, dstPort: k.guest, kind: typeStream, op: op}
}

// owe notes that c has to send a packet; flush or pump sends it.
func (d *Device) owe(c *conn, what owed) {
	c.owes |= what
	d.line.add(c)
}

// due says whether c has something to send.
func (c *conn) due() bool { return c.owes != 0 || c.sendable() > 0 }

// sendable is how many bytes of what is being written the guest has room for.
func (c *conn) sendable() int {
	if c.state != open || c.shut&shutSend != 0 || c.peerShut&shutReceive != 0 {
		return 0
	}
	return min(len(c.out), int(c.credit()))
}

// credit is how many bytes the guest's buffer has room for. The counters wrap:
// VIRTIO 1.2, 5.10.6.3; what a lying guest claims is no credit.
func (c *conn) credit() uint32 {
	flying := c.sent - c.peerConsumed
	if flying >= c.peerSize {
		return 0
	}
	return c.peerSize - flying
}

// pick chooses the next packet of c, which is due: its operation, and how many
// bytes of c.out go with it if there is room for so many.
func (c *conn) pick(room int) (op operation, n int) {
	data := c.sendable()
	switch {
	case c.owes&owesReset != 0:
		return opReset, 0
	case c.owes&owesRequest != 0:
		return opRequest, 0
	case c.owes&owesResponse != 0:
		return opResponse, 0
	case data > 0 && room > 0:
		return opData, min(data, room, maxPacket)
	case c.owes&owesShutdown != 0:
		return opShutdown, 0
	case c.owes&owesCreditRequest != 0:
		return opCreditRequest, 0
	}
	// also for data that found a buffer which takes a header and no more
	return opCredit, 0
}

// packetSent keeps the books of a packet that pick chose. Every packet tells
// the guest its credit.
func (c *conn) packetSent(op operation, n int) {
	c.told = c.consumed
	c.owes &^= owesCredit
	switch op {
	case opReset:
		c.owes = 0
	case opRequest:
		c.owes &^= owesRequest
	case opResponse:
		c.owes &^= owesResponse
	case opShutdown:
		c.owes &^= owesShutdown
	case opCreditRequest:
		c.owes &^= owesCreditRequest
	case opData:
		c.dataSent(n)
	}
}

func (c *conn) dataSent(n int) {
	c.sent += uint32(n)
	c.out = c.out[n:]
	c.d.stats.ToGuest.Packets++
	c.d.stats.ToGuest.Bytes += uint64(n)
	if len(c.out) == 0 {
		c.writable.Broadcast()
		return
	}
	c.checkStall()
}

// checkStall asks for credit, once, if it is what keeps c from sending.
func (c *conn) checkStall() {
	if len(c.out) > 0 && c.credit() == 0 && !c.asked {
		c.asked = true
		c.owes |= owesCreditRequest
		c.d.stats.Stalls++
	}
}
