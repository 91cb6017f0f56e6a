//go:build linux

package vsock

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
)

var _ net.Conn = (*Conn)(nil)

// listening makes a listener on a port of the host.
func listening(t testing.TB, d *Device, port uint32) *Listener {
	t.Helper()
	l, err := d.Listen(port)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// accepted connects the guest's port to the host's, and returns the host's end.
func (g *guest) accepted(l *Listener, from uint32) *Conn {
	g.t.Helper()
	g.connects(from, l.port)
	c, err := l.Accept()
	if err != nil {
		g.t.Fatal(err)
	}
	return c.(*Conn)
}

// dialled has the host connect to a port of the guest, which accepts.
func (g *guest) dialled(port uint32) (*Conn, uint32) {
	g.t.Helper()
	got := make(chan *Conn, 1)
	go func() {
		c, err := g.d.Dial(g.t.Context(), port)
		if err != nil {
			g.t.Error(err)
		}
		got <- c
	}()
	synctest.Wait()
	h, _ := g.expect(opRequest)
	g.send(from(port, h.srcPort, opResponse), nil)
	return <-got, h.srcPort
}

func mustRead(t testing.TB, c *Conn, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	return b
}

// clean wants nothing left of connections.
func (g *guest) clean() {
	g.t.Helper()
	g.d.server.Lock()
	defer g.d.server.Unlock()
	if len(g.d.conns) != 0 || g.d.live != 0 || g.d.granted != 0 || len(g.d.signals) != 0 || len(g.d.resets) != 0 || len(g.d.starved) != 0 {
		g.t.Errorf("left: %d connections, %d kept, %d bytes, %d signals, %d resets, %d starved", len(g.d.conns), g.d.live,
			g.d.granted, len(g.d.signals), len(g.d.resets), len(g.d.starved))
	}
}

func TestDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuest(t, 8)
		c, host := g.dialled(5000)
		if c.RemoteAddr().String() != "3:5000" || c.RemoteAddr().Network() != "vsock" {
			t.Errorf("address %v", c.RemoteAddr())
		}
		g.data(5000, host, []byte("hello"))
		if got := mustRead(t, c, 5); string(got) != "hello" {
			t.Errorf("read %q", got)
		}
		if _, err := c.Write([]byte("well met")); err != nil {
			t.Fatal(err)
		}
		if _, p := g.expect(opData); string(p) != "well met" {
			t.Errorf("the guest got %q", p)
		}
		_ = c.Close()
		if h, _ := g.expect(opShutdown); h.flags != shutBoth {
			t.Errorf("flags %d", h.flags)
		}
		g.send(from(5000, host, opReset), nil)
		g.expectNothing()
		g.clean()
	})
}

func TestNobodyListens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuest(t, 8)
		got := make(chan error, 1)
		go func() {
			_, err := g.d.Dial(t.Context(), 7)
			got <- err
		}()
		synctest.Wait()
		h, _ := g.expect(opRequest)
		g.send(from(7, h.srcPort, opReset), nil)
		if err := <-got; !errs.Is(err, errs.Unavailable) || !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a port of the guest: %v", err)
		}
		g.send(from(9, 6000, opRequest), nil)
		if h, _ := g.expect(opReset); h.srcPort != 6000 || h.dstPort != 9 {
			t.Errorf("a port of the host: %+v", h)
		}
		l := listening(t, g.d, 6000)
		if _, err := g.d.Listen(6000); !errs.Is(err, errs.AlreadyExists) {
			t.Errorf("a second listener: %v", err)
		}
		_ = l.Close()
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept after close: %v", err)
		}
		g.send(from(9, 6000, opRequest), nil)
		g.expect(opReset)
		g.clean()
	})
}

func TestHalfClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuest(t, 8)
		l := listening(t, g.d, 6000)
		c := g.accepted(l, 9)
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if h, _ := g.expect(opShutdown); h.flags != shutSend {
			t.Errorf("flags %d", h.flags)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write after its end: %v", err)
		}
		g.data(9, 6000, []byte("still here"))
		g.shut(9, 6000, shutBoth)
		g.expect(opReset)
		if got, err := io.ReadAll(c); err != nil || string(got) != "still here" {
			t.Errorf("got %q, %v", got, err)
		}
		g.d.server.Lock()
		if g.d.live != 1 {
			t.Errorf("%d connections are kept", g.d.live)
		}
		g.d.server.Unlock()
		_ = c.Close()
		g.expectNothing()
		g.clean()

		c = g.accepted(l, 10)
		g.shut(10, 6000, shutSend)
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("read after the guest's end: %v", err)
		}
		if _, err := c.Write([]byte("late")); err != nil {
			t.Error(err)
		}
		if _, p := g.expect(opData); string(p) != "late" {
			t.Errorf("the guest got %q", p)
		}
		g.shut(10, 6000, shutReceive)
		g.expect(opReset)
		if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("write to who does not read: %v", err)
		}
		_ = c.Close()
		g.clean()
	})
}

// A guest that says nothing when a connection is closed is not waited for.
func TestCloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuest(t, 8)
		c := g.accepted(listening(t, g.d, 6000), 9)
		_ = c.Close()
		g.expect(opShutdown)
		began := time.Now()
		time.Sleep(closeLimit)
		synctest.Wait()
		g.expect(opReset)
		if took := time.Since(began); took != closeLimit {
			t.Errorf("after %v", took)
		}
		g.clean()
	})
}

func TestResetsWithLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuest(t, 8)
		c := g.accepted(listening(t, g.d, 6000), 9)
		_ = c.SetLinger(0)
		_ = c.Close()
		g.expect(opReset)
		g.clean()
	})
}

// The credit of both sides: a writer waits for the guest's, and the guest is told
// of ours when half of the smaller buffer is used.
func TestCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuest(t, 32)
		c := g.accepted(listening(t, g.d, 6000), 9)
		const room = 10 << 10
		h := from(9, 6000, opCreditUpdate)
		h.buffer = room
		g.send(h, nil)
		wrote := make(chan error, 1)
		go func() {
			_, err := c.Write(make([]byte, 2*room))
			wrote <- err
		}()
		synctest.Wait()
		got := 0
		for got < room {
			_, p := g.expect(opData)
			got += len(p)
		}
		if got != room {
			t.Errorf("%d bytes for a credit of %d", got, room)
		}
		g.expect(opCreditRequest)
		g.expectNothing()
		h.forwarded = room
		g.send(h, nil)
		if err := <-wrote; err != nil {
			t.Fatal(err)
		}
		for got < 2*room {
			_, p := g.expect(opData)
			got += len(p)
		}

		// Ours: the guest's buffer is the smaller one.
		h = from(9, 6000, opData)
		h.buffer, h.length, h.forwarded = room, room/2-1, 2*room
		g.send(h, make([]byte, h.length))
		mustRead(t, c, int(h.length))
		g.expectNothing()
		h.length = 1
		g.send(h, []byte{1})
		mustRead(t, c, 1)
		if u, _ := g.expect(opCreditUpdate); u.forwarded != room/2 || int(u.buffer) != c.buffer {
			t.Errorf("%+v", u)
		}
		g.send(from(9, 6000, opCreditRequest), nil)
		g.expect(opCreditUpdate)
	})
}

// Back-pressure where there are no receive buffers: writers wait, and go on.
func TestStarvedWriters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuest(t, 1)
		l := listening(t, g.d, 6000)
		one, two := g.accepted(l, 9), g.accepted(l, 10)
		wrote := make(chan error, 2)
		for _, c := range []*Conn{one, two} {
			go func() {
				_, err := c.Write(bytes.Repeat([]byte{byte(c.at.guest)}, 20_000))
				wrote <- err
			}()
		}
		got := map[uint32]int{}
		for got[9]+got[10] < 40_000 {
			synctest.Wait()
			h, p := g.expect(opData)
			got[h.dstPort] += len(p)
			if p[0] != byte(h.dstPort) {
				t.Fatalf("port %d got another's", h.dstPort)
			}
		}
		for range 2 {
			if err := <-wrote; err != nil {
				t.Error(err)
			}
		}
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuest(t, 4)
		c := g.accepted(listening(t, g.d, 6000), 9)
		began := time.Now()
		_ = c.SetDeadline(began.Add(time.Second))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("read: %v after %v", err, time.Since(began))
		}
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		if n, err := c.Write(make([]byte, 1<<20)); !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 || n > guestRoom {
			t.Errorf("write: %d, %v", n, err)
		}
		var timeout net.Error
		_, err := c.Read(make([]byte, 1))
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("not a timeout: %v", err)
		}
		_ = c.SetReadDeadline(time.Time{})
		read := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 1))
			read <- err
		}()
		synctest.Wait()
		_ = c.Close()
		if err := <-read; !errors.Is(err, net.ErrClosed) {
			t.Errorf("a read across Close: %v", err)
		}
	})
}

func TestDialGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuest(t, 4)
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan error, 1)
		go func() {
			_, err := g.d.Dial(ctx, 5000)
			got <- err
		}()
		synctest.Wait()
		h, _ := g.expect(opRequest)
		cancel()
		if err := <-got; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		g.expect(opReset)
		g.send(from(5000, h.srcPort, opResponse), nil) // too late
		g.expect(opReset)
		g.clean()

		fresh := New(guestCID) // no driver
		go func() {
			_, err := fresh.Dial(ctx, 5000)
			got <- errors.Join(err, fresh.Ready(ctx))
		}()
		if err := <-got; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}
