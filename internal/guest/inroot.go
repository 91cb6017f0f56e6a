//go:build linux

package guest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// inRoot is a container's root directory. Every path is resolved inside it,
// whatever symlinks the image has: openat2(2) with RESOLVE_IN_ROOT.
type inRoot struct{ fd int }

// maxLinks is how many dangling symlinks are followed to make what they name.
const maxLinks = 40

// open answers a descriptor of p. flags are those of open(2).
func (r inRoot) open(p string, flags int) (int, error) {
	for {
		fd, err := unix.Openat2(r.fd, rel(p), &unix.OpenHow{
			Flags:   uint64(flags | unix.O_CLOEXEC),
			Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
		switch {
		case err == nil:
			return fd, nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN): // a rename raced with ".."
			continue
		}
		return -1, &fs.PathError{Op: "open", Path: p, Err: err}
	}
}

// rel makes a path for openat2 relative to the root's descriptor.
func rel(p string) string {
	if p = strings.TrimPrefix(path.Clean(p), "/"); p == "" {
		return "."
	}
	return p
}

// mkdirAll makes the directory p with its parents, and answers an O_PATH
// descriptor of it.
func (r inRoot) mkdirAll(p string, mode uint32) (int, error) { return r.mkdirLinks(p, mode, maxLinks) }

func (r inRoot) mkdirLinks(p string, mode uint32, links int) (int, error) {
	const how = unix.O_PATH | unix.O_DIRECTORY
	fd, err := r.open(p, how)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	p = path.Clean("/" + p)
	parent, err := r.mkdirLinks(path.Dir(p), mode, links)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(parent) }()
	err = unix.Mkdirat(parent, path.Base(p), mode)
	if errors.Is(err, unix.EEXIST) {
		if err := r.followDangling(parent, p, links, func(to string) error {
			fd, err := r.mkdirLinks(to, mode, links-1)
			if err == nil {
				_ = unix.Close(fd)
			}
			return err
		}); err != nil {
			return -1, err
		}
	} else if err != nil {
		return -1, &fs.PathError{Op: "mkdir", Path: p, Err: err}
	}
	return r.open(p, how)
}

// followDangling calls then with the target of the symlink p in parent, a path
// in the root. Where p is no symlink something else has just made it: fine.
func (r inRoot) followDangling(parent int, p string, links int, then func(to string) error) error {
	if links == 0 {
		return errs.New(errs.InvalidArgument, "%s: %w", p, unix.ELOOP)
	}
	var b [unix.PathMax]byte
	n, err := unix.Readlinkat(parent, path.Base(p), b[:])
	if errors.Is(err, unix.EINVAL) {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "readlink", Path: p, Err: err}
	}
	to := string(b[:n])
	if !path.IsAbs(to) {
		to = path.Join(path.Dir(p), to)
	}
	return then(to)
}

// touch makes p an empty file, with its parents, unless there is something.
func (r inRoot) touch(p string) error { return r.touchLinks(path.Clean("/"+p), maxLinks) }

func (r inRoot) touchLinks(p string, links int) error {
	parent, err := r.mkdirAll(path.Dir(p), 0o755)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(parent) }()
	fd, err := unix.Openat(parent, path.Base(p), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o644)
	if errors.Is(err, unix.EEXIST) {
		if there, err := r.open(p, unix.O_PATH); err == nil {
			return unix.Close(there)
		}
		return r.followDangling(parent, p, links, func(to string) error { return r.touchLinks(to, links-1) })
	}
	if err != nil {
		return &fs.PathError{Op: "create", Path: p, Err: err}
	}
	return unix.Close(fd)
}

// readFile reads a file of at most limit bytes.
func (r inRoot) readFile(p string, limit int64) ([]byte, error) {
	fd, err := r.open(p, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), p)
	defer func() { _ = f.Close() }() // only read
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil, errs.New(errs.InvalidArgument, "%s is not a file", p)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = errs.New(errs.InvalidArgument, "%s is over %d bytes", p, limit)
	}
	return b, err
}

// missing says whether nothing is at p.
func (r inRoot) missing(p string) bool {
	parent, err := r.open(path.Dir(p), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return errors.Is(err, unix.ENOENT)
	}
	defer func() { _ = unix.Close(parent) }()
	var st unix.Stat_t
	return errors.Is(unix.Fstatat(parent, path.Base(p), &st, unix.AT_SYMLINK_NOFOLLOW), unix.ENOENT)
}

// at runs fn with a descriptor of the directory that p is in, made if missing,
// and p's last name.
func (r inRoot) at(p string, fn func(dir int, name string) error) error {
	dir, err := r.mkdirAll(path.Dir(p), 0o755)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(dir) }()
	return fn(dir, path.Base(p))
}

// fdPath is a path by which mount(2) takes a descriptor. It needs the
// machine's /proc.
func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

func isDir(fd int) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, os.NewSyscallError("fstat", err)
	}
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}
