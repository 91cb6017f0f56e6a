package filelock

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Open file description locks (fcntl(2)): unlike flock(2) they can be asked
// about without being taken, unlike POSIX locks they belong to the descriptor.

func lockFile(f *os.File) error {
	lk := unix.Flock_t{Type: unix.F_WRLCK}
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk)
	if err == unix.EAGAIN || err == unix.EACCES {
		return errs.New(errs.FailedPrecondition, "%s is locked", f.Name())
	}
	if err != nil {
		return &os.PathError{Op: "lock", Path: f.Name(), Err: err}
	}
	return nil
}

func lockHeld(f *os.File) (bool, error) {
	lk := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lk); err != nil {
		return false, &os.PathError{Op: "query lock", Path: f.Name(), Err: err}
	}
	return lk.Type != unix.F_UNLCK, nil
}
