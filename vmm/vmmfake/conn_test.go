package vmmfake

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"
)

func TestConn(t *testing.T) {
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		a, b := newConns(addr{2, 1}, addr{3, 1}, func() {})
		return a, b, func() { a.Close(); b.Close() }, nil
	})
}

func TestConnHoldsNoMoreThanItsBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newConns(addr{}, addr{}, func() {})
		a.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := a.Write(make([]byte, 2*pipeSize))
		if n != pipeSize || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("wrote %d: %v", n, err)
		}
		if n, err := io.ReadFull(b, make([]byte, 100)); n != 100 || err != nil {
			t.Errorf("read %d: %v", n, err)
		}
		a.SetWriteDeadline(time.Time{})
		if n, err := a.Write(make([]byte, 100)); n != 100 || err != nil {
			t.Errorf("wrote %d: %v", n, err)
		}
	})
}

func TestConnEnds(t *testing.T) {
	a, b := newConns(addr{}, addr{}, func() {})
	a.Write([]byte("last words"))
	a.Close()
	if got, err := io.ReadAll(b); string(got) != "last words" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := b.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("got %v", err)
	}
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
	c, d := newConns(addr{}, addr{}, func() {})
	c.Write([]byte("lost"))
	c.reset(syscall.ECONNRESET)
	if _, err := d.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v", err)
	}
}

func TestListenerBacklogIsBounded(t *testing.T) {
	l := newListener(addr{}, func() {})
	var closed int
	for i := range maxBacklog + 1 {
		c, _ := newConns(addr{}, addr{}, func() { closed++ })
		if took := l.offer(c); took != (i < maxBacklog) {
			t.Fatalf("offer %d: %v", i, took)
		}
	}
	l.Close()
	l.Close()
	if closed != maxBacklog {
		t.Errorf("%d of what nobody accepted were closed", closed)
	}
	c, _ := newConns(addr{}, addr{}, func() {})
	if l.offer(c) {
		t.Error("taken after the close")
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}
