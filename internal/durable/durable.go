// Package durable writes files that must survive a loss of power: under a
// temporary name first, synced, renamed, and the directory synced, so that a
// file is there whole or not at all, and stays.
package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// temporary is the pattern of names that files have until they are whole.
const temporary = ".new-*"

// WriteFile puts b at path, with mode 0600.
func WriteFile(path string, b []byte) error {
	return Create(path, func(f *os.File) error {
		_, err := f.Write(b)
		return err
	})
}

// Create has fill write the file at path, with mode 0600 unless fill changes it.
// On an error nothing is left.
func Create(path string, fill func(*os.File) error) error {
	return CreateFrom(filepath.Join(filepath.Dir(path), temporary), path, fill)
}

// CreateFrom is Create with a pattern of os.CreateTemp for the temporary name,
// for callers that sweep such names. It must be on path's filesystem.
func CreateFrom(pattern, path string, fill func(*os.File) error) error {
	if err := replace(pattern, path, fill); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// Replace is WriteFile for a file of which an earlier version is as good after a
// loss of power: it is whole, and costs one sync less.
func Replace(path string, b []byte) error {
	return replace(filepath.Join(filepath.Dir(path), temporary), path, func(f *os.File) error {
		_, err := f.Write(b)
		return err
	})
}

func replace(pattern, path string, fill func(*os.File) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(pattern), filepath.Base(pattern))
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()           // it may be closed already
			_ = os.Remove(f.Name()) // the first error is the one to report
		}
	}()
	if err := fill(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Rename renames a file or directory and syncs the directories it was and is in.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	if err := SyncDir(filepath.Dir(to)); err != nil || filepath.Dir(from) == filepath.Dir(to) {
		return err
	}
	return SyncDir(filepath.Dir(from))
}

// MkdirAll is os.MkdirAll with mode 0700 that also syncs the directory in which
// it creates one: a synced file is lost with a directory that is not.
func MkdirAll(path string) error {
	if fi, err := os.Stat(path); err == nil && fi.IsDir() {
		return nil
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := MkdirAll(parent); err != nil {
			return err
		}
	}
	err := os.Mkdir(path, 0o700)
	if os.IsExist(err) { // by another process just now, which syncs it, unless it is a file
		fi, serr := os.Stat(path)
		if serr == nil && fi.IsDir() {
			return nil
		}
		if os.IsNotExist(serr) {
			return serr // and removed again
		}
	}
	if err != nil {
		return err
	}
	return SyncDir(parent)
}

// SyncDir makes what was created, renamed or removed in a directory last.
// Filesystems that cannot sync a directory do not need it.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	err = d.Sync()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}
