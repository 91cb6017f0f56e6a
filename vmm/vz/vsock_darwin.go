package vz

import (
	"context"
	"net"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm"
)

// Vsock returns the virtual sockets of the machine's container. The framework's
// device is in every machine, for the agent; whether the container may use it is
// decided by Config, as on other systems.
func (m *machine) Vsock() (vmm.Vsock, error) {
	if !m.vsock {
		return nil, errs.New(errs.NotFound, "machine %s has no virtual sockets", m.name)
	}
	return sockets{m}, nil
}

// sockets are the framework's device without the agent's port.
type sockets struct{ m *machine }

// CID is not known: the framework chooses it, and does not say.
func (s sockets) CID() uint32 { return 0 }

// Ready has nothing to wait for where the agent has been reached, which is over
// the same device.
func (s sockets) Ready(context.Context) error {
	if s.m.life.isOver() {
		return errs.New(errs.Unavailable, "machine %s is gone", s.m.name)
	}
	return nil
}

// Dial connects to a port of the guest.
func (s sockets) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	if err := vmm.CheckVsockPort(port); err != nil {
		return nil, err
	}
	return s.m.Dial(ctx, port)
}

// Listen takes connections of the guest to a port of the host.
func (s sockets) Listen(port uint32) (net.Listener, error) {
	if err := vmm.CheckVsockPort(port); err != nil {
		return nil, err
	}
	return s.m.Listen(port)
}
