//go:build linux

package vsock

import (
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Addr is the address of a virtual socket.
type Addr struct{ CID, Port uint32 }

// Network is "vsock".
func (a Addr) Network() string { return "vsock" }

func (a Addr) String() string { return fmt.Sprintf("%d:%d", a.CID, a.Port) }

// Dial connects to a port of the guest. Until its driver serves sockets it waits,
// as long as ctx lets it; a port on which nobody listens is errs.Unavailable at
// once.
func (d *Device) Dial(ctx context.Context, port uint32) (*Conn, error) {
	c, err := d.dial(ctx, port)
	if err != nil {
		return nil, fmt.Errorf("dial vsock port %d: %w", port, err)
	}
	return c, nil
}

func (d *Device) dial(ctx context.Context, port uint32) (*Conn, error) {
	var c *Conn
	defer context.AfterFunc(ctx, func() {
		d.server.Lock()
		defer d.server.Unlock()
		d.usable.Broadcast()
		if c != nil {
			c.changed.Broadcast()
		}
	})()
	d.server.Lock()
	defer d.server.Unlock()
	if err := d.readyLocked(ctx); err != nil {
		return nil, err
	}
	// Resets that the guest does not take would pile up with dials that end.
	if d.live >= maxConns || len(d.resets) >= maxResets {
		return nil, errs.New(errs.ResourceExhausted, "%d connections are open, and %d resets wait for the guest", d.live, len(d.resets))
	}
	c = d.add(d.freePort(port))
	d.guard(func() { c.signal(opRequest) })
	for c.state == connecting && ctx.Err() == nil {
		c.changed.Wait()
	}
	if c.state == open {
		return c, nil
	}
	cancelled := c.state == connecting
	d.guard(c.close)
	switch {
	case cancelled:
		return nil, context.Cause(ctx)
	case d.gone:
		return nil, errs.New(errs.Unavailable, "the machine is gone")
	}
	return nil, errs.As(errs.Unavailable, c.err)
}

// freePort returns the next port of the host that has no connection with that
// of the guest. There are more ports than connections.
func (d *Device) freePort(guest uint32) ports {
	for {
		at := ports{host: d.nextPort, guest: guest}
		if d.nextPort++; d.nextPort > lastPort {
			d.nextPort = firstPort
		}
		if d.conns[at] == nil {
			return at
		}
	}
}

// Listener takes connections of the guest. The server's lock guards it.
type Listener struct {
	d       *Device
	port    uint32
	changed sync.Cond
	backlog []*Conn
	closed  bool
}

// Listen takes connections of the guest to a port of the host.
func (d *Device) Listen(port uint32) (*Listener, error) {
	d.server.Lock()
	defer d.server.Unlock()
	switch {
	case d.gone:
		return nil, errs.New(errs.Unavailable, "listen on vsock port %d: the machine is gone", port)
	case d.listeners[port] != nil:
		return nil, errs.New(errs.AlreadyExists, "somebody listens on vsock port %d already", port)
	}
	l := &Listener{d: d, port: port}
	l.changed.L = locker{d.server}
	d.listeners[port] = l
	return l, nil
}

// Accept returns the next connection.
func (l *Listener) Accept() (net.Conn, error) {
	l.d.server.Lock()
	defer l.d.server.Unlock()
	for len(l.backlog) == 0 {
		if l.closed {
			return nil, &net.OpError{Op: "accept", Net: "vsock", Addr: l.Addr(), Err: net.ErrClosed}
		}
		l.changed.Wait()
	}
	c := l.backlog[0]
	l.backlog = l.backlog[1:]
	return c, nil
}

// Close refuses connections from now on, and resets those that no one has
// accepted. Those that were accepted go on.
func (l *Listener) Close() error {
	l.d.locked(l.end)
	return nil
}

// end is called with the lock held.
func (l *Listener) end() {
	if l.closed {
		return
	}
	l.closed = true
	delete(l.d.listeners, l.port)
	for _, c := range l.backlog {
		c.abrupt = true
		c.close()
	}
	l.backlog = nil
	l.changed.Broadcast()
}

// Addr is the host's address.
func (l *Listener) Addr() net.Addr { return Addr{HostCID, l.port} }
