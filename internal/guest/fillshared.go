//go:build linux

package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
)

// Names in a volume that several machines have, beside those of any.
const (
	fillLock   = "lock"      // who has it locked may fill the volume
	wholeData  = "data.full" // a copy that is whole, and is being moved to data
	filledMark = "filled"    // the volume was filled, and may have been emptied since
)

// fillShared is copyUp for a volume that other machines have at the same time.
func (m *setup) fillShared(ctx context.Context, h agentproto.Share) error {
	return fillOnce(filepath.Join(sharesDir, h.ID), func(to string) (found bool, err error) {
		return m.copyImage(copier{ctx: ctx, shared: true}, h.CopyUp, to)
	})
}

// fillOnce fills the volume at a directory with what copyTo makes, unless it was
// filled before or has something in it. Others may have its data mounted already, so
// that is not replaced: the copy is moved into it, entry by entry. A machine that
// dies meanwhile leaves the rest of it to the next.
func fillOnce(at string, copyTo func(dir string) (found bool, err error)) error {
	data, fresh, whole, mark := filepath.Join(at, volumeData), filepath.Join(at, newData), filepath.Join(at, wholeData), filepath.Join(at, filledMark)
	lock, err := os.OpenFile(filepath.Join(at, fillLock), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }() // it ends the lock
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock the volume: %w", err)
	}
	if _, err := os.Lstat(mark); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := os.Lstat(whole); errors.Is(err, fs.ErrNotExist) {
		if empty, err := isEmpty(data); err != nil || !empty {
			return err
		}
		if found, err := copyTo(fresh); err != nil || !found {
			return err
		}
		if err := os.Rename(fresh, whole); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	if err := moveEntries(whole, data); err != nil {
		return fmt.Errorf("fill the volume: %w", err)
	}
	if err := syncDir(data); err != nil { // virtio-fs has no syncfs
		return err
	}
	return os.WriteFile(mark, nil, 0o600)
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// moveEntries moves what is in one directory to another, which gets its owner and
// mode, and removes it.
func moveEntries(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Rename(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(from, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: from, Err: err}
	}
	if err := dress(from, to, &st); err != nil {
		return err
	}
	return os.Remove(from)
}
