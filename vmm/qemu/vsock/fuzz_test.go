//go:build linux

package vsock

import (
	"encoding/binary"
	"testing"

	"github.com/vzcompose/vzcompose/vmm/qemu/vhostuser/vhostusertest"
)

// FuzzPackets plays a guest and a host by a script: packets with any header,
// writes to any place of the guest's memory, rings included, receive buffers of
// any size, and what a user of the device does meanwhile.
func FuzzPackets(f *testing.F) {
	packet := func(h header) []byte {
		b := h.encode()
		return append([]byte{0}, b[:]...)
	}
	f.Add(append([]byte{1, 8, 5}, packet(from(9, 6000, opRequest))...))
	request := append([]byte{1, 8}, packet(from(9, 6000, opRequest))...)
	data := from(9, 6000, opData)
	data.length = 100
	for _, h := range []header{data, from(9, 6000, opShutdown), from(9, 6000, opReset), from(9, 6000, opCreditRequest), from(9, 6000, opRequest)} {
		f.Add(append(append(append([]byte{}, request...), packet(h)...), 4, 6, 7, 8))
	}
	f.Add([]byte{5, 5, 5, 2, 0x40, 0, 9, 3, 0, 0x10, 6, 1, 1})
	f.Fuzz(func(t *testing.T, script []byte) {
		p := &play{guest: newGuest(t, 0), script: script}
		p.l = listening(t, p.d, 6000)
		for len(p.script) > 0 {
			p.step()
			p.check()
		}
		p.d.server.Lock()
		defer p.d.server.Unlock()
		p.d.dropAll() // and with them their timers
	})
}

// play is a script that is carried out.
type play struct {
	*guest
	script []byte
	l      *Listener
	conns  []*Conn // of the host
}

// next takes n bytes of the script, zeros where it ends.
func (p *play) next(n int) []byte {
	b := make([]byte, n)
	p.script = p.script[copy(b, p.script):]
	return b
}

func (p *play) step() {
	switch p.next(1)[0] % 9 {
	case 0: // a packet of the guest
		copy(p.ram[txDataAt:], p.next(headerLen))
		p.tx.Add([]vhostusertest.Span{{At: txDataAt, Len: headerLen}, {At: txDataAt + headerLen, Len: 1000}}, nil)
		p.kickOnce(txQueue)
		p.tx.Used()
	case 1: // a receive buffer of some size
		size := rxSize
		if n := p.next(1)[0]; n < 128 {
			size = int(n)
		}
		p.rx.Add(nil, []vhostusertest.Span{{At: rxDataAt, Len: uint32(size)}})
		p.kickOnce(rxQueue)
		p.rx.Used()
	case 2: // anything anywhere
		b := p.next(3)
		p.ram[int(binary.LittleEndian.Uint16(b))%(rxDataAt)] = b[2]
		p.kickOnce(txQueue)
		p.kickOnce(rxQueue)
	case 3: // any index of a ring
		b := p.next(2)
		p.tx.SetAvail(binary.LittleEndian.Uint16(b))
		p.kickOnce(txQueue)
	default:
		p.d.server.Lock()
		defer p.d.server.Unlock()
		p.host()
	}
}

// kickOnce does not go on for ever where the guest does.
func (p *play) kickOnce(queue int) {
	for range 4 {
		if !p.d.server.KickOffline(queue) {
			return
		}
	}
}

// host does what does not block.
func (p *play) host() {
	op := p.next(1)[0] % 5
	if op == 0 && p.d.live < maxConns && len(p.d.resets) < maxResets && len(p.conns) < 64 {
		c := p.d.add(p.d.freePort(5000))
		p.conns = append(p.conns, c)
		p.d.guard(func() { c.signal(opRequest) })
	}
	if len(p.l.backlog) > 0 && len(p.conns) < 64 {
		p.conns = append(p.conns, p.l.backlog[0])
		p.l.backlog = p.l.backlog[1:]
	}
	if len(p.conns) == 0 {
		return
	}
	c := p.conns[int(p.next(1)[0])%len(p.conns)]
	p.d.guard(func() {
		switch {
		case op == 1 && c.state == open && c.shut&shutSend == 0:
			c.push(make([]byte, 5000))
		case op == 2 && c.received.n > 0:
			c.took(c.received.take(make([]byte, 300)))
		case op == 3:
			c.shutdown(shutSend)
		case op == 4:
			c.close()
		}
	})
}

// check is what holds whatever happens.
func (p *play) check() {
	d := p.d
	d.server.Lock()
	defer d.server.Unlock()
	if len(d.resets) > maxResets+maxConns || len(d.conns) > maxConns || d.live > maxConns || d.live < 0 || d.granted < 0 ||
		d.granted > maxBytes+maxConns*leastBuffer || len(p.l.backlog) > maxBacklog {
		p.t.Fatalf("%d resets, %d connections, %d kept, %d bytes granted, %d in the backlog", len(d.resets), len(d.conns), d.live, d.granted, len(p.l.backlog))
	}
	seen := map[*Conn]bool{}
	for _, c := range d.signals {
		if seen[c] || d.conns[c.at] != c || !c.queued {
			p.t.Fatal("a connection has a signal twice, or after its end")
		}
		seen[c] = true
	}
	kept, granted := 0, 0
	for at, c := range d.conns {
		if c.at != at || c.received.n > c.buffer || len(c.received.b) > c.buffer || c.state == ended || c.queued != seen[c] {
			p.t.Fatalf("connection %v holds %d of %d bytes, state %d, queued %v", at, c.received.n, c.buffer, c.state, c.queued)
		}
		kept, granted = kept+1, granted+c.buffer
	}
	for c := range d.starved {
		if d.conns[c.at] != c {
			p.t.Fatal("a connection that has ended is starved")
		}
	}
	if kept > d.live || granted > d.granted {
		p.t.Fatalf("%d connections of %d, %d bytes of %d", kept, d.live, granted, d.granted)
	}
}

// FuzzHeader reads a header and writes it again.
func FuzzHeader(f *testing.F) {
	h := from(9, 6000, opData)
	b := h.encode()
	f.Add(b[:])
	f.Fuzz(func(t *testing.T, in []byte) {
		var b [headerLen]byte
		copy(b[:], in)
		h := parseHeader(&b)
		if h.encode() != b {
			t.Errorf("%x became %+v", b, h)
		}
	})
}
