//go:build linux

package qemu

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// memoryFile makes a file that is nowhere but in memory. The caller owns it.
func memoryFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate("vzcompose-"+name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a memory file: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// countsMapped reports whether the kernel counts all memory that is mapped as used:
// mode 2 of vm.overcommit_memory (proc(5)).
func countsMapped() bool {
	b, err := os.ReadFile("/proc/sys/vm/overcommit_memory")
	return err == nil && strings.TrimSpace(string(b)) == "2"
}

// newRAM makes the memory file of a machine that is to be saved, size bytes, all
// zero and none of them allocated. The caller owns it.
func newRAM(size uint64) (*os.File, error) {
	f, err := memoryFile("ram")
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(int64(size)); err != nil {
		_ = f.Close()
		return nil, errs.As(errs.ResourceExhausted, fmt.Errorf("make the machine's RAM: %w", err))
	}
	return f, nil
}
