//go:build linux

package share

import (
	"os"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// status is a file as the host has it.
type status struct {
	unix.Stat_t
	birth uint64 // nanoseconds; 0 where the filesystem does not tell, or nobody asks
}

// stat returns the status of a descriptor's file. When that was born is asked once for
// each node: it costs another call.
func (fs *FS) stat(fd int) (s status, err error) {
	if err := unix.Fstat(fd, &s.Stat_t); err != nil || fs.owners == nil {
		return s, err
	}
	fs.mu.Lock()
	n := fs.byFile[fileID{s.Dev, s.Ino}]
	if n != nil {
		s.birth = n.birth
	}
	fs.mu.Unlock()
	if n == nil {
		s.birth = birth(fd)
	}
	return s, nil
}

// birth returns when a descriptor's file was born.
func birth(fd int) uint64 {
	var x unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BTIME, &x); err != nil || x.Mask&unix.STATX_BTIME == 0 {
		return 0
	}
	return uint64(x.Btime.Sec)*1e9 + uint64(x.Btime.Nsec)
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
	v := view{fuse.Owner{Uid: st.Uid, Gid: st.Gid}, st.Mode, uint32(st.Rdev)}
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
	st, err := fs.stat(fd)
	if err != nil {
		return err
	}
	want := st.Mode & permissions
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
		st.Mode = st.Mode&^permissions | want
		return r, v != fs.plain(&st)
	})
	if err != nil || want == st.Mode&permissions {
		return err
	}
	return unix.Chmod(again(fd), want)
}

// attributes are those of a file as the guest sees them.
func (fs *FS) attributes(st *status, a *fuse.Attr) {
	v := fs.viewOf(st)
	*a = fuse.Attr{Ino: st.Ino, Size: uint64(st.Size), Blocks: uint64(st.Blocks), Mode: v.mode, Nlink: uint32(st.Nlink),
		Owner: v.Owner, Rdev: v.rdev, Blksize: uint32(st.Blksize),
		Atime: uint64(st.Atim.Sec), Mtime: uint64(st.Mtim.Sec), Ctime: uint64(st.Ctim.Sec),
		Atimensec: uint32(st.Atim.Nsec), Mtimensec: uint32(st.Mtim.Nsec), Ctimensec: uint32(st.Ctim.Nsec)}
}
