//go:build linux

package qemu

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// newRAM makes the memory file of a machine, size bytes, all zero and none of
// them allocated. Nobody can change its size any more. The caller owns it.
//
// Each machine has one of its own, also those restored from one template: QEMU
// could map the template's privately and share its pages, but what serves a
// vhost-user device maps the file too, and would not see what the machine writes.
func newRAM(size uint64) (*os.File, error) {
	fd, err := unix.MemfdCreate("vzcompose-ram", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make the machine's RAM: %w", err)
	}
	f := os.NewFile(uintptr(fd), "ram")
	if err := f.Truncate(int64(size)); err != nil {
		_ = f.Close()
		return nil, errs.As(errs.ResourceExhausted, fmt.Errorf("make the machine's RAM: %w", err))
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("seal the machine's RAM: %w", err)
	}
	return f, nil
}
