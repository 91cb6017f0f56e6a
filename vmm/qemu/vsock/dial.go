//go:build linux

package vsock

import (
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// The host's ports of dials, above those that anybody listens on.
const (
	firstPort = 1 << 30
	lastPort  = 1<<31 - 1
)

// Dial connects to a guest port. It waits for the guest's driver, and for its
// answer, until ctx ends; a port on which nobody listens is errs.Unavailable at
// once. The caller owns the connection, which has CloseWrite() error too.
func (d *Device) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	c, err := d.request(ctx, port)
	if err == nil {
		err = c.established(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("dial guest port %d: %w", port, err)
	}
	return c, nil
}

// request waits for the driver and sends it a request.
func (d *Device) request(ctx context.Context, port uint32) (*conn, error) {
	d.srv.Lock()
	defer d.srv.Unlock()
	for {
		switch {
		case d.ended != nil:
			return nil, d.ended
		case d.broken != nil:
			return nil, errs.As(errs.Unavailable, fmt.Errorf("guest broke its socket device: %w", d.broken))
		case ctx.Err() != nil:
			return nil, fmt.Errorf("wait for the guest's driver: %w", ctx.Err())
		case d.running():
			return d.startDial(port)
		}
		change := d.change
		d.srv.Unlock()
		select {
		case <-change:
		case <-ctx.Done():
		}
		d.srv.Lock()
	}
}

func (d *Device) startDial(port uint32) (*conn, error) {
	k := key{guest: port, host: d.nextPort}
	for d.conns[k] != nil || d.listeners[k.host] != nil {
		k.host = portAfter(k.host)
	}
	c := d.newConn(k)
	if c == nil {
		return nil, errs.New(errs.ResourceExhausted, "%d connections are in use", maxConns)
	}
	d.nextPort = portAfter(k.host)
	c.dialed = make(chan struct{})
	d.owe(c, owesRequest)
	d.flush()
	return c, nil
}

func portAfter(port uint32) uint32 {
	if port == lastPort {
		return firstPort
	}
	return port + 1
}

// established waits for the guest's answer. A connection that is there is
// answered even if ctx has ended too.
func (c *conn) established(ctx context.Context) error {
	select {
	case <-c.dialed:
	case <-ctx.Done():
	}
	c.d.srv.Lock()
	defer c.d.srv.Unlock()
	if c.state == connecting {
		c.giveUp()
		return fmt.Errorf("wait for the guest's answer: %w", ctx.Err())
	}
	if c.state == dead && c.err != nil {
		c.d.discard(c) // nobody will close it
		return c.err
	}
	return nil
}

// giveUp takes a dial back. A guest that has not heard of it need not.
func (c *conn) giveUp() {
	c.closed = true
	if c.owes&owesRequest != 0 {
		c.d.remove(c, net.ErrClosed)
		return
	}
	c.d.reset(c, net.ErrClosed)
	c.d.flush()
}

// listener takes the connections that the guest makes to one port.
type listener struct {
	d       *Device
	port    uint32
	ready   sync.Cond
	backlog []*conn
	err     error // once it is closed
}

// Listen takes connections that the guest makes to a host port, from now on: it
// need not run yet. The caller owns the listener.
func (d *Device) Listen(port uint32) (net.Listener, error) {
	d.srv.Lock()
	defer d.srv.Unlock()
	if d.ended != nil {
		return nil, fmt.Errorf("listen on host port %d: %w", port, d.ended)
	}
	if d.listeners[port] != nil {
		return nil, errs.New(errs.AlreadyExists, "listener on host port %d", port)
	}
	l := &listener{d: d, port: port}
	l.ready.L = d.srv
	d.listeners[port] = l
	return l, nil
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	l.d.srv.Lock()
	defer l.d.srv.Unlock()
	for len(l.backlog) == 0 {
		if l.err != nil {
			return nil, l.err
		}
		l.ready.Wait()
	}
	c := l.backlog[0]
	l.backlog[0] = nil
	l.backlog = l.backlog[1:]
	return c, nil
}

// Close implements net.Listener. Connections that nobody has accepted are
// reset.
func (l *listener) Close() error {
	l.d.srv.Lock()
	defer l.d.srv.Unlock()
	if l.err != nil {
		return nil
	}
	delete(l.d.listeners, l.port)
	l.end(net.ErrClosed)
	l.d.flush()
	return nil
}

// end refuses what waits, and what comes.
func (l *listener) end(err error) {
	l.err = err
	for _, c := range l.backlog {
		l.d.discard(c)
	}
	l.backlog = nil
	l.ready.Broadcast()
}

// discard ends a connection that no user has come to have.
func (d *Device) discard(c *conn) {
	c.closed = true
	c.buf = fifo{}
	if !c.gone && c.state != dead {
		d.reset(c, net.ErrClosed)
	}
	c.settle()
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return Addr{hostCID, l.port} }
