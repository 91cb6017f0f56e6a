//go:build linux

package share

import (
	"encoding/binary"
	"os"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// OpenDir opens a directory.
func (fs *FS) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n, done, code := fs.useDir(in.NodeId)
	if !code.Ok() {
		return code
	}
	defer done()
	fd, err := unix.Open(again(n.fd), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fuse.ToStatus(err)
	}
	out.Fh, code = fs.keep(&handle{f: os.NewFile(uintptr(fd), "directory"), dir: true})
	return code
}

// ReleaseDir closes a directory.
func (fs *FS) ReleaseDir(in *fuse.ReleaseIn) { fs.release(in.Fh) }

// FsyncDir brings a directory to the disk.
func (fs *FS) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	h, done, code := fs.handle(in.Fh, true)
	if !code.Ok() {
		return code
	}
	defer done()
	return fs.sync(h)
}

// ReadDir lists a directory from a position on.
func (fs *FS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return fs.list(in, func(e fuse.DirEntry) bool { return out.AddDirEntry(e) })
}

// ReadDirPlus lists a directory, and looks each name up.
func (fs *FS) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	dir, done, code := fs.useDir(in.NodeId)
	if !code.Ok() {
		return code
	}
	defer done()
	return fs.list(in, func(e fuse.DirEntry) bool {
		entry := out.AddDirLookupEntry(e)
		if entry == nil {
			return false
		}
		if e.Name == "." || e.Name == ".." || !fs.lookup(dir, e.Name, entry).Ok() {
			*entry = fuse.EntryOut{} // gone meanwhile, or none of the share's: the name alone
		}
		return true
	})
}

// list tells add the entries of a directory, until there are no more or add has
// no room. The position is the one that the kernel gave with the last entry.
func (fs *FS) list(in *fuse.ReadIn, add func(fuse.DirEntry) bool) fuse.Status {
	h, done, code := fs.handle(in.Fh, true)
	if !code.Ok() {
		return code
	}
	defer done()
	h.mu.Lock()
	defer h.mu.Unlock()
	fd := int(h.f.Fd())
	if _, err := unix.Seek(fd, int64(in.Offset), unix.SEEK_SET); err != nil {
		return fuse.ToStatus(err)
	}
	buf := make([]byte, 16<<10)
	for {
		n, err := unix.Getdents(fd, buf)
		if err != nil {
			return fuse.ToStatus(err)
		}
		if n == 0 {
			return fuse.OK
		}
		for b := buf[:n]; len(b) > 0; {
			e, size := entryOf(b)
			b = b[size:]
			if fs.only != "" && e.Name != fs.only && e.Name != "." && e.Name != ".." {
				continue
			}
			if !add(e) {
				return fuse.OK
			}
		}
	}
}

// entryOf reads a struct linux_dirent64 (getdents(2)), which the host's kernel
// wrote.
func entryOf(b []byte) (e fuse.DirEntry, size int) {
	e.Ino, e.Off = binary.NativeEndian.Uint64(b), binary.NativeEndian.Uint64(b[8:])
	size = int(binary.NativeEndian.Uint16(b[16:]))
	e.Mode = uint32(b[18]) << 12
	name := b[19:size]
	for i, c := range name {
		if c == 0 {
			name = name[:i]
			break
		}
	}
	e.Name = string(name)
	return e, size
}
