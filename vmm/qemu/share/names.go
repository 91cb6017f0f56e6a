//go:build linux

package share

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// modeBits are the permission bits that the guest may set.
const modeBits = 0o1777

// Lookup answers a name in a directory.
func (fs *FS) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	dir, done, code := fs.useDir(h.NodeId)
	if !code.Ok() {
		return code
	}
	defer done()
	if code := fs.visible(dir, name); !code.Ok() {
		return code
	}
	return fs.lookup(dir, name, out)
}

// make makes a name by do, gives it to who asks, and looks it up. Of what has
// permission bits they are mode's.
func (fs *FS) make(h *fuse.InHeader, name string, mode uint32, out *fuse.EntryOut, do func(dir int) error) fuse.Status {
	dir, done, code := fs.useDir(h.NodeId)
	if !code.Ok() {
		return code
	}
	defer done()
	if code := fs.changeable(dir, name); !code.Ok() {
		return code
	}
	if err := do(dir.fd); err != nil {
		return fuse.ToStatus(err)
	}
	if err := fs.own(dir.fd, name, h.Caller); err != nil {
		return fuse.ToStatus(err)
	}
	if code := fs.lookup(dir, name, out); !code.Ok() {
		return code
	}
	return fs.permit(mode&modeBits, out)
}

// permit gives a file that was just made the bits that the host's umask took from
// it: the guest has one of its own, and has heeded it.
func (fs *FS) permit(mode uint32, out *fuse.EntryOut) fuse.Status {
	if out.Mode&unix.S_IFMT == unix.S_IFLNK || out.Mode&mode == mode {
		return fuse.OK
	}
	n, done, code := fs.use(out.NodeId)
	if !code.Ok() {
		return code
	}
	defer done()
	if err := unix.Chmod(again(n.fd), out.Mode&^unix.S_IFMT|mode); err != nil {
		return fuse.ToStatus(err)
	}
	out.Mode |= mode
	return fuse.OK
}

// own gives a name that was just made to who asked for it.
func (fs *FS) own(dir int, name string, c fuse.Caller) error {
	if fs.squash {
		return nil // it is the invoking user's
	}
	return unix.Fchownat(dir, name, int(c.Uid), int(c.Gid), unix.AT_SYMLINK_NOFOLLOW)
}

// Mkdir makes a directory.
func (fs *FS) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return fs.make(&in.InHeader, name, in.Mode, out, func(dir int) error { return unix.Mkdirat(dir, name, in.Mode&modeBits) })
}

// Mknod makes a file, a pipe or a socket; a device never.
func (fs *FS) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	kind := in.Mode & unix.S_IFMT
	if kind != unix.S_IFREG && kind != unix.S_IFIFO && kind != unix.S_IFSOCK && kind != 0 {
		return fuse.EPERM
	}
	return fs.make(&in.InHeader, name, in.Mode, out, func(dir int) error { return unix.Mknodat(dir, name, kind|in.Mode&modeBits, 0) })
}

// Symlink makes a symbolic link, which nobody here follows.
func (fs *FS) Symlink(_ <-chan struct{}, h *fuse.InHeader, to, name string, out *fuse.EntryOut) fuse.Status {
	return fs.make(h, name, 0, out, func(dir int) error { return unix.Symlinkat(to, dir, name) })
}

// Link makes another name of a file.
func (fs *FS) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	n, release, code := fs.use(in.Oldnodeid)
	if !code.Ok() {
		return code
	}
	defer release()
	dir, done, code := fs.useDir(in.NodeId)
	if !code.Ok() {
		return code
	}
	defer done()
	if code := fs.changeable(dir, name); !code.Ok() {
		return code
	}
	if n.kind == unix.S_IFDIR {
		return fuse.EPERM
	}
	if err := unix.Linkat(unix.AT_FDCWD, again(n.fd), dir.fd, name, unix.AT_SYMLINK_FOLLOW); err != nil {
		return fuse.ToStatus(err)
	}
	return fs.lookup(dir, name, out)
}

// Readlink answers what a symbolic link says.
func (fs *FS) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	n, done, code := fs.use(h.NodeId)
	if !code.Ok() {
		return nil, code
	}
	defer done()
	if n.kind != unix.S_IFLNK {
		return nil, fuse.EINVAL
	}
	buf := make([]byte, unix.PathMax)
	size, err := unix.Readlinkat(n.fd, "", buf)
	if err != nil {
		return nil, fuse.ToStatus(err)
	}
	return buf[:size], fuse.OK
}

// Unlink takes a name away that is no directory's.
func (fs *FS) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return fs.unlink(h, name, 0)
}

// Rmdir takes an empty directory away.
func (fs *FS) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return fs.unlink(h, name, unix.AT_REMOVEDIR)
}

func (fs *FS) unlink(h *fuse.InHeader, name string, flags int) fuse.Status {
	dir, done, code := fs.useDir(h.NodeId)
	if !code.Ok() {
		return code
	}
	defer done()
	if code := fs.changeable(dir, name); !code.Ok() {
		return code
	}
	return fuse.ToStatus(unix.Unlinkat(dir.fd, name, flags))
}

// Rename moves a name within the share.
func (fs *FS) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	const known = unix.RENAME_NOREPLACE | unix.RENAME_EXCHANGE
	if in.Flags&^known != 0 {
		return fuse.EINVAL
	}
	old, done, code := fs.useDir(in.NodeId)
	if !code.Ok() {
		return code
	}
	defer done()
	dir, release, code := fs.useDir(in.Newdir)
	if !code.Ok() {
		return code
	}
	defer release()
	if code := fs.changeable(old, from); !code.Ok() {
		return code
	}
	if code := fs.changeable(dir, to); !code.Ok() {
		return code
	}
	return fuse.ToStatus(unix.Renameat2(old.fd, from, dir.fd, to, uint(in.Flags)))
}
