//go:build linux

package share

import (
	"os"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// releaseFlock says that a file had an flock lock (FUSE_RELEASE_FLOCK_UNLOCK of
// include/uapi/linux/fuse.h).
const releaseFlock = 1 << 1

// GetLk tells who keeps the guest from having a lock.
func (fs *FS) GetLk(_ <-chan struct{}, in *fuse.LkIn, out *fuse.LkOut) fuse.Status {
	h, done, code := fs.handle(in.Fh, false)
	if !code.Ok() {
		return code
	}
	defer done()
	key, want, code := lockOf(h, in)
	if !code.Ok() || key.flock || want.kind == unix.F_UNLCK {
		return fuse.EINVAL
	}
	l, left, code := fs.locks.use(key, func() (*os.File, error) { return fs.lockFile(h) })
	if !code.Ok() {
		return code
	}
	defer left()
	lk := want.flock()
	if err := unix.FcntlFlock(l.f.Fd(), unix.F_OFD_GETLK, &lk); err != nil {
		return fuse.ToStatus(err)
	}
	out.Lk = fuse.FileLock{Typ: unix.F_UNLCK}
	if lk.Type == unix.F_UNLCK {
		return fuse.OK
	}
	other := span{lk.Start, toEnd, lk.Type}
	if lk.Len > 0 {
		other.end = lk.Start + lk.Len - 1
	}
	out.Lk = fuse.FileLock{Start: uint64(other.start), End: uint64(other.end), Typ: uint32(other.kind), Pid: fs.locks.holder(key, want)}
	return fuse.OK
}

// SetLk takes a lock, or lets go of one.
func (fs *FS) SetLk(_ <-chan struct{}, in *fuse.LkIn) fuse.Status {
	return fs.setLock(in, func(l *lock, want span) fuse.Status { return fs.locks.set(l, want, in.Lk.Pid) })
}

// SetLkw waits for a lock. No INTERRUPT comes of Linux as a guest: its driver sends
// none (virtio_fs_send_interrupt of fs/fuse/virtio_fs.c).
func (fs *FS) SetLkw(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	return fs.setLock(in, func(l *lock, want span) fuse.Status { return fs.locks.wait(cancel, l, want, in.Lk.Pid) })
}

func (fs *FS) setLock(in *fuse.LkIn, do func(*lock, span) fuse.Status) fuse.Status {
	h, done, code := fs.handle(in.Fh, false)
	if !code.Ok() {
		return code
	}
	defer done()
	key, want, code := lockOf(h, in)
	if !code.Ok() {
		return code
	}
	if want.kind == unix.F_UNLCK && want == (span{0, toEnd, unix.F_UNLCK}) {
		fs.locks.release(key)
		return fuse.OK
	}
	l, left, code := fs.locks.use(key, func() (*os.File, error) { return fs.lockFile(h) })
	if !code.Ok() {
		return code
	}
	defer left()
	return do(l, want)
}

// lockOf reads a request.
func lockOf(h *handle, in *fuse.LkIn) (lockKey, span, fuse.Status) {
	var st unix.Stat_t
	if err := unix.Fstat(int(h.f.Fd()), &st); err != nil {
		return lockKey{}, span{}, fuse.ToStatus(err)
	}
	key := lockKey{fileID{st.Dev, st.Ino}, in.Owner, in.LkFlags&fuse.FUSE_LK_FLOCK != 0}
	if in.Lk.Typ != unix.F_RDLCK && in.Lk.Typ != unix.F_WRLCK && in.Lk.Typ != unix.F_UNLCK ||
		in.Lk.Start > in.Lk.End || in.Lk.End > toEnd {
		return key, span{}, fuse.EINVAL
	}
	want := span{int64(in.Lk.Start), int64(in.Lk.End), int16(in.Lk.Typ)}
	if key.flock {
		want.start, want.end = 0, toEnd
	}
	return key, want, fuse.OK
}

// lockFile opens a file of the guest once more, to have locks apart from those of
// others. A process may lock for reading and for writing by different open files, so
// it is opened for both where that is possible.
func (fs *FS) lockFile(h *handle) (*os.File, error) {
	const flags = unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY
	path := again(int(h.f.Fd()))
	fd, err := -1, error(unix.EROFS)
	if !fs.readOnly {
		fd, err = unix.Open(path, unix.O_RDWR|flags, 0)
	}
	if err != nil {
		fd, err = unix.Open(path, unix.O_RDONLY|flags, 0)
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "lock"), nil
}

// Flush frees what the process that closes a file has locked of it by fcntl: all of
// it, by whichever open file (fcntl(2)). Writes are through.
func (fs *FS) Flush(_ <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	fs.unlock(in.Fh, in.LockOwner, false)
	return fuse.OK
}

// Release closes a file, and frees its flock lock.
func (fs *FS) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	if in.ReleaseFlags&releaseFlock != 0 {
		fs.unlock(in.Fh, in.LockOwner, true)
	}
	fs.release(in.Fh)
}

func (fs *FS) unlock(fh, owner uint64, flock bool) {
	if !fs.locks.any() {
		return
	}
	h, done, code := fs.handle(fh, false)
	if !code.Ok() {
		return
	}
	defer done()
	var st unix.Stat_t
	if unix.Fstat(int(h.f.Fd()), &st) == nil { // it does not fail on what is open
		fs.locks.release(lockKey{fileID{st.Dev, st.Ino}, owner, flock})
	}
}
