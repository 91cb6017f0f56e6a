//go:build linux

package qemu

import (
	"context"
	"errors"
	"fmt"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/undo"
	"github.com/vzcompose/vzcompose/vmm"
)

// AttachDisk plugs d into a free root port. The guest sees it some 100 ms later
// under emulation; its agent waits for the disk's ID.
func (m *machine) AttachDisk(ctx context.Context, d vmm.Disk) (err error) {
	if err := d.Check(); err != nil {
		return err
	}
	port, err := m.takePort(d.ID)
	if err != nil {
		return err
	}
	var un undo.Stack
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("attach disk %s: %w", d.ID, err), un.Run(ctx, undoLimit))
		}
	}()
	un.PushFunc("take a port", func() { m.freePort(d.ID) })
	if err := m.qmp.call(ctx, "blockdev-add", blockdev(d), nil); err != nil {
		return err
	}
	un.Push("add the block device", func(ctx context.Context) error { return m.dropBlockdev(ctx, nodeName(d.ID)) })
	if err := m.qmp.call(ctx, "device_add", blockDevice(d, port), nil); err != nil {
		return err
	}
	un.Release()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.disks[d.ID] = newDrive(d, 0)
	return nil
}

// DetachDisk asks the guest to let go of a disk that AttachDisk plugged in, and
// waits until it has, which takes seconds.
func (m *machine) DetachDisk(ctx context.Context, id string) error {
	dev := deviceName(id)
	gone := make(chan struct{})
	m.mu.Lock()
	m.waiting[dev] = gone
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.waiting, dev)
		m.mu.Unlock()
	}()
	if err := m.qmp.call(ctx, "device_del", map[string]any{"id": dev}, nil); err != nil {
		return fmt.Errorf("detach disk %s: %w", id, err)
	}
	select {
	case <-gone:
	case <-m.gone:
		return errs.New(errs.Unavailable, "detach disk %s: the machine is gone", id)
	case <-ctx.Done():
		return fmt.Errorf("detach disk %s: await the guest: %w", id, context.Cause(ctx))
	}
	m.freePort(id)
	m.mu.Lock()
	old := m.disks[id]
	delete(m.disks, id)
	m.mu.Unlock()
	return m.dropBlockdev(ctx, old.node(id))
}

func (m *machine) dropBlockdev(ctx context.Context, node string) error {
	return m.qmp.call(ctx, "blockdev-del", map[string]any{"node-name": node}, nil)
}

// takePort gives a disk a root port of its own.
func (m *machine) takePort(disk string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, holder := range m.ports {
		if holder == "" {
			m.ports[i] = disk
			return portName(i), nil
		}
	}
	return "", errs.New(errs.ResourceExhausted, "all %d ports of machine %s are taken", rootPorts, m.name)
}

func (m *machine) freePort(disk string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, holder := range m.ports {
		if holder == disk {
			m.ports[i] = ""
		}
	}
}
