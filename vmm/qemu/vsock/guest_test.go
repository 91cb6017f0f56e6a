//go:build linux

package vsock

import (
	"io"
	"sync"
	"testing"

	"github.com/vzcompose/vzcompose/vmm/qemu/vhostuser/vhostusertest"
)

const (
	guestCID    = 3
	guestBuffer = 256 << 10

	ringSize  = 128
	rxRingAt  = 0x10000
	txRingAt  = 0x20000
	rxTableAt = 0x40000
	txTableAt = 0x80000
	rxBufAt   = 0x100000 // ringSize of rxBufSize
	rxBufSize = 8 << 10
	txBufAt   = 0x400000 // txBufs of txBufSize, in the second region
	txBufSize = 68 << 10
	txBufs    = 32
	rxPayload = 4096 // as Linux has it
)

// guest is the socket layer of a Linux guest, as far as tests need it: a driver
// on the rings of a front end, and connections with credit on top.
type guest struct {
	t      testing.TB
	fe     *vhostusertest.Frontend
	rx, tx *vhostusertest.Ring
	loops  sync.WaitGroup

	mu        sync.Mutex
	cond      *sync.Cond // anything has changed
	conns     map[key]*guestConn
	listeners map[uint32]chan *guestConn
	rxSlots   map[uint16]int // head → buffer
	txSlots   map[uint16]int
	txFree    []int
	down      bool // the rings do not run
	noBuffers bool // offer no receive buffers
	deaf      bool // take no notice of credit
	reaping   bool // interrupt context: what is sent may not wait
	outbox    []header
	seen      []header
}

// guestConn is a connection in the guest.
type guestConn struct {
	g *guest
	key
	open, reset        bool
	buf                []byte
	fwd, told          uint32
	peerAlloc, peerFwd uint32
	sent               uint32
	shut, peerShut     uint32
}

// boot makes a machine: a device that is served, and a guest whose driver runs.
func boot(t testing.TB, indirect bool) (*Device, *guest) {
	d, g := plug(t, indirect)
	g.start()
	return d, g
}

// plug makes a machine whose driver does not run yet.
func plug(t testing.TB, indirect bool) (*Device, *guest) {
	fe, c := vhostusertest.New(t, true)
	d := New(guestCID)
	served := make(chan error, 1)
	go func() { served <- d.Serve(c) }()
	g := &guest{
		t: t, fe: fe, conns: map[key]*guestConn{}, listeners: map[uint32]chan *guestConn{},
		rx: vhostusertest.NewRing(fe.RAM, rxRingAt, 2*ringSize, fe.GPA),
		tx: vhostusertest.NewRing(fe.RAM, txRingAt, 2*ringSize, fe.GPA),
	}
	g.cond = sync.NewCond(&g.mu)
	if indirect {
		g.rx.Indirect, g.tx.Indirect = rxTableAt, txTableAt
	}
	t.Cleanup(func() {
		fe.Hangup()
		if err := <-served; err != nil {
			t.Error("serve:", err)
		}
		d.Close()
		g.rx.Call.Close()
		g.tx.Call.Close()
		g.loops.Wait()
	})
	fe.Connect()
	g.rx.Kick, g.rx.Call = vhostusertest.Eventfd(t), vhostusertest.Eventfd(t)
	g.tx.Kick, g.tx.Call = vhostusertest.Eventfd(t), vhostusertest.Eventfd(t)
	g.loops.Go(func() { g.interrupts(g.rx) })
	g.loops.Go(func() { g.interrupts(g.tx) })
	return d, g
}

// start is the driver's probe, also after a reset.
func (g *guest) start() {
	g.mu.Lock()
	g.down = false
	g.rx.Reset()
	g.tx.Reset()
	g.rxSlots, g.txSlots, g.txFree = map[uint16]int{}, map[uint16]int{}, nil
	for i := range txBufs {
		g.txFree = append(g.txFree, i)
	}
	for _, c := range g.conns {
		c.reset = true
	}
	clear(g.conns)
	g.cond.Broadcast()
	if !g.noBuffers {
		for i := range ringSize {
			g.offer(i)
		}
	}
	g.mu.Unlock()
	g.fe.Share()
	g.resume([2]uint16{})
}

func (g *guest) resume(base [2]uint16) {
	g.fe.Start(0, g.rx, base[0])
	g.fe.Start(1, g.tx, base[1])
	g.fe.Enable(0, true)
	g.fe.Enable(1, true)
}

// stop is what QEMU does for a pause, or a reset.
func (g *guest) stop() (base [2]uint16) {
	g.fe.Enable(0, false)
	g.fe.Enable(1, false)
	return [2]uint16{g.fe.Stop(0), g.fe.Stop(1)}
}

func (g *guest) offer(slot int) {
	at := uint64(rxBufAt + slot*rxBufSize)
	head, ok := g.rx.Add(nil, []vhostusertest.Span{{At: at, Len: headerSize}, {At: at + headerSize, Len: rxPayload}})
	if !ok {
		g.t.Error("receive ring is full")
	}
	g.rxSlots[head] = slot
}

func (g *guest) interrupts(r *vhostusertest.Ring) {
	for r.Wait() == nil {
		g.mu.Lock()
		g.reap()
		g.mu.Unlock()
	}
}

// reap takes what the device gave back on both rings.
func (g *guest) reap() {
	g.reaping = true
	defer func() { g.reaping = false }()
	for {
		head, _, ok := g.tx.Used()
		if !ok {
			break
		}
		g.txFree = append(g.txFree, g.txSlots[head])
	}
	for len(g.outbox) > 0 && len(g.txFree) > 0 {
		h := g.outbox[0]
		g.outbox = g.outbox[1:]
		g.sendRaw(h, nil)
	}
	took := false
	for {
		head, n, ok := g.rx.Used()
		if !ok {
			break
		}
		slot := g.rxSlots[head]
		g.packet(g.fe.RAM[rxBufAt+slot*rxBufSize:][:n])
		if !g.noBuffers {
			g.offer(slot)
			took = true
		}
	}
	if took {
		g.rx.Notify()
	}
	g.cond.Broadcast()
}

func (g *guest) packet(b []byte) {
	var h header
	h.decode((*[headerSize]byte)(b))
	if h.srcCID != hostCID || h.dstCID != guestCID || int(h.len) != len(b)-headerSize {
		g.t.Errorf("packet %+v of %d bytes", h, len(b))
	}
	g.seen = append(g.seen[max(0, len(g.seen)-999):], h)
	k := key{host: h.srcPort, guest: h.dstPort}
	c := g.conns[k]
	if c == nil {
		g.newcomer(k, h)
		return
	}
	c.peerAlloc, c.peerFwd = h.bufAlloc, h.fwdCnt
	switch h.op {
	case opResponse:
		c.open = true
	case opReset:
		c.reset = true
		delete(g.conns, k)
	case opShutdown:
		c.peerShut |= h.flags
		if c.peerShut == shutBoth && len(c.buf) == 0 {
			c.peerGone()
		}
	case opData:
		c.buf = append(c.buf, b[headerSize:]...)
	case opCreditRequest:
		c.send(opCredit, 0, nil)
	}
}

// newcomer handles a packet of no connection.
func (g *guest) newcomer(k key, h header) {
	if h.op == opReset {
		return
	}
	backlog := g.listeners[k.guest]
	if h.op != opRequest || backlog == nil {
		g.send(header{srcPort: k.guest, dstPort: k.host, op: opReset}, nil)
		return
	}
	c := g.newConn(k)
	c.open, c.peerAlloc, c.peerFwd = true, h.bufAlloc, h.fwdCnt
	c.send(opResponse, 0, nil)
	backlog <- c
}

func (g *guest) newConn(k key) *guestConn {
	c := &guestConn{g: g, key: k}
	g.conns[k] = c
	return c
}

// send queues a packet; the lock is held. It waits for room in the ring.
func (g *guest) send(h header, payload []byte) bool {
	h.srcCID, h.dstCID, h.kind, h.len = guestCID, hostCID, typeStream, uint32(len(payload))
	return g.sendRaw(h, payload)
}

func (g *guest) sendRaw(h header, payload []byte) bool {
	if g.reaping && len(g.txFree) == 0 {
		g.outbox = append(g.outbox, h)
		return true
	}
	for len(g.txFree) == 0 && !g.down {
		g.cond.Wait()
	}
	if g.down {
		return false
	}
	slot := g.txFree[len(g.txFree)-1]
	g.txFree = g.txFree[:len(g.txFree)-1]
	at := uint64(txBufAt + slot*txBufSize)
	b := g.fe.RAM[at:]
	h.encode((*[headerSize]byte)(b))
	copy(b[headerSize:], payload)
	spans := []vhostusertest.Span{{At: at, Len: headerSize}}
	if len(payload) > 0 {
		spans = append(spans, vhostusertest.Span{At: at + headerSize, Len: uint32(len(payload))})
	}
	head, ok := g.tx.Add(spans, nil)
	if !ok {
		g.t.Error("transmit ring is full")
		return false
	}
	g.txSlots[head] = slot
	g.tx.Notify()
	return true
}

func (c *guestConn) send(op operation, flags uint32, payload []byte) {
	c.told = c.fwd
	c.g.send(header{srcPort: c.guest, dstPort: c.host, op: op, flags: flags,
		bufAlloc: guestBuffer, fwdCnt: c.fwd}, payload)
}

func (c *guestConn) peerGone() {
	c.send(opReset, 0, nil)
	c.reset = true
	delete(c.g.conns, c.key)
}

// listen makes a backlog for a guest port.
func (g *guest) listen(port uint32) <-chan *guestConn {
	g.mu.Lock()
	defer g.mu.Unlock()
	backlog := make(chan *guestConn, 8192)
	g.listeners[port] = backlog
	return backlog
}

// dial connects to a host port; nil when it is refused.
func (g *guest) dial(from, port uint32) *guestConn {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.newConn(key{host: port, guest: from})
	c.send(opRequest, 0, nil)
	for !c.open && !c.reset {
		g.cond.Wait()
	}
	if c.reset {
		return nil
	}
	return c
}

func (c *guestConn) Read(p []byte) (int, error) {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	for len(c.buf) == 0 {
		if c.peerShut&shutSend != 0 {
			return 0, io.EOF
		}
		if c.reset {
			return 0, errReset
		}
		c.g.cond.Wait()
	}
	n := copy(p, c.buf)
	c.buf = c.buf[:copy(c.buf, c.buf[n:])]
	c.fwd += uint32(n)
	if len(c.buf) == 0 || c.fwd-c.told >= guestBuffer/2 {
		if !c.reset {
			c.send(opCredit, 0, nil)
		}
	}
	return n, nil
}

func (c *guestConn) Write(p []byte) (int, error) {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	for done := 0; done < len(p); {
		// as Linux: the smaller of the two buffers, and no credit request
		room := int(min(c.peerAlloc, guestBuffer)) - int(c.sent-c.peerFwd)
		if c.reset || c.shut&shutSend != 0 || c.peerShut&shutReceive != 0 {
			return done, errPipe
		}
		if room <= 0 && !c.g.deaf {
			c.g.cond.Wait()
			continue
		}
		n := min(len(p)-done, maxPacket)
		if !c.g.deaf {
			n = min(n, room)
		}
		c.sent += uint32(n)
		c.send(opData, 0, p[done:done+n])
		done += n
	}
	return len(p), nil
}

// CloseWrite says that no more comes.
func (c *guestConn) CloseWrite() error { return c.shutdown(shutSend) }

// Close says that this is all; the host answers with a reset.
func (c *guestConn) Close() error { return c.shutdown(shutBoth) }

func (c *guestConn) shutdown(flags uint32) error {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	if !c.reset {
		c.shut |= flags
		c.send(opShutdown, c.shut, nil)
	}
	return nil
}

// awaitReset waits for the end of the connection.
func (c *guestConn) awaitReset() {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	for !c.reset {
		c.g.cond.Wait()
	}
}
