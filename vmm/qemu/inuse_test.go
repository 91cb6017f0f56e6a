//go:build linux

package qemu

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm"
)

// A disk is free to who reads where nobody writes, and to who writes where nobody
// has it. The locks are those that QEMU takes for a disk of a machine.
func TestDisksThatAreInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	for name, c := range map[string]struct {
		locks       []int64
		read, write bool // may be had
	}{
		"nobody":   {nil, true, true},
		"a reader": {[]int64{100, 201}, true, false},
		"a writer": {[]int64{100, 101, 201}, false, false},
	} {
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range c.locks {
			l := unix.Flock_t{Type: unix.F_RDLCK, Start: at, Len: 1}
			r, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if err := unix.FcntlFlock(r.Fd(), unix.F_OFD_SETLK, &l); err != nil {
				t.Fatal(err)
			}
		}
		for readOnly, want := range map[bool]bool{true: c.read, false: c.write} {
			err := checkFree([]vmm.Disk{{ID: "d", Path: path, ReadOnly: readOnly}})
			if (err == nil) != want || err != nil && !errs.Is(err, errs.FailedPrecondition) {
				t.Errorf("%s has it, read-only %v: %v", name, readOnly, err)
			}
		}
		f.Close()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := checkFree([]vmm.Disk{{ID: "d", Path: path}}); err != nil {
		t.Errorf("one that is not there: %v", err)
	}
}
