//go:build linux

package qemu

import (
	"context"
	"fmt"

	"github.com/vzcompose/vzcompose/vmm"
	"github.com/vzcompose/vzcompose/vmm/qemu/share"
)

// addShares plugs in shares: virtio-fs devices that this process serves
// (vmm/qemu/share).
func (m *machine) addShares(ctx context.Context, all []vmm.Share) error {
	for _, h := range all {
		if err := m.addShare(ctx, h, len(all)); err != nil {
			return fmt.Errorf("share %s: %w", h.Path, err)
		}
	}
	return nil
}

// addShare plugs in one of so many shares.
func (m *machine) addShare(ctx context.Context, h vmm.Share, of int) error {
	device := map[string]any{"driver": "vhost-user-fs-pci", "tag": h.ID, "queue-size": 256}
	return m.plugServed(ctx, "share-"+h.ID, "the share of "+h.Path, device, func() (servedDevice, error) {
		d, err := share.NewDevice(h.ID, share.Options{Path: h.Path, ReadOnly: h.ReadOnly, Owners: h.Owners, UID: h.UID, GID: h.GID, Coherent: h.Coherent, Of: of})
		if err != nil { // not d: an interface with a nil device in it is not nil
			return nil, err
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if err := d.Forgets(); err != nil {
			m.deviceNotes = append(m.deviceNotes, fmt.Sprintf("owners in %s are not remembered: %v", h.Path, err))
		}
		m.shares = append(m.shares, d)
		return d, nil
	})
}

// BreakLockWaits implements vmm.LockBreaker.
func (m *machine) BreakLockWaits() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.shares {
		d.BreakLockWaits()
	}
}
