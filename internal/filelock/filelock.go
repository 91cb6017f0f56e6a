// Package filelock is exclusive locks on files between processes, which can be asked
// about without being taken.
package filelock

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Lock is an exclusive lock on a file, held until Release or the end of the
// process, however it ends.
type Lock struct{ f *os.File }

// Try takes the lock on path, or returns errs.FailedPrecondition where somebody
// has it. The file is created; it means nothing by itself.
//
// Who removes the file, or the directory it is in, holds the lock meanwhile. A
// process that had opened it before would then lock a file that nobody else can
// find, so the lock counts only if path is still that file; otherwise the file
// that is at path now is tried.
func Try(path string) (*Lock, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		err = lockFile(f)
		current := false
		if err == nil {
			current, err = Current(f, path)
		}
		if err == nil && current {
			return &Lock{f}, nil
		}
		_ = f.Close() // nothing was written
		if err != nil {
			return nil, err
		}
	}
}

// Current reports whether path is the file f still: it was neither removed nor
// replaced.
func Current(f *os.File, path string) (bool, error) {
	ours, err := f.Stat()
	if err != nil {
		return false, err
	}
	now, err := os.Stat(path)
	if os.IsNotExist(err) {
		return false, nil
	}
	return err == nil && os.SameFile(ours, now), err
}

// Wait is Try that waits until ctx ends.
func Wait(ctx context.Context, path string) (*Lock, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		l, err := Try(path)
		if !errs.Is(err, errs.FailedPrecondition) {
			return l, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("await the lock %s: %w", path, context.Cause(ctx))
		}
	}
}

// Sign leaves the number of this process in the locked file.
func (l *Lock) Sign() error {
	_, err := l.f.WriteAt(fmt.Appendf(nil, "%-10d\n", os.Getpid()), 0)
	return err
}

// Signed answers the process that signed the file at path last. It means
// something only while the lock is held.
func Signed(path string) (pid int, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	if _, err := fmt.Sscan(string(b), &pid); err != nil || pid <= 1 {
		return 0, errs.New(errs.DataLoss, "the lock %s does not say whose it is", path)
	}
	return pid, nil
}

// Release gives the lock up.
func (l *Lock) Release() { _ = l.f.Close() } // closing is releasing; it has no other effect

// Held reports whether somebody has the lock on path. It takes nothing, so that
// asking never stands in anybody's way.
func Held(path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if os.IsNotExist(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	return lockHeld(f)
}
