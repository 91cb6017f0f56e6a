package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/filelock"
)

// lockFile takes an flock on path, which is made where it is not there, and
// waits for it as long as ctx lasts; what says what is waited for. The lock
// ends with unlock, or with the process.
func lockFile(ctx context.Context, path string, how int, what string) (unlock func(), err error) {
	const longest = 100 * time.Millisecond
	for wait := time.Millisecond; ; wait = min(2*wait, longest) {
		unlock, err := tryLock(path, how)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return unlock, err
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, fmt.Errorf("wait for %s: %w", what, ctx.Err())
		case <-t.C:
		}
	}
}

// tryLock returns unix.EWOULDBLOCK where another holds the lock. A lock file may
// be swept between its opening and its locking: then the lock is on a file that
// nobody else can find, and the one that is there now is tried.
func tryLock(path string, how int) (unlock func(), err error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		current := false
		if err == nil {
			current, err = filelock.Current(f, path)
		}
		if err == nil && current {
			return func() { f.Close() }, nil
		}
		f.Close()
		if err != nil && !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
	}
}
