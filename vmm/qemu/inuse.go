//go:build linux

package qemu

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm"
)

// Where QEMU locks an image that it has open: a byte for each permission that it
// uses, from the first on, and one for each that it grants to nobody else, from
// the second on (block/file-posix.c). Its disks grant nobody to write.
const (
	locksUsed    = 100
	locksRefused = 200
	permWrite    = 1 // bit of the permission to write
)

// checkFree refuses disks that another QEMU has. It would refuse them itself, and
// would do so only when a template was made or restored for nothing.
func checkFree(disks []vmm.Disk) error {
	for _, d := range disks {
		at := []int64{locksUsed + permWrite}
		if !d.ReadOnly {
			at = append(at, locksRefused+permWrite)
		}
		if isLocked(d.Path, at) {
			return errs.New(errs.FailedPrecondition, "disk %s, %s, is in use by another machine", d.ID, d.Path)
		}
	}
	return nil
}

// isLocked reports whether somebody holds a lock on one of the bytes. Of a file
// that cannot be looked at, QEMU says what is wrong with it.
func isLocked(path string, at []int64) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	for _, b := range at {
		l := unix.Flock_t{Type: unix.F_WRLCK, Start: b, Len: 1}
		if unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &l) == nil && l.Type != unix.F_UNLCK {
			return true
		}
	}
	return false
}
