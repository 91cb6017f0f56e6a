//go:build linux

package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/undo"
)

// Devices that this process serves, by vhost-user, see the machine's RAM. So it is
// in a memory file that both have, sealed so that it cannot shrink beneath us. A
// machine that is restored has a copy of the template's RAM there, in place of a
// private mapping.

// sealedRAM makes the memory file of a machine with served devices, all zero. The caller
// owns it.
func sealedRAM(size uint64) (*os.File, error) {
	fd, err := unix.MemfdCreate("vzcompose-ram", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make the machine's RAM: %w", err)
	}
	f := os.NewFile(uintptr(fd), "ram")
	err = f.Truncate(int64(size))
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err != nil {
		_ = f.Close()
		return nil, errs.As(errs.ResourceExhausted, fmt.Errorf("make the machine's RAM: %w", err))
	}
	return f, nil
}

// copyRAM makes a memory file with the template's RAM. What is zero there stays
// unallocated. The caller owns it.
func (t *template) copyRAM() (_ *os.File, err error) {
	f, err := sealedRAM(uint64(t.head.Memory))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			err = errs.As(errs.ResourceExhausted, fmt.Errorf("copy the template's RAM: %w", err))
		}
	}()
	from, err := unix.Mmap(int(t.f.Fd()), 0, int(t.head.Memory), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Munmap(from) }()
	for _, e := range t.index {
		if _, err := f.WriteAt(from[e.at:e.at+e.length], e.at); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// servedDevice is a device of this process: vmm/qemu/share, vmm/qemu/vsock. Serve
// owns the connection and returns when the machine is gone, or after Close.
type servedDevice interface {
	Serve(*net.UnixConn) error
	Close() error
}

// plugServed plugs in the device that open returns, under a name of its own; what
// is what a user would call it.
func (m *machine) plugServed(ctx context.Context, name, what string, device map[string]any, open func() (servedDevice, error)) (err error) {
	var un undo.Stack
	defer func() {
		if err != nil {
			err = errors.Join(err, un.Run(ctx, undoLimit))
		}
	}()
	ours, theirs, err := socketPair(name)
	if err != nil {
		return err
	}
	defer func() { _ = theirs.Close() }() // QEMU has its own
	d, err := open()
	if err != nil {
		_ = ours.Close() // nothing went through it
		return err
	}
	m.serve(what, d, ours)
	un.Push("serve it", func(context.Context) error { return d.Close() })
	port, err := m.takePort(name)
	if err != nil {
		return err
	}
	un.PushFunc("take a port", func() { m.freePort(name) })
	if err := m.qmp.call(ctx, "getfd", map[string]any{"fdname": name}, nil, int(theirs.Fd())); err != nil {
		return err
	}
	backend := map[string]any{"type": "socket", "data": map[string]any{"server": false,
		"addr": map[string]any{"type": "fd", "data": map[string]any{"str": name}}}}
	if err := m.qmp.call(ctx, "chardev-add", map[string]any{"id": name, "backend": backend}, nil); err != nil {
		return err
	}
	un.Push("add the socket", func(ctx context.Context) error {
		return m.qmp.call(ctx, "chardev-remove", map[string]any{"id": name}, nil)
	})
	device["id"], device["chardev"], device["bus"] = deviceName(name), name, port
	if err := m.qmp.call(ctx, "device_add", device, nil); err != nil {
		return err
	}
	un.Release()
	return nil
}

// serve serves d until the machine is gone. An error before that is noted: what is
// lost from then on.
func (m *machine) serve(what string, d servedDevice, c *net.UnixConn) {
	m.served.Go(func() {
		if err := d.Serve(c); err != nil {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.deviceNotes = append(m.deviceNotes, fmt.Sprintf("%s: lost from here on: %v", what, err))
		}
	})
}
