//go:build linux

package vsock

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/vmm/qemu/vhostuser"
	"github.com/vzcompose/vzcompose/vmm/qemu/vhostuser/vhostusertest"
)

const (
	guestCID  = 3
	guestGPA  = 0x10000
	ringSize  = 64
	rxRingAt  = 0
	txRingAt  = vhostusertest.RingBytes
	rxDataAt  = 2 * vhostusertest.RingBytes
	rxSize    = headerLen + 4096
	txDataAt  = rxDataAt + ringSize*8192
	txSize    = headerLen + maxPayload
	guestRAM  = txDataAt + 128<<10
	guestRoom = 256 << 10
)

// guest is the driver and the sockets of a guest, without QEMU between: nothing
// happens but in the calls of a test. It keeps to no rule by itself.
type guest struct {
	t      testing.TB
	d      *Device
	ram    []byte
	rx, tx *vhostusertest.Ring
	at     map[uint16]uint64 // where the receive buffer of a chain is
	free   []uint64          // receive buffers that are not posted
}

// newGuest makes a guest whose driver serves sockets, with so many receive
// buffers.
func newGuest(t testing.TB, buffers int) *guest {
	t.Helper()
	g := &guest{t: t, d: New(guestCID), at: map[uint16]uint64{}}
	ram, err := unix.Mmap(-1, 0, guestRAM, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(ram) })
	g.ram = ram
	gpa := func(at uint64) uint64 { return guestGPA + at }
	g.rx, g.tx = vhostusertest.NewRing(ram, rxRingAt, ringSize, gpa), vhostusertest.NewRing(ram, txRingAt, ringSize, gpa)
	for i := range ringSize {
		g.free = append(g.free, rxDataAt+uint64(i)*8192)
	}
	ring := func(at uint64) vhostuser.Ring {
		return vhostuser.Ring{Size: ringSize, Desc: at + vhostusertest.DescAt, Avail: at + vhostusertest.AvailAt, Used: at + vhostusertest.UsedAt}
	}
	if err := g.d.server.StartOffline(ram, guestGPA, []vhostuser.Ring{ring(rxRingAt), ring(txRingAt)}); err != nil {
		t.Fatal(err)
	}
	g.post(buffers)
	return g
}

func (g *guest) kick(queue int) {
	for g.d.server.KickOffline(queue) {
	}
}

// post offers n receive buffers.
func (g *guest) post(n int) {
	for range n {
		at := g.free[0]
		g.free = g.free[1:]
		head, ok := g.rx.Add(nil, []vhostusertest.Span{{At: at, Len: rxSize}})
		if !ok {
			g.t.Fatal("no room in the ring")
		}
		g.at[head] = at
	}
	if n > 0 {
		g.kick(rxQueue)
	}
}

// receive takes the next packet of the device, and posts its buffer again.
func (g *guest) receive() (header, []byte) {
	g.t.Helper()
	h, p, ok := g.packet()
	if !ok {
		g.t.Fatal("the device says nothing")
	}
	return h, p
}

func (g *guest) packet() (header, []byte, bool) {
	head, n, ok := g.rx.Used()
	if !ok {
		return header{}, nil, false
	}
	at := g.at[head]
	b := append([]byte(nil), g.ram[at:at+uint64(n)]...)
	g.free = append(g.free, at)
	g.post(1)
	return parseHeader((*[headerLen]byte)(b)), b[headerLen:], true
}

// expect wants a packet with an operation.
func (g *guest) expect(op operation) (header, []byte) {
	g.t.Helper()
	h, p := g.receive()
	if h.op != op || h.srcCID != HostCID || h.dstCID != guestCID || h.sockType != typeStream || int(h.length) != len(p) {
		g.t.Fatalf("got %+v with %d bytes, want operation %d", h, len(p), op)
	}
	return h, p
}

// expectNothing wants no packet.
func (g *guest) expectNothing() {
	g.t.Helper()
	if h, p, ok := g.packet(); ok {
		g.t.Fatalf("got %+v with %d bytes, want nothing", h, len(p))
	}
}

// send sends a packet as it is.
func (g *guest) send(h header, payload []byte) {
	g.t.Helper()
	b := h.encode()
	copy(g.ram[txDataAt:], b[:])
	copy(g.ram[txDataAt+headerLen:], payload)
	spans := []vhostusertest.Span{{At: txDataAt, Len: headerLen}}
	if len(payload) > 0 {
		spans = append(spans, vhostusertest.Span{At: txDataAt + headerLen, Len: uint32(len(payload))})
	}
	if _, ok := g.tx.Add(spans, nil); !ok {
		g.t.Fatal("the device does not take packets")
	}
	g.kick(txQueue)
	g.tx.Used()
}

// from is a packet of the guest from one of its ports to one of the host.
func from(guest, host uint32, op operation) header {
	return header{srcCID: guestCID, dstCID: HostCID, srcPort: guest, dstPort: host, sockType: typeStream, op: op, buffer: guestRoom}
}

// data is a packet with a payload.
func (g *guest) data(guest, host uint32, payload []byte) {
	g.t.Helper()
	h := from(guest, host, opData)
	h.length = uint32(len(payload))
	g.send(h, payload)
}

// shut is the end of directions.
func (g *guest) shut(guest, host, flags uint32) {
	g.t.Helper()
	h := from(guest, host, opShutdown)
	h.flags = flags
	g.send(h, nil)
}

// connects connects to a port of the host, on which somebody listens.
func (g *guest) connects(guest, host uint32) {
	g.t.Helper()
	g.send(from(guest, host, opRequest), nil)
	if h, _ := g.expect(opResponse); h.dstPort != guest || h.srcPort != host {
		g.t.Fatalf("got %+v", h)
	}
}
