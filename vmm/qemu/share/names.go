//go:build linux

package share

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	permissions = 0o7777 // bits of a mode
	modeBits    = 0o1777 // of them, those that a file of the host may have by a guest
)

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

// make makes a name by do, with the permission bits of mode on the host, gives it to
// who asks, and looks it up.
func (fs *FS) make(h *fuse.InHeader, name string, v view, out *fuse.EntryOut, do func(dir int, mode uint32) error) fuse.Status {
	dir, done, code := fs.useDir(h.NodeId)
	if !code.Ok() {
		return code
	}
	defer done()
	if code := fs.changeable(dir, name); !code.Ok() {
		return code
	}
	if err := do(dir.fd, fs.modeOnHost(v.mode)&permissions); err != nil {
		return fuse.ToStatus(err)
	}
	fd, err := openBeneath(dir.fd, name, unix.O_PATH, 0)
	if err != nil {
		return fuse.ToStatus(err)
	}
	defer func() { _ = unix.Close(fd) }() // a path
	v.Owner = h.Owner
	if code := fs.adopt(dir, fd, name, &v); !code.Ok() {
		return code
	}
	return fs.lookup(dir, name, out)
}

// modeOnHost is the mode with which a file is made on the host.
func (fs *FS) modeOnHost(mode uint32) uint32 {
	if fs.squash {
		return hostMode(mode)
	}
	return mode & modeBits
}

// adopt gives what was just made its owner and mode. The host's umask took bits from
// it: the guest has one of its own, and has heeded it. Where nothing can be
// remembered, nothing was made.
func (fs *FS) adopt(dir *node, fd int, name string, v *view) fuse.Status {
	if !fs.squash {
		return fuse.ToStatus(fs.own(fd, v))
	}
	err := fs.inherit(dir, v)
	if err == nil {
		err = fs.revise(fd, func(was *view) {
			if v.mode&unix.S_IFMT == unix.S_IFLNK {
				v.mode = was.mode
			}
			*was = *v
		})
	}
	if err != nil {
		flags := 0
		if v.mode&unix.S_IFMT == unix.S_IFDIR {
			flags = unix.AT_REMOVEDIR
		}
		_ = unix.Unlinkat(dir.fd, name, flags) // the first error is the one to report
	}
	return fuse.ToStatus(err)
}

// inherit gives what is made in a directory with a set-group-id bit its group, and a
// directory the bit too, as the kernel has it (inode_init_owner in fs/inode.c).
func (fs *FS) inherit(dir *node, v *view) error {
	st, err := fs.stat(dir.fd)
	if err != nil {
		return err
	}
	if d := fs.viewOf(&st); d.mode&unix.S_ISGID != 0 {
		v.Gid = d.Gid
		if v.mode&unix.S_IFMT == unix.S_IFDIR {
			v.mode |= unix.S_ISGID
		}
	}
	return nil
}

// own changes owner and mode on the host of what was just made.
func (fs *FS) own(fd int, v *view) error {
	if err := unix.Fchownat(fd, "", int(v.Uid), int(v.Gid), unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	st, err := fs.stat(fd)
	if err != nil {
		return err
	}
	mode := st.Mode&permissions | v.mode&modeBits
	if v.mode&unix.S_IFMT == unix.S_IFLNK || mode == st.Mode&permissions {
		return nil
	}
	return unix.Chmod(again(fd), mode)
}

// Mkdir makes a directory.
func (fs *FS) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return fs.make(&in.InHeader, name, view{mode: unix.S_IFDIR | in.Mode&permissions}, out, func(dir int, mode uint32) error {
		return unix.Mkdirat(dir, name, mode)
	})
}

// Mknod makes a file, a pipe or a socket. A device is never one on the host: what the
// guest sees as one is an empty file.
func (fs *FS) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	v := view{mode: in.Mode & (unix.S_IFMT | permissions)}
	kind := in.Mode & unix.S_IFMT
	switch {
	case kind == 0:
		kind, v.mode = unix.S_IFREG, v.mode|unix.S_IFREG
	case isDevice(kind) && fs.owners != nil:
		kind, v.rdev = unix.S_IFREG, in.Rdev
	case kind != unix.S_IFREG && kind != unix.S_IFIFO && kind != unix.S_IFSOCK:
		return fuse.EPERM
	}
	return fs.make(&in.InHeader, name, v, out, func(dir int, mode uint32) error { return unix.Mknodat(dir, name, kind|mode, 0) })
}

// Symlink makes a symbolic link, which nobody here follows.
func (fs *FS) Symlink(_ <-chan struct{}, h *fuse.InHeader, to, name string, out *fuse.EntryOut) fuse.Status {
	return fs.make(h, name, view{mode: unix.S_IFLNK}, out, func(dir int, _ uint32) error { return unix.Symlinkat(to, dir, name) })
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
