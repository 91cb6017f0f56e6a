//go:build linux

package qemu

import (
	"context"
	"net"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm"
	"github.com/vzcompose/vzcompose/vmm/qemu/vsock"
)

// guestCID is the context ID of every guest, the first that there is
// (VMADDR_CID_HOST + 1). The device is one machine's alone, so it need not tell
// machines apart, and programs find the same in all.
const guestCID = vsock.HostCID + 1

// servesDevices reports whether a machine of cfg has devices that this process
// serves: its RAM must be where this process can map it, and what is restored
// gets them afterwards, for QEMU loads no state with them.
func servesDevices(cfg *vmm.Config) bool { return len(cfg.Shares) > 0 || cfg.Vsock }

// addVsock plugs the virtual socket device in.
func (m *machine) addVsock(ctx context.Context) error {
	d := vsock.New(guestCID)
	err := m.plugServed(ctx, "vsock.0", "the virtual sockets", map[string]any{"driver": "vhost-user-vsock-pci"},
		func() (servedDevice, error) { return d, nil })
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.vsock = d
	return nil
}

// Vsock returns the machine's virtual sockets.
func (m *machine) Vsock() (vmm.Vsock, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.vsock == nil {
		return nil, errs.New(errs.NotFound, "machine %s has no virtual sockets", m.name)
	}
	return guestSockets{m.vsock}, nil
}

// guestSockets are a device as vmm.Vsock has it.
type guestSockets struct{ *vsock.Device }

// Dial connects to a port of the guest.
func (g guestSockets) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	if err := vmm.CheckVsockPort(port); err != nil {
		return nil, err
	}
	c, err := g.Device.Dial(ctx, port)
	if err != nil { // not c: an interface with a nil connection in it is not nil
		return nil, err
	}
	return c, nil
}

// Listen takes connections of the guest to a port of the host.
func (g guestSockets) Listen(port uint32) (net.Listener, error) {
	if err := vmm.CheckVsockPort(port); err != nil {
		return nil, err
	}
	l, err := g.Device.Listen(port)
	if err != nil {
		return nil, err
	}
	return l, nil
}
