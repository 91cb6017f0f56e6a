//go:build linux

package share

import (
	"os"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// openFlags are those that the guest may give. Where to write it says itself.
const openFlags = unix.O_ACCMODE | unix.O_TRUNC | unix.O_SYNC | unix.O_DSYNC

// GetAttr answers the attributes of a file.
func (fs *FS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n, done, code := fs.use(in.NodeId)
	if !code.Ok() {
		return code
	}
	defer done()
	return fs.tell(n, out)
}

func (fs *FS) tell(n *node, out *fuse.AttrOut) fuse.Status {
	st, err := fs.stat(n.fd)
	if err != nil {
		return fuse.ToStatus(err)
	}
	out.SetTimeout(fs.validity)
	fs.attributes(&st, &out.Attr)
	return fuse.OK
}

// SetAttr changes attributes.
func (fs *FS) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if fs.readOnly {
		return fuse.EROFS
	}
	n, done, code := fs.use(in.NodeId)
	if !code.Ok() {
		return code
	}
	defer done()
	if fs.only != "" && n.id == fuse.FUSE_ROOT_ID { // its folder is not shared
		return fuse.EPERM
	}
	if err := fs.set(n, in); err != nil {
		return fuse.ToStatus(err)
	}
	return fs.tell(n, out)
}

func (fs *FS) set(n *node, in *fuse.SetAttrIn) error {
	if in.Valid&fuse.FATTR_MODE != 0 && n.kind == unix.S_IFLNK {
		return unix.EOPNOTSUPP
	}
	do := fs.setHost
	if fs.squash {
		do = fs.setView
	}
	if err := do(n, in); err != nil {
		return err
	}
	if in.Valid&fuse.FATTR_SIZE != 0 {
		if err := fs.truncate(n, in); err != nil {
			return err
		}
	}
	return setTimes(n, in)
}

// setHost changes owner and mode where the host's are the guest's.
func (fs *FS) setHost(n *node, in *fuse.SetAttrIn) error {
	if in.Valid&(fuse.FATTR_UID|fuse.FATTR_GID) != 0 {
		uid, gid := -1, -1
		if in.Valid&fuse.FATTR_UID != 0 {
			uid = int(in.Uid)
		}
		if in.Valid&fuse.FATTR_GID != 0 {
			gid = int(in.Gid)
		}
		if err := unix.Fchownat(n.fd, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
			return err
		}
	}
	if in.Valid&fuse.FATTR_MODE != 0 {
		return unix.Chmod(again(n.fd), in.Mode&modeBits)
	}
	return nil
}

// setView changes owner and mode where the guest has its own.
func (fs *FS) setView(n *node, in *fuse.SetAttrIn) error {
	if in.Valid&(fuse.FATTR_UID|fuse.FATTR_GID|fuse.FATTR_MODE) == 0 {
		return nil
	}
	return fs.revise(n.fd, func(v *view) {
		if in.Valid&fuse.FATTR_UID != 0 {
			v.Uid = in.Uid
		}
		if in.Valid&fuse.FATTR_GID != 0 {
			v.Gid = in.Gid
		}
		if in.Valid&fuse.FATTR_MODE != 0 {
			v.mode = v.mode&unix.S_IFMT | in.Mode&permissions
		}
	})
}

// truncate cuts a file or makes it longer: the open one that the guest names, whose
// permission bits may forbid to open it again, or else the node's.
func (fs *FS) truncate(n *node, in *fuse.SetAttrIn) error {
	size := in.Size
	if n.kind != unix.S_IFREG || size > 1<<62 {
		return unix.EINVAL
	}
	if fh, given := in.GetFh(); given {
		h, done, code := fs.handle(fh, false)
		if !code.Ok() {
			return unix.EBADF
		}
		defer done()
		return unix.Ftruncate(int(h.f.Fd()), int64(size))
	}
	fd, err := unix.Open(again(n.fd), unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written
	return unix.Ftruncate(fd, int64(size))
}

func setTimes(n *node, in *fuse.SetAttrIn) error {
	if in.Valid&(fuse.FATTR_ATIME|fuse.FATTR_MTIME) == 0 || n.kind == unix.S_IFLNK {
		return nil // a link's times nobody misses
	}
	one := func(set, now uint32, sec uint64, nsec uint32) unix.Timespec {
		switch {
		case in.Valid&now != 0:
			return unix.Timespec{Nsec: unix.UTIME_NOW}
		case in.Valid&set != 0:
			return unix.Timespec{Sec: int64(sec), Nsec: int64(min(nsec, 999999999))}
		}
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	}
	times := []unix.Timespec{one(fuse.FATTR_ATIME, fuse.FATTR_ATIME_NOW, in.Atime, in.Atimensec),
		one(fuse.FATTR_MTIME, fuse.FATTR_MTIME_NOW, in.Mtime, in.Mtimensec)}
	return unix.UtimesNanoAt(unix.AT_FDCWD, again(n.fd), times, 0)
}

// open opens a regular file of the share anew.
func (fs *FS) open(n *node, flags uint32) (*os.File, fuse.Status) {
	if n.kind != unix.S_IFREG {
		return nil, fuse.Status(unix.EOPNOTSUPP)
	}
	if fs.readOnly && (flags&unix.O_ACCMODE != unix.O_RDONLY || flags&unix.O_TRUNC != 0) {
		return nil, fuse.EROFS
	}
	fd, err := unix.Open(again(n.fd), int(flags&openFlags)|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fuse.ToStatus(err)
	}
	return os.NewFile(uintptr(fd), "file"), fuse.OK
}

// keep gives an open file a number.
func (fs *FS) keep(h *handle) (uint64, fuse.Status) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.closed || len(fs.handles) >= fs.limits.handles {
		_ = h.f.Close() // nothing was written
		return 0, fuse.Status(unix.ENFILE)
	}
	fs.nextFH++
	fs.handles[fs.nextFH] = h
	return fs.nextFH, fuse.OK
}

// handle answers an open file, or directory, whose descriptor stays until done is
// called. A guest may release it while another request reads from it: were it
// closed then, that request would go to whatever file of the host was opened next
// under the same number.
func (fs *FS) handle(fh uint64, dir bool) (h *handle, done func(), code fuse.Status) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	h = fs.handles[fh]
	if h == nil || h.dir != dir || fs.closed {
		return nil, nil, fuse.EBADF
	}
	h.users++
	return h, func() {
		fs.mu.Lock()
		h.users--
		last := h.released && h.users == 0
		fs.mu.Unlock()
		if last {
			_ = h.f.Close() // what a flush or a sync had to tell they told
		}
	}, fuse.OK
}

// release takes a handle away from a guest.
func (fs *FS) release(fh uint64) {
	fs.mu.Lock()
	h := fs.handles[fh]
	last := false
	if h != nil {
		delete(fs.handles, fh)
		h.released, last = true, h.users == 0
	}
	fs.mu.Unlock()
	if last {
		_ = h.f.Close() // what a flush or a sync had to tell they told
	}
}

// Open opens a file.
func (fs *FS) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n, done, code := fs.use(in.NodeId)
	if !code.Ok() {
		return code
	}
	defer done()
	f, code := fs.open(n, in.Flags)
	if !code.Ok() {
		return code
	}
	out.OpenFlags = fs.opened
	out.Fh, code = fs.keep(&handle{f: f})
	return code
}

// Create makes a file and opens it. One that is there is opened as it is.
func (fs *FS) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	dir, done, code := fs.useDir(in.NodeId)
	if !code.Ok() {
		return code
	}
	defer done()
	if code := fs.changeable(dir, name); !code.Ok() {
		return code
	}
	fd, err := openBeneath(dir.fd, name, int(in.Flags&openFlags)|unix.O_CREAT|unix.O_EXCL, fs.modeOnHost(unix.S_IFREG|in.Mode))
	switch {
	case err == nil:
		f := os.NewFile(uintptr(fd), "file")
		if code = fs.adopt(dir, fd, name, &view{Owner: in.Owner, mode: unix.S_IFREG | in.Mode&permissions}); code.Ok() {
			code = fs.lookup(dir, name, &out.EntryOut)
		}
		if !code.Ok() {
			_ = f.Close() // nothing was written
			return code
		}
		out.OpenFlags = fs.opened
		out.Fh, code = fs.keep(&handle{f: f})
		return code
	case err != unix.EEXIST || in.Flags&unix.O_EXCL != 0:
		return fuse.ToStatus(err)
	}
	if code := fs.lookup(dir, name, &out.EntryOut); !code.Ok() {
		return code
	}
	return fs.Open(nil, &fuse.OpenIn{InHeader: fuse.InHeader{NodeId: out.NodeId}, Flags: in.Flags}, &out.OpenOut)
}

// Read reads from a file into buf.
func (fs *FS) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	h, done, code := fs.handle(in.Fh, false)
	if !code.Ok() {
		return nil, code
	}
	defer done()
	n, err := unix.Pread(int(h.f.Fd()), buf, int64(in.Offset))
	if err != nil {
		return nil, fuse.ToStatus(err)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

// Write writes to a file.
func (fs *FS) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	if fs.readOnly {
		return 0, fuse.EROFS
	}
	h, done, code := fs.handle(in.Fh, false)
	if !code.Ok() {
		return 0, code
	}
	defer done()
	n, err := write(h.f, in, data)
	return uint32(max(n, 0)), fuse.ToStatus(err)
}

// Fsync brings a file to the disk.
func (fs *FS) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	h, done, code := fs.handle(in.Fh, false)
	if !code.Ok() {
		return code
	}
	defer done()
	return fs.sync(h)
}

// sync brings to the disk what is open, and what is remembered of it and all else.
func (fs *FS) sync(h *handle) fuse.Status {
	if err := h.f.Sync(); err != nil {
		return fuse.ToStatus(err)
	}
	return fuse.ToStatus(fs.owners.sync())
}

// Fallocate makes room in a file.
func (fs *FS) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	if fs.readOnly {
		return fuse.EROFS
	}
	h, done, code := fs.handle(in.Fh, false)
	if !code.Ok() {
		return code
	}
	defer done()
	if in.Offset > 1<<62 || in.Length > 1<<62 {
		return fuse.EINVAL
	}
	return fuse.ToStatus(unix.Fallocate(int(h.f.Fd()), in.Mode, int64(in.Offset), int64(in.Length)))
}

// Lseek finds data and holes.
func (fs *FS) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	if in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE {
		return fuse.EINVAL
	}
	h, done, code := fs.handle(in.Fh, false)
	if !code.Ok() {
		return code
	}
	defer done()
	at, err := unix.Seek(int(h.f.Fd()), int64(in.Offset), int(in.Whence))
	out.Offset = uint64(at)
	return fuse.ToStatus(err)
}

// StatFs answers how much room there is.
func (fs *FS) StatFs(_ <-chan struct{}, h *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	n, done, code := fs.use(h.NodeId)
	if !code.Ok() {
		return code
	}
	defer done()
	var st syscall.Statfs_t
	if err := syscall.Fstatfs(n.fd, &st); err != nil {
		return fuse.ToStatus(err)
	}
	out.FromStatfsT(&st)
	return fuse.OK
}
