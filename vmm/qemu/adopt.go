//go:build linux

package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm"
)

// Adopt gives the machine cfg's disks and console. A disk that it had keeps its
// drive, and gets another image, unless it is the same file: nothing is plugged
// in, and the guest is told nothing.
func (m *machine) Adopt(ctx context.Context, cfg *vmm.Config) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("adopt machine %s: %w", m.name, err)
		}
	}()
	if err := cfg.Check(); err != nil {
		return err
	}
	if err := checkDisks(cfg.Disks); err != nil {
		return err
	}
	if old := m.cfg; cfg.CPUs != old.CPUs || cfg.Memory != old.Memory || cfg.Kernel != old.Kernel || cfg.Initramfs != old.Initramfs ||
		!slices.Equal(cfg.KernelArgs, old.KernelArgs) {
		return errs.New(errs.FailedPrecondition, "it is of another make")
	}
	if err := m.con.redirect(cfg.Console); err != nil {
		return err
	}
	for _, d := range cfg.Disks {
		m.mu.Lock()
		old, ok := m.disks[d.ID]
		m.mu.Unlock()
		switch {
		case !ok:
			err = m.AttachDisk(ctx, d)
		case old.readOnly != d.ReadOnly:
			err = errs.New(errs.FailedPrecondition, "disk %s: it was read-only %v, and cannot change", d.ID, old.readOnly)
		case old.holds(d):
		default:
			err = m.swapDisk(ctx, d, old)
		}
		if err != nil {
			return err
		}
	}
	if servesDevices(cfg) { // its RAM is its own alone
		return errs.New(errs.FailedPrecondition, "a machine that waits can have no shares and no virtual sockets")
	}
	return m.addCards(ctx, cfg.Cards)
}

// drive is a disk that the machine has.
type drive struct {
	readOnly bool
	swaps    int         // how often it has got another image
	image    os.FileInfo // nil: not known
	path     string
}

func newDrive(d vmm.Disk, swaps int) drive {
	fi, err := os.Stat(d.Path)
	if err != nil { // QEMU says what is wrong with it
		fi = nil
	}
	return drive{d.ReadOnly, swaps, fi, d.Path}
}

// holds says whether the image of d is in the drive.
func (d drive) holds(disk vmm.Disk) bool {
	fi, err := os.Stat(disk.Path)
	return err == nil && d.image != nil && os.SameFile(fi, d.image)
}

// node is the name of the block device that is in the drive of the disk id.
func (d drive) node(id string) string {
	if d.swaps == 0 {
		return nodeName(id)
	}
	return fmt.Sprintf("%s.%d", nodeName(id), d.swaps)
}

// swapDisk puts d in the place of what is in the drive old.
func (m *machine) swapDisk(ctx context.Context, d vmm.Disk, old drive) error {
	next := newDrive(d, old.swaps+1)
	bd := blockdev(d)
	bd["node-name"] = next.node(d.ID)
	if err := m.qmp.call(ctx, "blockdev-add", bd, nil); err != nil {
		return err
	}
	err := m.qmp.call(ctx, "qom-set", map[string]any{"path": "/machine/peripheral/" + deviceName(d.ID),
		"property": "drive", "value": next.node(d.ID)}, nil)
	if err != nil {
		uctx, cancel := within(context.WithoutCancel(ctx), undoLimit, "remove the block device again")
		defer cancel()
		return errors.Join(err, m.dropBlockdev(uctx, next.node(d.ID)))
	}
	m.mu.Lock()
	m.disks[d.ID] = next
	m.mu.Unlock()
	return m.dropBlockdev(ctx, old.node(d.ID))
}
