//go:build linux

package vsock

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm/qemu/vhostuser/vhostusertest"
)

// Packets that do not fit reset the connection that they are of, or are dropped.
func TestHostilePackets(t *testing.T) {
	for name, c := range map[string]struct {
		packet header
		bytes  int
		answer bool // it is reset
	}{
		"another's sender":        {header{srcCID: 4, dstCID: HostCID, srcPort: 9, dstPort: 6000, sockType: typeStream, op: opReset}, 0, false},
		"another's receiver":      {header{srcCID: guestCID, dstCID: 4, srcPort: 9, dstPort: 6000, sockType: typeStream, op: opReset}, 0, false},
		"a type that is not ours": {header{srcCID: guestCID, dstCID: HostCID, srcPort: 9, dstPort: 6000, sockType: 2, op: opData}, 0, true},
		"an operation too many":   {from(9, 6000, 99), 0, true},
		"no operation":            {from(9, 6000, 0), 0, true},
		"a second request":        {from(9, 6000, opRequest), 0, true},
		"a second response":       {from(9, 6000, opResponse), 0, true},
		"longer than its chain":   {header{srcCID: guestCID, dstCID: HostCID, srcPort: 9, dstPort: 6000, sockType: typeStream, op: opData, length: 2000}, 1000, true},
		"longer than any":         {header{srcCID: guestCID, dstCID: HostCID, srcPort: 9, dstPort: 6000, sockType: typeStream, op: opData, length: 1 << 31}, 1000, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGuest(t, 8)
				l := listening(t, g.d, 6000)
				bad, good := g.accepted(l, 9), g.accepted(l, 10)
				g.send(c.packet, make([]byte, c.bytes))
				if c.answer {
					g.expect(opReset)
					if _, err := bad.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
						t.Errorf("read: %v", err)
					}
				} else {
					g.data(9, 6000, []byte("x"))
					mustRead(t, bad, 1)
				}
				g.expectNothing()
				g.data(10, 6000, []byte("y"))
				mustRead(t, good, 1)
			})
		})
	}
}

// Data beyond the credit is not kept.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuest(t, 8)
		c := g.accepted(listening(t, g.d, 6000), 9)
		for range c.buffer / maxPayload {
			g.data(9, 6000, make([]byte, maxPayload))
		}
		g.expectNothing()
		g.data(9, 6000, []byte{1})
		g.expect(opReset)
		_ = c.Close()
		g.clean()
	})
}

// A packet without a whole header has nobody to be answered.
func TestShortPacket(t *testing.T) {
	g := newGuest(t, 8)
	if _, ok := g.tx.Add([]vhostusertest.Span{{At: txDataAt, Len: headerLen - 1}}, nil); !ok {
		t.Fatal("no room")
	}
	g.kick(txQueue)
	g.expectNothing()
	if _, _, ok := g.tx.Used(); !ok {
		t.Error("the chain did not come back")
	}
}

// A receive buffer without room for a header breaks the queue, not the host.
func TestSmallReceiveBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuest(t, 0)
		if _, ok := g.rx.Add(nil, []vhostusertest.Span{{At: rxDataAt, Len: headerLen - 1}}); !ok {
			t.Fatal("no room")
		}
		g.send(from(9, 6000, opRequest), nil)
		g.d.server.Lock()
		defer g.d.server.Unlock()
		if g.d.serves() {
			t.Error("the queue is as good as before")
		}
	})
}

// A guest that takes no packets has its own not read at last, and what it makes
// the host keep has its bounds.
func TestGuestThatTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuest(t, 0)
		l := listening(t, g.d, 6000)
		unread := 0
		for i := range uint32(20 * maxResets) {
			for _, op := range []operation{opRequest, opReset, opRequest, opRequest, opData} {
				h := from(i, 6000+i%2, op)
				b := h.encode()
				copy(g.ram[txDataAt:], b[:])
				if _, ok := g.tx.Add([]vhostusertest.Span{{At: txDataAt, Len: headerLen}}, nil); !ok {
					unread++
					continue
				}
				g.kick(txQueue)
				g.tx.Used()
			}
		}
		if unread == 0 {
			t.Error("all its packets were read")
		}
		g.d.server.Lock()
		if len(g.d.resets) > maxResets || len(g.d.signals) > maxConns || g.d.live > maxConns || len(l.backlog) > maxBacklog {
			t.Errorf("%d resets, %d signals, %d connections, %d of them in the backlog", len(g.d.resets), len(g.d.signals), g.d.live, len(l.backlog))
		}
		g.d.server.Unlock()
		if _, err := g.d.Dial(t.Context(), 1); !errs.Is(err, errs.ResourceExhausted) {
			t.Errorf("dial: %v", err)
		}
		_ = l.Close()
		for g.post(1); ; { // and goes on once it takes them
			if _, _, ok := g.packet(); !ok {
				break
			}
			g.kick(txQueue)
			for _, _, ok := g.tx.Used(); ok; _, _, ok = g.tx.Used() {
			}
		}
		g.clean()
	})
}

func TestGrants(t *testing.T) {
	granted := 0
	for i := range maxConns {
		b := grantBuffer(granted)
		if b < leastBuffer || i < 128 && b != mostBuffer {
			t.Fatalf("connection %d gets %d bytes", i, b)
		}
		granted += b
	}
	if granted > maxBytes+maxConns*leastBuffer {
		t.Errorf("%d bytes in all", granted)
	}
}

// Connections that nobody closes count until somebody does.
func TestConnectionsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuest(t, 8)
		l := listening(t, g.d, 6000)
		var all []*Conn
		for i := range uint32(maxConns) {
			c := g.accepted(l, i)
			g.data(i, 6000, []byte("kept"))
			g.shut(i, 6000, shutBoth)
			g.expect(opReset)
			all = append(all, c)
		}
		g.send(from(1, 6000, opRequest), nil)
		g.expect(opReset)
		for _, c := range all {
			mustRead(t, c, 4)
			_ = c.Close()
			_ = c.Close()
		}
		g.clean()
		_ = g.accepted(l, 1).Close()
	})
}

// A guest that gives no credit holds up who writes to it, and nobody else.
func TestNoCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuest(t, 8)
		l := listening(t, g.d, 6000)
		mean, good := g.accepted(l, 9), g.accepted(l, 10)
		for _, nonsense := range []header{{buffer: 0}, {buffer: 100, forwarded: 1 << 31}} {
			h := from(9, 6000, opCreditUpdate)
			h.buffer, h.forwarded = nonsense.buffer, nonsense.forwarded
			g.send(h, nil)
			_ = mean.SetWriteDeadline(time.Now().Add(time.Second))
			if n, err := mean.Write(make([]byte, 10)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%+v: wrote %d, %v", nonsense, n, err)
			}
		}
		g.expect(opCreditRequest) // once for both
		if _, err := good.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		g.expect(opData)
		wrote := make(chan error, 1)
		_ = mean.SetWriteDeadline(time.Time{})
		go func() {
			_, err := mean.Write(make([]byte, 10))
			wrote <- err
		}()
		synctest.Wait()
		_ = mean.Close()
		if err := <-wrote; !errors.Is(err, net.ErrClosed) {
			t.Errorf("a write across Close: %v", err)
		}
	})
}

// Packets to connections that are not there are answered with a reset, but for
// resets.
func TestStreamsThatAreGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuest(t, 8)
		for _, op := range []operation{opResponse, opShutdown, opData, opCreditUpdate, opCreditRequest, 99} {
			g.send(from(9, 6000, op), nil)
			g.expect(opReset)
		}
		g.send(from(9, 6000, opReset), nil)
		g.expectNothing()
		g.clean()
	})
}

// A guest that scribbles over all of its memory, rings included, while the host
// uses the device, breaks its own device at most.
func TestScribbledMemory(t *testing.T) {
	m := newMachine(t)
	m.run(0, 0)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for ctx.Err() == nil {
				_ = echoes(ctx, m.d, make([]byte, 10_000))
			}
		})
	}
	source := rand.New(rand.NewPCG(1, 2))
	for ctx.Err() == nil {
		place := 0x10000 + source.IntN(0x20000) // both rings
		if source.IntN(4) == 0 {
			place = source.IntN(len(m.RAM))
		}
		m.RAM[place] = byte(source.Uint32())
		if source.IntN(16) == 0 {
			m.tx.SetAvail(uint16(source.Uint32()))
			m.tx.NotifyAnyway()
			m.rx.NotifyAnyway()
		}
	}
	all.Wait()
}
