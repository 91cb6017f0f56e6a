//go:build linux

package vsock

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm/qemu/vhostuser"
	"github.com/vzcompose/vzcompose/vmm/qemu/vhostuser/vhostusertest"
)

// offline is a device on a piece of memory, without front end or goroutines: a
// kick is a call.
type offline struct {
	*Device
	ram    []byte
	rx, tx *vhostusertest.Ring
}

const (
	offlineGPA  = 0x10000
	offlineSize = 1 << 20
	offlineRx   = 0x0
	offlineTx   = 0x8000
	offlineBufs = 0x20000
	offlineData = 0x80000
)

func newOffline(t testing.TB, ringSize uint16) *offline {
	ram, err := unix.Mmap(-1, 0, offlineSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(ram) })
	gpa := func(at uint64) uint64 { return offlineGPA + at }
	o := &offline{Device: New(guestCID), ram: ram,
		rx: vhostusertest.NewRing(ram, offlineRx, ringSize, gpa),
		tx: vhostusertest.NewRing(ram, offlineTx, ringSize, gpa),
	}
	if err := o.srv.StartOffline(ram, offlineGPA, []vhostuser.Ring{
		{Size: ringSize, Desc: offlineRx + vhostusertest.DescAt, Avail: offlineRx + vhostusertest.AvailAt, Used: offlineRx + vhostusertest.UsedAt},
		{Size: ringSize, Desc: offlineTx + vhostusertest.DescAt, Avail: offlineTx + vhostusertest.AvailAt, Used: offlineTx + vhostusertest.UsedAt},
	}); err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *offline) kick(q int) {
	for o.srv.KickOffline(q) {
	}
}

// send makes the guest send a packet.
func (o *offline) send(h header, n int) {
	h.srcCID, h.dstCID, h.kind, h.len = guestCID, hostCID, typeStream, uint32(n)
	h.encode((*[headerSize]byte)(o.ram[offlineData:]))
	var spans = [...]vhostusertest.Span{{At: offlineData, Len: headerSize}, {At: offlineData + headerSize, Len: uint32(n)}}
	o.tx.Add(spans[:], nil)
	o.kick(txQueue)
	o.tx.Used()
}

// offer gives the device n buffers.
func (o *offline) offer(n int) {
	for i := range n {
		at := uint64(offlineBufs + i*rxBufSize)
		var spans = [...]vhostusertest.Span{{At: at, Len: headerSize}, {At: at + headerSize, Len: rxPayload}}
		o.rx.Add(nil, spans[:])
	}
	o.kick(rxQueue)
}

// received takes the packets that the guest got.
func (o *offline) received() (got []header) {
	for {
		at, n, ok := o.rx.Used()
		if !ok {
			return got
		}
		_ = n
		desc := o.ram[offlineRx+vhostusertest.DescAt+16*int(at):]
		place := binary.LittleEndian.Uint64(desc) - offlineGPA
		var h header
		h.decode((*[headerSize]byte)(o.ram[place:]))
		got = append(got, h)
	}
}

// connect makes a connection that the guest has dialled.
func (o *offline) connect(t testing.TB) *conn {
	l, err := o.Listen(5)
	if err != nil {
		t.Fatal(err)
	}
	o.offer(1)
	o.send(header{srcPort: 99, dstPort: 5, op: opRequest, bufAlloc: guestBuffer}, 0)
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if got := o.received(); len(got) != 1 || got[0].op != opResponse || got[0].bufAlloc != fullBuffer {
		t.Fatal(got)
	}
	return c.(*conn)
}

func TestLingerEndsWithReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffline(t, 16)
		c := o.connect(t)
		o.offer(4)
		c.Close()
		if got := o.received(); len(got) != 1 || got[0].op != opShutdown || got[0].flags != shutBoth {
			t.Fatal(got)
		}
		time.Sleep(linger - time.Nanosecond)
		synctest.Wait()
		if o.Stats().Conns != 1 {
			t.Error("too early")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if got := o.received(); len(got) != 1 || got[0].op != opReset || o.Stats().Conns != 0 {
			t.Fatal(got)
		}
		o.Close()
	})
}

func TestDeadlinesMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffline(t, 16)
		c := o.connect(t)
		start := time.Now()
		c.SetReadDeadline(start.Add(time.Second))
		go func() {
			time.Sleep(time.Second / 2)
			c.SetReadDeadline(start.Add(3 * time.Second))
		}()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 3*time.Second {
			t.Error(err, time.Since(start))
		}
		if _, err := c.Read(nil); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("a deadline stays:", err)
		}
		c.SetReadDeadline(time.Time{})
		o.send(header{srcPort: 99, dstPort: 5, op: opData, bufAlloc: guestBuffer}, 5)
		if n, err := c.Read(make([]byte, 10)); n != 5 || err != nil {
			t.Error(n, err)
		}
		c.SetDeadline(start.Add(time.Hour))
		o.Close()
		if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Error(err)
		}
		if len(o.alarms) != 0 {
			t.Error("an alarm outlives the device")
		}
	})
}

// A dial that the guest answers, fills and resets at once leaves nothing.
func TestDialResetAtOnce(t *testing.T) {
	o := newOffline(t, 16)
	o.offer(4)
	c, err := o.request(context.Background(), 7)
	if err != nil {
		t.Fatal(err)
	}
	for _, op := range []operation{opResponse, opData, opReset} {
		o.send(header{srcPort: 7, dstPort: c.host, op: op, bufAlloc: guestBuffer}, 5)
	}
	if err := c.established(context.Background()); !errs.Is(err, errs.Unavailable) {
		t.Error(err)
	}
	if o.granted != (grants{}) {
		t.Errorf("%+v", o.granted)
	}
}

// The guest must hear of room at half of the smaller buffer: it uses no more
// than the size of its own, and never asks.
func TestCreditAtHalfOfTheSmallerBuffer(t *testing.T) {
	for _, guestSize := range []int{8 << 10, guestBuffer, 1 << 20} {
		o := newOffline(t, 16)
		c := o.connect(t)
		o.offer(8)
		want := min(guestSize, fullBuffer) / 2
		b := make([]byte, 4096)
		for read := 0; ; {
			o.send(header{srcPort: 99, dstPort: 5, op: opData, bufAlloc: uint32(guestSize)}, len(b))
			n, _ := c.Read(b)
			read += n
			got := o.received()
			if read < want && len(got) != 0 || read >= want && (len(got) != 1 || got[0].op != opCredit || int(got[0].fwdCnt) != read) {
				t.Fatal(guestSize, read, got)
			}
			if read >= want {
				break
			}
		}
		o.Close()
	}
}

// steady moves n bytes each way through o, as the fuzz-free data path does.
func steady(t testing.TB, o *offline, c *conn, b []byte) {
	const buffers = 32
	for i := range uint64(buffers) {
		at := offlineBufs + i*rxBufSize
		spans := [...]vhostusertest.Span{{At: at, Len: headerSize}, {At: at + headerSize, Len: rxPayload}}
		if _, ok := o.rx.Add(nil, spans[:]); !ok {
			t.Fatal("ring is full")
		}
	}
	if n, err := c.Write(b); n != len(b) || err != nil {
		t.Fatal(n, err)
	}
	h := header{srcPort: 99, dstPort: 5, op: opData, bufAlloc: guestBuffer, fwdCnt: c.sent}
	o.send(h, len(b))
	if n, err := io.ReadFull(c, b); err != nil {
		t.Fatal(n, err)
	}
	for o.rx.Pending() > 0 {
		o.rx.Used()
	}
}

func TestDataPathDoesNotAllocate(t *testing.T) {
	o := newOffline(t, 256)
	c := o.connect(t)
	b := make([]byte, 64<<10)
	n := testing.AllocsPerRun(200, func() {
		steady(t, o, c, b)
		replenish(t, o)
	})
	if n > 0 {
		t.Errorf("%v allocations for 128 KiB", n)
	}
}

// replenish takes what buffers are left back, so that steady finds room.
func replenish(t testing.TB, o *offline) {
	o.srv.Lock()
	defer o.srv.Unlock()
	rx := o.Device.rx()
	for {
		chain, ok, err := rx.Pop()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		rx.Push(chain.Head, 0)
	}
	for o.rx.Pending() > 0 {
		o.rx.Used()
	}
}

func BenchmarkBothWays(b *testing.B) {
	o := newOffline(b, 256)
	c := o.connect(b)
	data := make([]byte, 64<<10)
	b.SetBytes(2 * int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		steady(b, o, c, data)
		replenish(b, o)
	}
}

// FuzzGuest runs a script of a guest that writes memory and kicks, and of a host
// that uses what comes of it.
func FuzzGuest(f *testing.F) {
	f.Add(goodGuest())
	f.Add([]byte{1, 1, 1, 2, 3, 4, 5})
	f.Fuzz(func(t *testing.T, script []byte) {
		o := newOffline(t, 16)
		run := &fuzzRun{offline: o, t: t}
		run.l, _ = o.Listen(5)
		for len(script) > 0 {
			script = run.step(script)
			o.srv.Lock()
			check(t, o.Device)
			o.srv.Unlock()
		}
		o.Close()
		if o.granted.count != 0 {
			for _, c := range run.conns {
				c.Close()
			}
		}
		if o.granted != (grants{}) || len(o.conns) != 0 || len(o.alarms) != 0 {
			t.Fatalf("left: %+v, %d connections, %d alarms", o.granted, len(o.conns), len(o.alarms))
		}
	})
}

// goodGuest is a script with one well-formed request and two receive buffers.
func goodGuest() (script []byte) {
	le := binary.LittleEndian
	write := func(at uint16, p ...byte) {
		script = append(le.AppendUint16(append(script, 0), at), byte(len(p)))
		script = append(script, p...)
	}
	desc := func(at uint64, n uint32, flags, next uint16) []byte {
		b := le.AppendUint32(le.AppendUint64(nil, offlineGPA+at), n)
		return le.AppendUint16(le.AppendUint16(b, flags), next)
	}
	var b [headerSize]byte
	h := header{srcCID: guestCID, dstCID: hostCID, srcPort: 99, dstPort: 5, kind: typeStream, op: opRequest, bufAlloc: 4096}
	h.encode(&b)
	write(0x7000, b[:]...)
	h.op, h.len = opData, 20
	h.encode(&b)
	write(0x7100, b[:]...)
	write(offlineTx, desc(0x7000, headerSize, 0, 0)...)
	write(offlineTx+16, desc(0x7100, headerSize+20, 0, 0)...)
	write(offlineTx+vhostusertest.AvailAt, 0, 0, 2, 0, 0, 0, 1, 0)
	write(offlineRx, desc(0x7200, 44, 3, 1)...)
	write(offlineRx+16, desc(0x7300, 1024, 2, 0)...)
	write(offlineRx+vhostusertest.AvailAt, 0, 0, 1, 0, 0, 0)
	return append(script, 2, 1, 3, 2, 5, 6, 7)
}

type fuzzRun struct {
	*offline
	t     *testing.T
	l     interface{ Close() error }
	conns []*conn
}

// step does the first thing of a script and answers the rest.
func (r *fuzzRun) step(script []byte) []byte {
	op := script[0]
	script = script[1:]
	pick := func() *conn {
		if len(r.conns) == 0 {
			return nil
		}
		return r.conns[int(op>>3)%len(r.conns)]
	}
	switch op % 8 {
	case 0: // the guest writes
		if len(script) < 3 {
			return nil
		}
		at, n := int(binary.LittleEndian.Uint16(script)), min(int(script[2]), len(script)-3)
		copy(r.ram[at:], script[3:3+n])
		return script[3+n:]
	case 1, 2:
		r.srv.KickOffline(int(op%8) - 1)
	case 3:
		l := r.l.(*listener)
		if len(l.backlog) > 0 {
			c, _ := l.Accept()
			r.conns = append(r.conns, c.(*conn))
		}
	case 4: // a dial that nobody waits for
		ctx, cancel := context.WithCancel(context.Background())
		c, err := r.request(ctx, 7)
		cancel()
		if err == nil {
			_ = c.established(ctx)
		}
	case 5: // a write that may not wait
		if c := pick(); c != nil {
			r.srv.Lock()
			if c.writeErr() == nil {
				c.out = make([]byte, 9000)
				c.checkStall()
				r.line.add(c)
				r.flush()
				c.out = nil
			}
			r.srv.Unlock()
		}
	case 6: // and a read
		if c := pick(); c != nil && c.buf.size > 0 {
			_, _ = c.Read(make([]byte, 100))
		}
	case 7:
		if c := pick(); c != nil && op>>6 == 0 {
			_ = c.CloseWrite()
		} else if c != nil {
			_ = c.Close()
		}
	}
	return script
}
