//go:build linux

package vsock

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm/qemu/vhostuser/vhostusertest"
)

// machine is QEMU and a guest behind the vhost-user protocol.
type machine struct {
	*vhostusertest.Frontend
	t      *testing.T
	d      *Device
	rx, tx *vhostusertest.Ring
	served func() error
	at     map[uint16]uint64
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	fe, conn := vhostusertest.New(t, true)
	m := &machine{Frontend: fe, t: t, d: New(guestCID), at: map[uint16]uint64{}}
	served := make(chan error, 1)
	go func() { served <- m.d.Serve(conn) }()
	m.served = sync.OnceValue(func() error { return <-served })
	t.Cleanup(func() { fe.Hangup(); _ = m.served() })
	fe.Connect()
	fe.Share()
	m.rx = vhostusertest.NewRing(fe.RAM, 0x10000, ringSize, fe.GPA)
	m.tx = vhostusertest.NewRing(fe.RAM, 0x20000, ringSize, fe.GPA)
	return m
}

// run starts both queues where they stopped, or anew.
func (m *machine) run(rx, tx uint16) {
	m.t.Helper()
	m.Start(rxQueue, m.rx, rx)
	m.Start(txQueue, m.tx, tx)
	m.Enable(rxQueue, true)
	m.Enable(txQueue, true)
}

// pause stops both queues, as a paused machine does and one that is reset.
func (m *machine) pause() (rx, tx uint16) {
	m.t.Helper()
	m.Enable(rxQueue, false)
	m.Enable(txQueue, false)
	return m.Stop(rxQueue), m.Stop(txQueue)
}

func (m *machine) post(at uint64) {
	head, ok := m.rx.Add(nil, []vhostusertest.Span{{At: at, Len: rxSize}})
	if !ok {
		m.t.Error("no room in the ring")
	}
	m.at[head] = at
}

const (
	onlineRx = 0x100000
	onlineTx = 0x400000
)

// echo is a guest that accepts all connections and answers what it is told, until
// ctx ends or the machine does. It keeps to the rules of credit.
type echo struct {
	m     *machine
	conns map[ports]*echoConn
	tx    uint64 // the place of the next packet
}

type echoConn struct {
	sent, got           uint32
	hostBuf, hostFwd    uint32
	pending             []byte
	hostDone, guestDone bool
}

func (m *machine) echo(ctx context.Context) {
	e := &echo{m: m, conns: map[ports]*echoConn{}}
	for i := range uint64(ringSize) {
		m.post(onlineRx + i*8192)
	}
	m.rx.Notify()
	for ctx.Err() == nil {
		for {
			head, n, ok := m.rx.Used()
			if !ok {
				break
			}
			at := m.at[head]
			e.packet(append([]byte(nil), m.RAM[at:at+uint64(n)]...))
			m.post(at)
		}
		m.rx.Notify()
		for at, c := range e.conns {
			e.push(at, c)
		}
		if m.rx.Pending() == 0 && m.rx.Wait() != nil {
			return
		}
	}
}

func (e *echo) send(at ports, op operation, flags uint32, payload []byte) {
	for { // until there is a place
		for _, _, ok := e.m.tx.Used(); ok; _, _, ok = e.m.tx.Used() {
		}
		place := onlineTx + e.tx%ringSize*8192
		c := e.conns[at]
		h := from(at.guest, at.host, op)
		h.length, h.flags = uint32(len(payload)), flags
		if c != nil {
			h.forwarded = c.got
		}
		b := h.encode()
		if e.m.tx.Free() > 0 {
			copy(e.m.RAM[place:], b[:])
			copy(e.m.RAM[place+headerLen:], payload)
			e.m.tx.Add([]vhostusertest.Span{{At: place, Len: uint32(headerLen + len(payload))}}, nil)
			e.tx++
			e.m.tx.Notify()
			return
		}
		if e.m.tx.Wait() != nil {
			return
		}
	}
}

func (e *echo) packet(b []byte) {
	h := parseHeader((*[headerLen]byte)(b))
	at := ports{host: h.srcPort, guest: h.dstPort}
	c := e.conns[at]
	if h.op == opRequest {
		c = &echoConn{}
		e.conns[at] = c
		e.send(at, opResponse, 0, nil)
	}
	if c == nil {
		return
	}
	c.hostBuf, c.hostFwd = h.buffer, h.forwarded
	switch h.op {
	case opReset:
		delete(e.conns, at)
	case opShutdown:
		c.hostDone = true
	case opData:
		c.pending = append(c.pending, b[headerLen:]...)
	case opCreditRequest:
		e.send(at, opCreditUpdate, 0, nil)
	}
}

func (e *echo) push(at ports, c *echoConn) {
	for len(c.pending) > 0 {
		n := min(len(c.pending), int(c.hostBuf-(c.sent-c.hostFwd)), 4096)
		if n == 0 {
			return
		}
		p := c.pending[:n]
		c.pending = c.pending[n:]
		c.got += uint32(n)
		c.sent += uint32(n)
		e.send(at, opData, 0, p)
	}
	if c.hostDone && !c.guestDone {
		c.guestDone = true
		e.send(at, opShutdown, shutBoth, nil)
	}
}

// echoes talks to the guest: what it says comes back, and its end.
func echoes(ctx context.Context, d *Device, b []byte) error {
	c, err := d.Dial(ctx, 5000)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(b)
		sent <- errors.Join(err, c.CloseWrite())
	}()
	got, err := io.ReadAll(c)
	if !bytes.Equal(got, b) {
		err = errors.Join(err, errs.New(errs.DataLoss, "%d bytes came back as %d others", len(b), len(got)))
	}
	return errors.Join(err, <-sent)
}

func TestEchoOverQueues(t *testing.T) {
	m := newMachine(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dialled := make(chan error, 1)
	go func() { dialled <- errors.Join(m.d.Ready(ctx), echoes(ctx, m.d, []byte("before there is a driver"))) }()
	m.run(0, 0)
	var guest sync.WaitGroup
	guest.Go(func() { m.echo(ctx) })
	if err := <-dialled; err != nil {
		t.Fatal(err)
	}
	big := make([]byte, 1<<20)
	for i := range big {
		big[i] = byte(rand.Uint32())
	}
	if err := echoes(ctx, m.d, big); err != nil {
		t.Error(err)
	}
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			if err := echoes(ctx, m.d, big[:1+i*500]); err != nil {
				t.Errorf("number %d: %v", i, err)
			}
		})
	}
	all.Wait()
	m.d.server.Lock()
	if m.d.live != 0 || m.d.granted != 0 || len(m.d.conns) != 0 {
		t.Errorf("left: %d connections, %d kept, %d bytes", len(m.d.conns), m.d.live, m.d.granted)
	}
	m.d.server.Unlock()
	cancel()
	_, _ = m.rx.Call.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0}) // the guest waits for an interrupt
	guest.Wait()
}

// send sends a packet of a guest whose ring has room, and waits until it was taken.
func (m *machine) send(h header) {
	m.t.Helper()
	b := h.encode()
	copy(m.RAM[onlineTx:], b[:])
	if _, ok := m.tx.Add([]vhostusertest.Span{{At: onlineTx, Len: headerLen}}, nil); !ok {
		m.t.Fatal("no room")
	}
	m.tx.NotifyAnyway()
	for {
		if _, _, ok := m.tx.Used(); ok {
			return
		}
		if err := m.tx.Wait(); err != nil {
			m.t.Fatal(err)
		}
	}
}

// A paused machine keeps its connections. A driver that begins anew has lost them,
// and so has a machine that is gone.
func TestPauseResetEnd(t *testing.T) {
	m := newMachine(t)
	l := listening(t, m.d, 6000)
	m.run(0, 0)
	for i := range uint64(8) {
		m.post(onlineRx + i*8192)
	}
	accept := func(port uint32) *Conn {
		t.Helper()
		m.send(from(port, 6000, opRequest))
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return c.(*Conn)
	}
	c := accept(9)
	rx, tx := m.pause()
	if tx == 0 {
		t.Fatal("nothing was taken from the guest")
	}
	m.run(rx, tx)
	if _, err := c.Write([]byte("after the pause")); err != nil {
		t.Fatal(err)
	}
	m.pause()
	m.rx.Reset()
	m.tx.Reset()
	m.run(0, 0)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after a reset: %v", err)
	}
	for i := range uint64(8) {
		m.post(onlineRx + i*8192)
	}
	c = accept(9)
	m.Hangup()
	if err := m.served(); err != nil {
		t.Error(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after the end: %v", err)
	}
	if _, err := m.d.Dial(t.Context(), 1); !errs.Is(err, errs.Unavailable) {
		t.Errorf("dial: %v", err)
	}
	if _, err := m.d.Listen(1); !errs.Is(err, errs.Unavailable) {
		t.Errorf("listen: %v", err)
	}
	if err := m.d.Ready(t.Context()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("ready: %v", err)
	}
	if _, err := l.Accept(); err == nil {
		t.Error("it accepts from a machine that is gone")
	}
	_ = c.Close()
}
