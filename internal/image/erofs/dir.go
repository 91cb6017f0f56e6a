package erofs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Owner says who owns in the image what uid and gid own on the host. Nil keeps
// them.
type Owner func(uid, gid uint32) (uint32, uint32)

// OwnerAsRoot gives to root what belongs to uid and gid, each by itself, and
// keeps the rest.
func OwnerAsRoot(uid, gid uint32) Owner {
	return func(u, g uint32) (uint32, uint32) {
		if u == uid {
			u = 0
		}
		if g == gid {
			g = 0
		}
		return u, g
	}
}

// Folder is a tree of the host that is to become an image. Nothing outside of
// it is read: symbolic links are taken as links, and a folder on another file
// system is refused. Sockets, which live with the process that made them, are
// refused too.
type Folder struct {
	Path  string
	Owner Owner
}

// Digest answers what the image of the folder depends on: a hash over names,
// types, modes, owners, sizes, times, link targets, devices and attributes; not
// over the data. It is "sha256:" and hex digits. Size is the bytes of all files.
func (f Folder) Digest(ctx context.Context) (digest string, size int64, err error) {
	h := sha256.New()
	err = f.walk(ctx, func(e *hostEntry) error {
		n := e.node
		_, err := fmt.Fprintf(h, "%q %o %d %d %d %d.%09d %d %q %x %q\n", e.path, n.mode, n.uid, n.gid,
			n.size, n.mtime, n.mtimeNS, n.rdev, n.target, n.xattrs, e.first)
		if n.mode&modeType == modeRegular && e.first == "" {
			size += int64(n.size)
		}
		return err
	})
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), size, err
}

// AddFolder puts the folder's content over what is there. Progress is told the
// bytes of every file that was read; it may be nil.
func (w *Writer) AddFolder(ctx context.Context, f Folder, progress func(bytes int64)) error {
	w.layer++
	return f.walk(ctx, func(e *hostEntry) error {
		if w.entries++; w.entries > w.limits.Entries {
			return errs.New(errs.ResourceExhausted, "more than %d files", w.limits.Entries)
		}
		dir, base, err := splitEntry(e.path)
		if err != nil {
			return err
		}
		if strings.HasPrefix(base, whiteoutPrefix) {
			return errs.New(errs.InvalidArgument, "names that start with %s are whiteouts in images", whiteoutPrefix)
		}
		if e.first != "" {
			return w.addHardLink(dir, base, e.first)
		}
		if err := w.addHostContent(ctx, e); err != nil {
			return err
		}
		if progress != nil && e.node.mode&modeType == modeRegular {
			progress(int64(e.node.size))
		}
		return w.addInode(dir, base, e.node)
	})
}

// addHostContent reads a file that must still be the one that was listed.
func (w *Writer) addHostContent(ctx context.Context, e *hostEntry) error {
	if e.node.mode&modeType != modeRegular {
		return w.addContent(e.node, e.node.target, nil)
	}
	file, err := e.root.OpenFile(e.path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrPermission) {
		return err
	}
	if err != nil { // a link out of the folder by now, for one
		return errs.New(errs.FailedPrecondition, "changed while it was read: %w", err)
	}
	defer file.Close()
	now, err := file.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(now, e.info) || now.Size() != e.info.Size() {
		return errs.New(errs.FailedPrecondition, "changed while it was read")
	}
	err = w.addContent(e.node, "", &ctxReader{ctx, file})
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errs.New(errs.FailedPrecondition, "became shorter while it was read")
	}
	return err
}

// hostEntry is one file of a Folder.
type hostEntry struct {
	root *os.Root
	path string // relative to the root, with slashes; "." is the root itself
	info fs.FileInfo
	node *inode // attributes, size and target; no data
	// first is the path at which the walk met the same inode before, or "".
	first string
}

type hostID struct{ dev, ino uint64 }

// walker visits a Folder once.
type walker struct {
	Folder
	root   *os.Root
	device uint64            // of the folder itself
	seen   map[hostID]string // where a file with several names was met first
	fn     func(*hostEntry) error
}

// walk calls fn for the folder and all in it, parents first, names in order.
func (f Folder) walk(ctx context.Context, fn func(*hostEntry) error) error {
	root, err := os.OpenRoot(f.Path)
	if err != nil {
		return fmt.Errorf("open folder: %w", err)
	}
	defer root.Close()
	w := &walker{Folder: f, root: root, seen: map[hostID]string{}, fn: fn}
	return w.visit(ctx, ".", 0)
}

func (w *walker) visit(ctx context.Context, name string, depth int) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("read folder %s: %w", w.Path, err)
	}
	names, err := w.file(name, depth)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(w.Path, name), hostError(err))
	}
	for _, n := range names {
		if err := w.visit(ctx, path.Join(name, n), depth+1); err != nil {
			return err
		}
	}
	return nil
}

// file hands one file to fn and, where it is a folder, answers what is in it.
func (w *walker) file(name string, depth int) ([]string, error) {
	e, id, err := w.entry(w.root, name)
	if err != nil {
		return nil, err
	}
	if name == "." {
		w.device = id.dev
	}
	switch {
	case depth > maxDepth:
		return nil, errs.New(errs.InvalidArgument, "folders are nested more than %d deep", maxDepth)
	case id.dev != w.device:
		return nil, errs.WithHint(errs.New(errs.FailedPrecondition, "is on another file system"),
			"mount it as a volume, or copy it into the folder")
	case e.info.Mode().IsRegular():
		e.first = w.seen[id]
		if e.first == "" && linkCount(e.info) > 1 {
			w.seen[id] = name
		}
	}
	if err := w.fn(e); err != nil || !e.info.IsDir() {
		return nil, err
	}
	return readNames(w.root, name)
}

func readNames(root *os.Root, name string) ([]string, error) {
	d, err := root.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// hostError classes what the host's file system answered.
func hostError(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return errs.WithHint(err, "every file of the folder must be readable by you")
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
		return errs.New(errs.FailedPrecondition, "changed while it was read: %w", err)
	}
	return err
}

// entry reads what the host says of one file.
func (f Folder) entry(root *os.Root, name string) (*hostEntry, hostID, error) {
	info, err := root.Lstat(name)
	if err != nil {
		return nil, hostID{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, hostID{}, errs.New(errs.Internal, "no file status")
	}
	n := &inode{mode: uint16(st.Mode & 0o7777)}
	uid, gid := st.Uid, st.Gid
	if f.Owner != nil {
		uid, gid = f.Owner(uid, gid)
	}
	if err := n.own(int64(uid), int64(gid)); err != nil {
		return nil, hostID{}, err
	}
	n.modified(info.ModTime())
	if err := n.hostType(root, name, info, uint64(st.Rdev)); err != nil {
		return nil, hostID{}, err
	}
	if n.xattrs, err = hostXattrs(root, name, info); err != nil {
		return nil, hostID{}, err
	}
	e := &hostEntry{root: root, path: name, info: info, node: n}
	return e, hostID{uint64(st.Dev), st.Ino}, nil
}

func linkCount(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Nlink)
	}
	return 1
}

// hostType sets the type and what comes with it.
func (n *inode) hostType(root *os.Root, name string, info fs.FileInfo, rdev uint64) (err error) {
	switch t := info.Mode().Type(); {
	case t.IsRegular():
		n.mode |= modeRegular
		n.size = uint64(info.Size())
	case t.IsDir():
		n.mode |= modeDir
	case t == fs.ModeSymlink:
		n.mode |= modeSymlink | 0o777
		n.target, err = root.Readlink(name)
	case t == fs.ModeNamedPipe:
		n.mode |= modeFifo
	case t == fs.ModeDevice|fs.ModeCharDevice:
		n.mode |= modeChar
		err = n.device(int64(unix.Major(rdev)), int64(unix.Minor(rdev)))
	case t == fs.ModeDevice:
		n.mode |= modeBlock
		err = n.device(int64(unix.Major(rdev)), int64(unix.Minor(rdev)))
	case t == fs.ModeSocket:
		err = errs.WithHint(errs.New(errs.InvalidArgument, "a socket cannot be part of an image"),
			"remove it; the process that listens on it will make it again")
	default:
		err = errs.New(errs.InvalidArgument, "file of a kind that images do not have (%s)", t)
	}
	return err
}
