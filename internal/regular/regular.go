// Package regular opens files that a user named, and only regular ones. Opening a
// pipe that nobody writes to blocks for ever, and opening a device may have effects.
package regular

import (
	"io"
	"os"
	"syscall"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Open opens the file at path for reading. What is not a regular file is
// errs.InvalidArgument.
func Open(path string) (*os.File, os.FileInfo, error) {
	return check(os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0))
}

// OpenIn is Open of a file below root.
func OpenIn(root *os.Root, name string) (*os.File, os.FileInfo, error) {
	return check(root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0))
}

// Read returns what the file at path has. One over limit bytes is
// errs.ResourceExhausted.
func Read(path string, limit int64) ([]byte, error) {
	f, _, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = errs.New(errs.ResourceExhausted, "%s has more than %d bytes", path, limit)
	}
	return b, err
}

func check(f *os.File, err error) (*os.File, os.FileInfo, error) {
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errs.New(errs.InvalidArgument, "%s is not a file", f.Name())
	}
	if err != nil {
		_ = f.Close() // nothing was read
		return nil, nil, err
	}
	return f, info, nil
}
