//go:build linux

package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
)

// Names in a volume.
const (
	volumeData = "data"     // what the container sees
	newData    = "data.new" // a copy that is being made
)

// copyUp fills an empty volume with the files that the image has at the place
// where it will be mounted. They are copied beside it and put in its place at
// once, so that a machine that dies meanwhile leaves an empty volume.
func (m *setup) copyUp(ctx context.Context, v agentproto.Volume) error {
	at := filepath.Join(volumesDir, v.ID)
	data, fresh := filepath.Join(at, volumeData), filepath.Join(at, newData)
	if empty, err := isEmpty(data); err != nil || !empty {
		return err
	}
	if found, err := m.copyImage(copier{ctx: ctx}, v.CopyUp, fresh); err != nil || !found {
		return err
	}
	dir, err := os.Open(at)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }() // only synced
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("sync the volume: %w", err)
	}
	if err := unix.Rename(fresh, data); err != nil { // os.Rename replaces no directory, not even an empty one
		return &fs.PathError{Op: "rename", Path: fresh, Err: err}
	}
	return nil
}

// copyImage copies a directory of the image to a new one by c; found is false where
// the image has none.
func (m *setup) copyImage(c copier, path, to string) (found bool, err error) {
	root, err := unix.Open(m.agent.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("open the root: %w", err)
	}
	defer func() { _ = unix.Close(root) }()
	from, err := inRoot{root}.open(path, unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = unix.Close(from) }()
	if err := os.RemoveAll(to); err != nil {
		return false, err
	}
	c.linked = map[inode]string{}
	if err := c.tree(fdPath(from)+"/.", to); err != nil {
		return false, errors.Join(fmt.Errorf("copy %s: %w", path, classed(err)), os.RemoveAll(to))
	}
	return true, nil
}

func isEmpty(dir string) (bool, error) {
	d, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer func() { _ = d.Close() }() // only read
	_, err = d.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

type inode struct{ dev, ino uint64 }

// copier copies files as they are: owners, modes, times, links, devices and
// attributes. Nothing runs that could change the tree meanwhile.
type copier struct {
	ctx    context.Context
	shared bool             // to a share: it has no syncfs, and makes no devices
	linked map[inode]string // by file with more names than one: its first copy
}

// tree copies the directory from, which a symbolic link may name, to a new one.
func (c *copier) tree(from, to string) error {
	var st unix.Stat_t
	if err := unix.Stat(from, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: from, Err: err}
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	d, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }() // only read
	for {
		names, err := d.Readdirnames(256)
		for _, name := range names {
			if err := c.one(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return dress(from, to, &st)
		}
		if err != nil {
			return err
		}
	}
}

func (c *copier) one(from, to string) error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: from, Err: err}
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFDIR {
		return c.tree(from, to)
	}
	if c.shared && (kind == unix.S_IFCHR || kind == unix.S_IFBLK) {
		return nil
	}
	id := inode{st.Dev, st.Ino}
	if st.Nlink > 1 {
		if first, ok := c.linked[id]; ok {
			return os.Link(first, to)
		}
		c.linked[id] = to
	}
	var err error
	switch kind {
	case unix.S_IFREG:
		err = c.bytes(from, to)
	case unix.S_IFLNK:
		var target string
		if target, err = os.Readlink(from); err == nil {
			err = os.Symlink(target, to)
		}
	case unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO:
		err = unix.Mknod(to, st.Mode, int(st.Rdev))
	default:
		return nil // a socket without its server
	}
	if err != nil {
		return err
	}
	return dress(from, to, &st)
}

func (c *copier) bytes(from, to string) (err error) {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // only read
	w, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	if err == nil && c.shared {
		err = w.Sync()
	}
	return errors.Join(err, w.Close())
}

// maxAttributes bounds the names of a file's attributes, and each of their
// values, in bytes (xattr(7)).
const maxAttributes = 64 << 10

// dress gives the copy the owner, attributes, mode and times of its original.
// The mode comes after the owner, whose change takes the setuid bit away.
func dress(from, to string, st *unix.Stat_t) error {
	if err := unix.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return &fs.PathError{Op: "chown", Path: to, Err: err}
	}
	if err := copyAttributes(from, to); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
			return &fs.PathError{Op: "chmod", Path: to, Err: err}
		}
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, to, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "set times", Path: to, Err: err}
	}
	return nil
}

func copyAttributes(from, to string) error {
	names := make([]byte, maxAttributes)
	n, err := unix.Llistxattr(from, names)
	if errors.Is(err, unix.ENOTSUP) || n == 0 && err == nil {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "list attributes", Path: from, Err: err}
	}
	value := make([]byte, maxAttributes)
	for _, name := range splitZero(names[:n]) {
		n, err := unix.Lgetxattr(from, name, value)
		if err == nil {
			err = unix.Lsetxattr(to, name, value[:n], 0)
		}
		if err != nil && !errors.Is(err, unix.ENOTSUP) {
			return &fs.PathError{Op: "copy attribute " + name, Path: from, Err: err}
		}
	}
	return nil
}

// splitZero answers the texts that zero bytes end.
func splitZero(b []byte) []string {
	var all []string
	start := 0
	for i, c := range b {
		if c == 0 {
			all = append(all, string(b[start:i]))
			start = i + 1
		}
	}
	return all
}
