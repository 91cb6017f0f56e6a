//go:build linux

package vsock

import (
	"context"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm/qemu/vhostuser/vhostusertest"
)

func TestGuestIgnoresCredit(t *testing.T) {
	d, g := boot(t, false)
	backlog := g.listen(7)
	host := dial(t, d, 7)
	guest := <-backlog
	g.mu.Lock()
	g.deaf = true
	g.mu.Unlock()
	guest.Write(make([]byte, 2*fullBuffer))
	guest.awaitReset()
	got, err := io.ReadAll(host)
	if !errs.Is(err, errs.Unavailable) || len(got) > fullBuffer {
		t.Error(len(got), err)
	}
	empty(t, d)
}

func TestGuestWithoutBuffers(t *testing.T) {
	d, g := plug(t, false)
	g.noBuffers = true
	g.start()
	for range 100 {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Microsecond)
		if _, err := d.Dial(ctx, 7); !errs.Is(err, errs.DeadlineExceeded) {
			t.Fatal(err)
		}
		cancel()
	}
	empty(t, d) // nobody has heard of these dials

	// packets of no connection, more than may be answered later
	flood := make(chan struct{})
	go func() {
		defer close(flood)
		g.mu.Lock()
		defer g.mu.Unlock()
		for i := range 2 * maxResets {
			g.send(header{srcPort: uint32(i), dstPort: 1, op: opData}, []byte("x"))
		}
	}()
	await(t, func() bool {
		d.srv.Lock()
		defer d.srv.Unlock()
		return d.held && d.resets.full()
	})
	g.mu.Lock()
	g.noBuffers = false
	for i := range ringSize {
		g.offer(i)
	}
	g.rx.Notify()
	g.mu.Unlock()
	<-flood
	empty(t, d)
	await(t, func() bool { return d.Stats().Resets == 2*maxResets })
	host := g.listen(7)
	exchange(t, dial(t, d, 7), <-host, 1<<16)
}

func TestConnectionLimit(t *testing.T) {
	d, g := boot(t, false)
	backlog := g.listen(7)
	var conns []io.Closer
	for range maxConns {
		conns = append(conns, dial(t, d, 7))
	}
	if _, err := d.Dial(limit(t), 7); !errs.Is(err, errs.ResourceExhausted) {
		t.Fatal(err)
	}
	if _, err := d.Listen(5); err != nil {
		t.Fatal(err)
	}
	if g.dial(1, 5) != nil {
		t.Error("the guest got one more")
	}
	if s := d.Stats(); s.Conns != maxConns || s.Buffers > maxBuffered {
		t.Errorf("%+v", s)
	}
	// the last one, with the least buffer, works too
	var last *guestConn
	for range maxConns {
		last = <-backlog
	}
	exchange(t, conns[maxConns-1].(io.ReadWriter), last, 1<<18)
	for _, c := range conns {
		c.Close()
	}
	g.mu.Lock()
	for _, c := range g.conns {
		if len(c.buf) == 0 && c.peerShut == shutBoth {
			c.peerGone()
		}
	}
	g.mu.Unlock()
	empty(t, d)
}

func TestBacklogLimit(t *testing.T) {
	d, g := boot(t, false)
	l, err := d.Listen(5)
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxBacklog {
		if g.dial(uint32(i), 5) == nil {
			t.Fatal("refused", i)
		}
	}
	if g.dial(maxBacklog, 5) != nil {
		t.Error("one more than the backlog holds")
	}
	l.Close()
	empty(t, d)
}

func TestManyInTurnLeaveNothing(t *testing.T) {
	d, g := boot(t, false)
	backlog := g.listen(7)
	before, fds := runtime.NumGoroutine(), openFiles(t)
	for i := range 1000 {
		host := dial(t, d, 7)
		guest := <-backlog
		host.SetDeadline(time.Now().Add(time.Minute))
		if i%2 == 0 {
			guest.Write([]byte("unread"))
			guest.Close()
		}
		host.Close()
	}
	empty(t, d)
	await(t, func() bool { return runtime.NumGoroutine() <= before })
	if n := openFiles(t); n != fds {
		t.Errorf("%d files, %d before", n, fds)
	}
}

func openFiles(t testing.TB) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// A machine that is gone leaves nothing either, whatever was going on.
func TestMachinesInTurnLeaveNothing(t *testing.T) {
	before, fds := runtime.NumGoroutine(), openFiles(t)
	for range 20 {
		t.Run("", func(t *testing.T) {
			d, g := boot(t, false)
			g.listen(7)
			c := dial(t, d, 7)
			go c.Write(make([]byte, 2*guestBuffer))
			go c.Read(make([]byte, 1))
			dial(t, d, 7).Close()
		})
	}
	await(t, func() bool { return runtime.NumGoroutine() <= before })
	if n := openFiles(t); n != fds {
		t.Errorf("%d files, %d before", n, fds)
	}
}

// A guest that refills its ring for ever does not keep others from the lock.
func TestEndlessGuest(t *testing.T) {
	d, g := boot(t, false)
	g.mu.Lock() // its interrupts wait
	defer g.mu.Unlock()
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		// the same packet for another machine in every place
		g.tx.SetDesc(0, g.fe.GPA(txBufAt), headerSize, 0, 0)
		g.tx.SetAvail(g.tx.Size)
		g.tx.NotifyAnyway()
		for {
			select {
			case <-stop:
				return
			default:
				g.tx.SetAvail(uint16(g.tx.Pending()) + g.tx.Size)
				g.tx.Notify()
			}
		}
	}()
	seen := map[uint16]bool{}
	await(t, func() bool { // the lock can be had, and each time there was work
		d.srv.Lock()
		defer d.srv.Unlock()
		if d.broken != nil {
			t.Fatal(d.broken)
		}
		seen[d.tx().Position()] = true
		return len(seen) > 20
	})
	d.Close()
	close(stop)
	<-done
}

func TestGuestBreaksRings(t *testing.T) {
	breaks := map[string]func(g *guest){
		"index": func(g *guest) { g.tx.SetAvail(60000) },
		"address": func(g *guest) {
			g.tx.SetDesc(200, 1<<60, 44, 0, 0)
			g.tx.Offer(200)
		},
		"rx too small": func(g *guest) {
			for i := range g.rx.Size {
				g.rx.SetDesc(i, g.fe.GPA(rxBufAt), headerSize-1, 2, 0)
			}
			g.tx.SetDesc(200, g.fe.GPA(txBufAt), 44, 0, 0)
			h := header{srcCID: guestCID, dstCID: hostCID, kind: typeStream, op: opData}
			h.encode((*[headerSize]byte)(g.fe.RAM[txBufAt:]))
			for range 200 {
				g.tx.Offer(200)
			}
		},
	}
	for name, do := range breaks {
		t.Run(name, func(t *testing.T) {
			d, g := boot(t, false)
			backlog := g.listen(7)
			host := dial(t, d, 7)
			<-backlog
			g.mu.Lock()
			g.noBuffers = true
			do(g)
			g.tx.NotifyAnyway()
			g.mu.Unlock()
			if _, err := host.Read(make([]byte, 1)); !errs.Is(err, errs.Unavailable) {
				t.Error(err)
			}
			if _, err := d.Dial(limit(t), 7); !errs.Is(err, errs.Unavailable) {
				t.Error(err)
			}
			g.stop()
			g.mu.Lock()
			g.noBuffers = false
			g.mu.Unlock()
			g.start()
			exchange(t, dial(t, d, 7), <-backlog, 1<<16)
		})
	}
}

// The front end takes the memory away: the device ends, not the process.
func TestMemoryGoesAway(t *testing.T) {
	fe, c := vhostusertest.New(t, false)
	d := New(guestCID, Unsealed())
	served := make(chan error, 1)
	go func() { served <- d.Serve(c) }()
	fe.Connect()
	fe.Share()
	rx := vhostusertest.NewRing(fe.RAM, rxRingAt, ringSize, fe.GPA)
	tx := vhostusertest.NewRing(fe.RAM, txRingAt, ringSize, fe.GPA)
	for i, r := range []*vhostusertest.Ring{rx, tx} {
		fe.Start(i, r, 0)
		fe.Enable(i, true)
	}
	fails := make(chan error, 1)
	go func() { _, err := d.Dial(context.Background(), 7); fails <- err }()
	await(t, func() bool { return d.Stats().Conns == 1 })
	if err := fe.File.Truncate(0); err != nil {
		t.Fatal(err)
	}
	tx.Kick.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0})
	if err := <-served; !errs.Is(err, errs.DataLoss) {
		t.Error(err)
	}
	if err := <-fails; !errs.Is(err, errs.Unavailable) {
		t.Error(err)
	}
}

// Another hand writes to all of the machine's memory while it works, and the
// device does what it likes about it, but comes to an end.
func TestConcurrentMutator(t *testing.T) {
	d, g := boot(t, true)
	backlog := g.listen(7)
	l, _ := d.Listen(5)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	for range 4 {
		host := dial(t, d, 7)
		<-backlog
		go io.Copy(host, host)
	}
	random := rand.New(rand.NewPCG(1, 2))
	var packet [headerSize]byte
	for range 200_000 {
		switch random.IntN(4) {
		case 0: // the rings and tables
			g.fe.RAM[rxRingAt+random.IntN(0x90000)] = byte(random.Uint32())
		case 1: // a packet that is almost right
			h := header{srcCID: guestCID, dstCID: hostCID, srcPort: random.Uint32N(4), dstPort: 5,
				kind: typeStream, op: operation(random.IntN(9)), len: random.Uint32N(100), flags: random.Uint32N(4),
				bufAlloc: random.Uint32N(1 << 20), fwdCnt: random.Uint32N(100)}
			h.encode(&packet)
			copy(g.fe.RAM[txBufAt+txBufSize*random.IntN(txBufs):], packet[:])
		case 2:
			g.tx.SetAvail(uint16(random.Uint32()))
		case 3:
			g.tx.NotifyAnyway()
		}
	}
	d.srv.Lock()
	check(t, d)
	d.srv.Unlock()
	g.down = true
	g.fe.Hangup()
	d.Close()
}

// check is what is always true of a device.
func check(t testing.TB, d *Device) {
	t.Helper()
	if d.granted.bytes() > maxBuffered || d.granted.count > maxConns || len(d.conns) > d.granted.count {
		t.Fatalf("limits: %+v with %d connections", d.granted, len(d.conns))
	}
	for k, c := range d.conns {
		if c.key != k || c.gone || !c.granted || c.buf.size > int(c.size) || len(c.buf.buf) > int(c.size) {
			t.Fatalf("connection %+v", c)
		}
		if c.owes != 0 && !c.inLine {
			t.Fatalf("connection %v owes %b and is not in line", k, c.owes)
		}
	}
	for c := d.line.first; c != nil; c = c.next {
		if d.conns[c.key] != c || !c.inLine || c.next != nil && c.next.prev != c {
			t.Fatalf("line is broken at %v", c.key)
		}
	}
}
