package filelock

import (
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// flock(2): who asks has to take the lock for a moment, so who takes it in
// earnest tries for longer than such a moment.

const askingTakes = 100 * time.Millisecond

func lockFile(f *os.File) error {
	for end := time.Now().Add(askingTakes); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case err != unix.EWOULDBLOCK:
			return &os.PathError{Op: "lock", Path: f.Name(), Err: err}
		case time.Now().After(end):
			return errs.New(errs.FailedPrecondition, "%s is locked", f.Name())
		}
		<-time.After(time.Millisecond)
	}
}

func lockHeld(f *os.File) (bool, error) {
	err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if err == unix.EWOULDBLOCK {
		return true, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "query lock", Path: f.Name(), Err: err}
	}
	return false, nil // closing f gives it up
}
