package vmmfake

import (
	"context"
	"net"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm"
)

// Vsock returns the machine's virtual sockets: those of Dial and Listen, but for
// the agent's port.
func (m *Machine) Vsock() (vmm.Vsock, error) {
	if !m.cfg.Vsock {
		return nil, errs.New(errs.NotFound, "machine %s has no virtual sockets", m.cfg.Name)
	}
	return sockets{m}, nil
}

type sockets struct{ m *Machine }

func (s sockets) CID() uint32 { return guestCID }

func (s sockets) Ready(ctx context.Context) error {
	select {
	case <-s.m.up:
		return nil
	case <-s.m.ctx.Done():
		return s.m.unavailable("await the virtual sockets")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s sockets) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	if err := vmm.CheckVsockPort(port); err != nil {
		return nil, err
	}
	return s.m.Dial(ctx, port)
}

func (s sockets) Listen(port uint32) (net.Listener, error) {
	if err := vmm.CheckVsockPort(port); err != nil {
		return nil, err
	}
	return s.m.Listen(port)
}
