//go:build linux

package share

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Bounds of one share.
const (
	maxNodes   = 1 << 18 // looked up and not forgotten; fewer where there are fewer descriptors
	maxHandles = 4096    // open files and directories; fewer where there are fewer descriptors
	maxWrite   = 256 << 10
	maxName    = 255 // bytes
)

// validity is how long the guest may believe a name or attributes without asking
// again: what the host changes is seen after that. Of a coherent share it may not.
const validity = time.Second

// Options of a share.
type Options struct {
	// Path of the folder, or of the file, on the host. A symbolic link is followed
	// once, now.
	Path string
	// ReadOnly refuses every change.
	ReadOnly bool
	// Owners is the folder of the tables in which shares that are not root's remember
	// owners; "": they do not.
	Owners string
	// UID and GID are whose files the user's own are in the guest, where this is not
	// root.
	UID, GID uint32
	// Coherent shows at once what others change: the guest keeps no names, attributes
	// and contents. A file cannot be mapped to be written then.
	Coherent bool
	// Of is how many shares the process serves, which part its descriptors among
	// them; 0: one.
	Of int

	squash bool // as if this were not root, for tests
}

// FS is the share as go-fuse sees it. Make it with New; Close it.
type FS struct {
	fuse.RawFileSystem // answers what is not offered with ENOSYS

	readOnly bool
	only     string     // the one name that there is in the root; "": all
	squash   bool       // all is the invoking user's: the host's owners are not the guest's
	user     fuse.Owner // whose that is in the guest, where squash
	owners   *table     // what the guest has made of it, where squash
	forgets  error      // why there is no table
	validity time.Duration
	opened   uint32 // flags of an answer to OPEN
	limits   limits
	locks    *lockTable

	mu      sync.Mutex // guards the following
	nodes   map[uint64]*node
	byFile  map[fileID]*node
	nextID  uint64
	handles map[uint64]*handle
	nextFH  uint64
	closed  bool
}

// fileID tells files apart for as long as a node holds them open.
type fileID struct{ dev, ino uint64 }

// node is a file that the guest has looked up.
type node struct {
	id      uint64
	fd      int // O_PATH
	file    fileID
	kind    uint32 // S_IFMT
	birth   uint64 // of status
	lookups uint64 // that the guest has not taken back; FS.mu
	users   int    // requests that use fd; FS.mu
}

// handle is an open file or directory.
type handle struct {
	mu       sync.Mutex // held while the position of a directory matters
	f        *os.File
	dir      bool
	users    int  // requests that use f; FS.mu
	released bool // the last of them closes f; FS.mu
}

// limits are how many there may be of what holds a descriptor.
type limits struct{ nodes, handles, locks int }

// New opens a share; errs.NotFound, errs.PermissionDenied.
func New(o Options) (*FS, error) {
	path, err := filepath.EvalSymlinks(o.Path)
	if err != nil {
		return nil, classed(err)
	}
	fi, err := os.Lstat(path)
	if err != nil {
		return nil, classed(err)
	}
	fs := &FS{RawFileSystem: fuse.NewDefaultRawFileSystem(), readOnly: o.ReadOnly, squash: o.squash || os.Geteuid() != 0, limits: limitsOf(o.Of),
		nodes: map[uint64]*node{}, byFile: map[fileID]*node{}, nextID: fuse.FUSE_ROOT_ID, handles: map[uint64]*handle{}}
	fs.locks, fs.validity = newLockTable(fs.limits.locks), validity
	if o.Coherent {
		fs.validity, fs.opened = 0, fuse.FOPEN_DIRECT_IO
	}
	switch {
	case fi.Mode().IsRegular():
		path, fs.only = filepath.Dir(path), filepath.Base(path)
	case !fi.IsDir():
		return nil, errs.New(errs.InvalidArgument, "%s is neither a folder nor a file", o.Path)
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, classed(&os.PathError{Op: "open", Path: path, Err: err})
	}
	st, err := fs.stat(fd)
	if err != nil {
		_ = unix.Close(fd)
		return nil, classed(&os.PathError{Op: "stat", Path: path, Err: err})
	}
	if fs.squash && o.Owners != "" {
		fs.user = fuse.Owner{Uid: o.UID, Gid: o.GID}
		st.birth = birth(fd)
		fs.owners, fs.forgets = openTable(o.Owners, path, &st, o.ReadOnly)
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.addLocked(fd, &st, unix.S_IFDIR)
	return fs, nil
}

func classed(err error) error {
	switch {
	case os.IsNotExist(err):
		return errs.As(errs.NotFound, err)
	case os.IsPermission(err):
		return errs.As(errs.PermissionDenied, err)
	}
	return errs.As(errs.Unavailable, err)
}

// limitsOf parts the process's descriptors among its shares: half are for nodes, an
// eighth for handles and another for locks, and the rest for all else.
func limitsOf(shares int) limits {
	lim := unix.Rlimit{Cur: 1024}
	_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) // it stays what it is nearly everywhere
	each := lim.Cur / uint64(max(shares, 1))
	return limits{nodes: int(min(maxNodes, each/2)), handles: int(min(maxHandles, each/8)), locks: int(min(maxLocks, each/8))}
}

// Close lets go of everything. No request may be under way.
func (fs *FS) Close() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.closed = true
	fs.locks.clear()
	for _, n := range fs.nodes {
		fs.closeLocked(n)
	}
	for _, h := range fs.handles {
		_ = h.f.Close() // the guest is gone, and what it flushed is written
	}
	fs.owners.close()
	clear(fs.nodes)
	clear(fs.byFile)
	clear(fs.handles)
}

func (fs *FS) String() string { return "share" }

// identify tells a file from others. Of a share of one file, whatever stands under
// its name is the same file.
func (fs *FS) identify(st *status) fileID {
	if fs.only != "" && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fileID{}
	}
	return fileID{st.Dev, st.Ino}
}

// addLocked makes a node of fd, which is then its own, or counts one more lookup
// of the node that there is, and closes fd.
func (fs *FS) addLocked(fd int, st *status, kind uint32) *node {
	file := fs.identify(st)
	if n := fs.byFile[file]; n != nil {
		_ = unix.Close(fd) // a path
		n.lookups++
		return n
	}
	n := &node{id: fs.nextID, fd: fd, file: file, kind: kind, birth: st.birth, lookups: 1}
	fs.nextID++
	fs.nodes[n.id], fs.byFile[file] = n, n
	return n
}

// use answers a node until done is called.
func (fs *FS) use(id uint64) (n *node, done func(), code fuse.Status) {
	if fs.only != "" && id != fuse.FUSE_ROOT_ID {
		return fs.useNamed(id)
	}
	return fs.useNode(id)
}

// useNamed is use for the file of a share that has one file: it is found anew by
// its name. The guest has mounted the file itself, and so never asks for its name
// again; an editor that writes a new file and gives it the name would otherwise
// leave the guest with the one that was deleted.
func (fs *FS) useNamed(id uint64) (n *node, done func(), code fuse.Status) {
	_, known, code := fs.useNode(id)
	if !code.Ok() {
		return nil, nil, code
	}
	defer known()
	dir, release, code := fs.useNode(fuse.FUSE_ROOT_ID)
	if !code.Ok() {
		return nil, nil, code
	}
	defer release()
	fd, err := openBeneath(dir.fd, fs.only, unix.O_PATH, 0)
	if err != nil {
		return nil, nil, fuse.ToStatus(err)
	}
	if st, err := fs.stat(fd); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		_ = unix.Close(fd)           // a path
		return nil, nil, fuse.ENOENT // another type would make the guest's kernel give the file up
	}
	return &node{id: id, fd: fd, kind: unix.S_IFREG}, func() { _ = unix.Close(fd) }, fuse.OK
}

func (fs *FS) useNode(id uint64) (n *node, done func(), code fuse.Status) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n = fs.nodes[id]
	if n == nil || fs.closed {
		return nil, nil, fuse.Status(unix.ESTALE)
	}
	n.users++
	return n, func() {
		fs.mu.Lock()
		defer fs.mu.Unlock()
		n.users--
		fs.dropLocked(n)
	}, fuse.OK
}

// useDir is use for a directory.
func (fs *FS) useDir(id uint64) (n *node, done func(), code fuse.Status) {
	n, done, code = fs.use(id)
	if code.Ok() && n.kind != unix.S_IFDIR {
		done()
		return nil, nil, fuse.ENOTDIR
	}
	return n, done, code
}

// dropLocked closes a node that nobody knows or uses any more. The root stays.
func (fs *FS) dropLocked(n *node) {
	if n.lookups > 0 || n.users > 0 || n.id == fuse.FUSE_ROOT_ID || fs.nodes[n.id] != n {
		return
	}
	delete(fs.nodes, n.id)
	delete(fs.byFile, n.file)
	fs.closeLocked(n)
}

// closeLocked closes a node's descriptor. What has no name any more need not be
// remembered.
func (fs *FS) closeLocked(n *node) {
	if fs.owners != nil && !fs.readOnly {
		st := status{birth: n.birth}
		if err := unix.Fstat(n.fd, &st.Stat_t); err == nil && st.Nlink == 0 {
			fs.owners.forget(&st)
		}
	}
	_ = unix.Close(n.fd) // a path
}

// Forget takes lookups back.
func (fs *FS) Forget(id, count uint64) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n := fs.nodes[id]
	if n == nil {
		return
	}
	n.lookups -= min(count, n.lookups)
	fs.dropLocked(n)
}

// component checks that a name is one.
func component(name string) fuse.Status {
	switch {
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		return fuse.EINVAL
	case len(name) > maxName:
		return fuse.Status(unix.ENAMETOOLONG)
	}
	return fuse.OK
}

// visible checks a name in a directory of the share.
func (fs *FS) visible(dir *node, name string) fuse.Status {
	if code := component(name); !code.Ok() {
		return code
	}
	if fs.only != "" && (dir.id != fuse.FUSE_ROOT_ID || name != fs.only) {
		return fuse.ENOENT
	}
	return fuse.OK
}

// changeable checks that a name in a directory may be made, or taken away.
func (fs *FS) changeable(dir *node, name string) fuse.Status {
	switch {
	case fs.readOnly:
		return fuse.EROFS
	case fs.only != "":
		return fuse.EPERM // the file may be written to, and nothing else
	}
	return component(name)
}

// beneath is how names are resolved.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

func openBeneath(dir int, name string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat2(dir, name, &unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW), Mode: uint64(mode), Resolve: beneath})
		if err != unix.EINTR && err != unix.EAGAIN { // a rename beside it
			return fd, err
		}
	}
}

// lookup makes a node of a name, and answers its attributes.
func (fs *FS) lookup(dir *node, name string, out *fuse.EntryOut) fuse.Status {
	fd, err := openBeneath(dir.fd, name, unix.O_PATH, 0)
	if err != nil {
		return fuse.ToStatus(err)
	}
	st, err := fs.stat(fd)
	if err != nil {
		_ = unix.Close(fd)
		return fuse.ToStatus(err)
	}
	fs.attributes(&st, &out.Attr)
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.only != "" && st.Mode&unix.S_IFMT != unix.S_IFREG {
		_ = unix.Close(fd) // a path
		return fuse.ENOENT
	}
	if fs.closed || len(fs.nodes) >= fs.limits.nodes && fs.byFile[fs.identify(&st)] == nil {
		_ = unix.Close(fd)
		return fuse.Status(unix.ENFILE)
	}
	n := fs.addLocked(fd, &st, out.Mode&unix.S_IFMT)
	out.NodeId, out.Generation = n.id, 1
	out.SetEntryTimeout(fs.validity)
	out.SetAttrTimeout(fs.validity)
	return fuse.OK
}

// again is the path by which the file of a descriptor is opened.
func again(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }
