//go:build linux

package share

import (
	"os"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// status is a file as the host has it.
type status struct {
	unix.Statx_t
	dev   uint64
	mode  uint32 // with S_IFMT
	rdev  uint32
	birth uint64 // nanoseconds; 0 where the filesystem does not tell
}

// stat returns the status of a descriptor's file.
func stat(fd int) (s status, err error) {
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &s.Statx_t); err != nil {
		return s, err
	}
	s.dev, s.rdev, s.mode = unix.Mkdev(s.Dev_major, s.Dev_minor), uint32(unix.Mkdev(s.Rdev_major, s.Rdev_minor)), uint32(s.Mode)
	if s.Mask&unix.STATX_BTIME != 0 {
		s.birth = uint64(s.Btime.Sec)*1e9 + uint64(s.Btime.Nsec)
	}
	return s, nil
}

// view is of a file what the guest sees in another way than the host.
type view struct {
	fuse.Owner
	mode uint32 // with S_IFMT
	rdev uint32
}

// viewOf returns how the guest sees a file.
func (fs *FS) viewOf(st *status) view {
	v := fs.plain(st)
	if !fs.squash {
		return v
	}
	if r, ok := fs.owners.find(st); ok {
		v = v.remembered(r)
	}
	return v
}

// plain is the view of a file of which nothing is remembered.
func (fs *FS) plain(st *status) view {
	v := view{fuse.Owner{Uid: st.Uid, Gid: st.Gid}, st.mode, st.rdev}
	if fs.squash {
		v.Owner = fuse.Owner{Uid: squashed(st.Uid, os.Geteuid(), fs.user.Uid), Gid: squashed(st.Gid, os.Getegid(), fs.user.Gid)}
	}
	return v
}

// squashed is an owner of the host in the guest, where the host's user is mine and in
// the guest known as known.
func squashed(id uint32, mine int, known uint32) uint32 {
	const nobody = 65534
	if int(id) == mine {
		return known
	}
	return nobody
}

// remembered is the view of v's file with what a table has of it. A mode that was
// changed on the host since then is the host's.
func (v view) remembered(r record) view {
	kind := r.mode & unix.S_IFMT
	device := isDevice(kind) && v.mode&unix.S_IFMT == unix.S_IFREG
	if !device && kind != v.mode&unix.S_IFMT {
		return v // of a file whose inode this one has now
	}
	v.Owner = fuse.Owner{Uid: r.uid, Gid: r.gid}
	if v.mode&permissions == r.host {
		v.mode = v.mode&^permissions | r.mode&permissions
	}
	if device {
		v.mode, v.rdev = kind|v.mode&permissions, r.rdev
	}
	return v
}

func isDevice(kind uint32) bool { return kind == unix.S_IFCHR || kind == unix.S_IFBLK }

// hostMode are the permission bits that a file has on the host for a mode in the
// guest. Nobody's identity is lent, and the user can use the file, whatever the guest
// thinks of it: it is the user's, and checking is up to the guest's kernel.
func hostMode(mode uint32) uint32 {
	if mode&unix.S_IFMT == unix.S_IFDIR {
		return mode&modeBits | 0o700
	}
	return mode&modeBits | 0o600
}

// revise changes the guest's view of a file. The host's has the permission bits that
// go with it.
func (fs *FS) revise(fd int, change func(*view)) error {
	st, err := stat(fd)
	if err != nil {
		return err
	}
	want := st.mode & permissions
	err = fs.owners.update(&st, func(r record, found bool) (record, bool) {
		was := fs.plain(&st)
		if found {
			was = was.remembered(r)
		}
		v := was
		change(&v)
		if v.mode != was.mode {
			want = hostMode(v.mode)
		}
		r = record{uid: v.Uid, gid: v.Gid, mode: v.mode, host: want, rdev: v.rdev}
		st := st
		st.mode = st.mode&^permissions | want
		return r, v != fs.plain(&st)
	})
	if err != nil || want == st.mode&permissions {
		return err
	}
	return unix.Chmod(again(fd), want)
}

// attributes are those of a file as the guest sees them.
func (fs *FS) attributes(st *status, a *fuse.Attr) {
	v := fs.viewOf(st)
	*a = fuse.Attr{Ino: st.Ino, Size: st.Size, Blocks: st.Blocks, Mode: v.mode, Nlink: st.Nlink,
		Owner: v.Owner, Rdev: v.rdev, Blksize: st.Blksize,
		Atime: uint64(st.Atime.Sec), Mtime: uint64(st.Mtime.Sec), Ctime: uint64(st.Ctime.Sec),
		Atimensec: st.Atime.Nsec, Mtimensec: st.Mtime.Nsec, Ctimensec: st.Ctime.Nsec}
}
