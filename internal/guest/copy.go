//go:build linux

package guest

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/archive"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/wire"
)

// Files are copied in and out as tars. Paths are resolved in the root that the
// container's first process sees, its mounts included.

// Stat describes a file of the container.
func (a *agent) Stat(_ context.Context, s agentproto.Stat) (agentproto.FileInfo, error) {
	v, err := a.view(s.Path)
	if err != nil {
		return agentproto.FileInfo{}, err
	}
	defer v.close()
	return v.info()
}

// Read sends a tar of a file or a tree.
func (a *agent) Read(ctx context.Context, r agentproto.Read) (agentproto.Empty, error) {
	v, err := a.view(r.Path)
	if err != nil {
		return agentproto.Empty{}, err
	}
	defer v.close()
	return agentproto.Empty{}, a.transfer(ctx, r.Stream, func(s *wire.Stream) error {
		w := bufio.NewWriterSize(s, chunk)
		if err := v.pack(ctx, w, r.Follow); err != nil {
			return err
		}
		if err := w.Flush(); err != nil {
			return err
		}
		return s.CloseWrite()
	})
}

// Write unpacks a tar below a directory.
func (a *agent) Write(ctx context.Context, w agentproto.Write) (agentproto.Empty, error) {
	v, err := a.view(w.Path)
	if err != nil {
		return agentproto.Empty{}, err
	}
	defer v.close()
	fd, err := v.root.open(v.path, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return agentproto.Empty{}, copyError(err)
	}
	dir, err := os.OpenRoot(fdPath(fd))
	_ = unix.Close(fd)
	if err != nil {
		return agentproto.Empty{}, err
	}
	defer func() { _ = dir.Close() }() // only a descriptor
	o := archive.Options{KeepOwner: w.KeepOwner}
	if !w.KeepOwner {
		o.Owner = &archive.Owner{}
	}
	return agentproto.Empty{}, a.transfer(ctx, w.Stream, func(s *wire.Stream) error {
		if err := archive.Unpack(ctx, bufio.NewReaderSize(s, chunk), dir, o); err != nil {
			return copyError(err)
		}
		_, err := io.Copy(io.Discard, struct{ io.Reader }{s}) // a tar may be padded
		return err
	})
}

// copyError gives an error its class.
func copyError(err error) error {
	switch {
	case err == nil || errs.ClassOf(err) != errs.Unknown:
		return err
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return errs.As(errs.NotFound, err)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return errs.As(errs.ResourceExhausted, err)
	}
	return errs.As(errs.FailedPrecondition, err)
}

// view is a path in the container.
type view struct {
	root inRoot
	file *os.File // of root
	path string   // absolute, clean
}

func (a *agent) view(p string) (*view, error) {
	if !absolute(p) {
		return nil, errs.New(errs.InvalidArgument, "%.200q is not an absolute path", p)
	}
	c, err := a.running()
	if err != nil {
		return nil, err
	}
	root, err := c.openRoot()
	if err != nil {
		return nil, err
	}
	return &view{inRoot{int(root.Fd())}, root, path.Clean(p)}, nil
}

func (v *view) close() { _ = v.file.Close() }

// parent opens the directory that the path is in.
func (v *view) parent() (*os.Root, error) {
	fd, err := v.root.open(path.Dir(v.path), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, copyError(err)
	}
	defer func() { _ = unix.Close(fd) }()
	return os.OpenRoot(fdPath(fd))
}

func (v *view) info() (agentproto.FileInfo, error) {
	if v.path == "/" {
		return agentproto.FileInfo{Name: "/", Mode: uint32(fs.ModeDir | 0o755), IsDir: true}, nil
	}
	parent, err := v.parent()
	if err != nil {
		return agentproto.FileInfo{}, err
	}
	defer func() { _ = parent.Close() }() // only a descriptor
	name := path.Base(v.path)
	st, err := parent.Lstat(name)
	if err != nil {
		return agentproto.FileInfo{}, copyError(err)
	}
	i := agentproto.FileInfo{Name: name, Mode: uint32(st.Mode()), Size: st.Size(), IsDir: st.IsDir()}
	if st.Mode()&fs.ModeSymlink == 0 {
		return i, nil
	}
	if i.Link, err = parent.Readlink(name); err != nil {
		return agentproto.FileInfo{}, copyError(err)
	}
	if fd, err := v.root.open(v.path, unix.O_PATH); err == nil { // or it leads nowhere
		i.IsDir, _ = isDir(fd)
		_ = unix.Close(fd)
	}
	return i, nil
}

// pack sends the file under its last name.
func (v *view) pack(ctx context.Context, w *bufio.Writer, follow bool) error {
	as := path.Base(v.path)
	if v.path == "/" {
		as = "."
	}
	i, err := v.info()
	if err != nil {
		return err
	}
	if i.IsDir && (follow || i.Link == "") {
		fd, err := v.root.open(v.path, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return copyError(err)
		}
		dir, err := os.OpenRoot(fdPath(fd))
		_ = unix.Close(fd)
		if err != nil {
			return err
		}
		defer func() { _ = dir.Close() }() // only a descriptor
		return copyError(archive.Pack(ctx, w, dir, ".", as, holdsNoFiles))
	}
	if i.Link != "" && follow {
		to, err := v.resolved()
		if err != nil {
			return err
		}
		v = &view{v.root, v.file, to}
	}
	parent, err := v.parent()
	if err != nil {
		return err
	}
	defer func() { _ = parent.Close() }() // only a descriptor
	return copyError(archive.Pack(ctx, w, parent, path.Base(v.path), as, nil))
}

// resolved answers the path in the root of what a chain of links leads to.
func (v *view) resolved() (string, error) {
	p := v.path
	for range maxLinks {
		i, err := (&view{v.root, v.file, p}).info()
		if err != nil {
			return "", err
		}
		if i.Link == "" {
			return p, nil
		}
		if path.IsAbs(i.Link) {
			p = path.Clean(i.Link)
		} else {
			p = path.Join(path.Dir(p), i.Link)
		}
	}
	return "", errs.New(errs.FailedPrecondition, "%s: too many links", v.path)
}

// holdsNoFiles reports filesystems whose files are made up as they are read.
func holdsNoFiles(dir *os.File) bool {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		return false
	}
	switch uint32(st.Type) {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEVPTS_SUPER_MAGIC, mqueueMagic:
		return true
	}
	return false
}

const mqueueMagic = 0x19800202 // ipc/mqueue.c

// transfer runs do with the stream that the host opens with the token. A stream
// that did not get to its end is aborted with the reason.
func (a *agent) transfer(ctx context.Context, token string, do func(*wire.Stream) error) error {
	if token == "" || len(token) > maxToken {
		return errs.New(errs.InvalidArgument, "token of %d bytes", len(token))
	}
	t := &transferEnd{come: make(chan *wire.Stream, 1)}
	if err := a.streams.bind(token, t); err != nil {
		return err
	}
	defer a.streams.unbind(token)
	defer t.close()
	timer := time.NewTimer(unclaimedLimit)
	defer timer.Stop()
	var s *wire.Stream
	select {
	case s = <-t.come:
	case <-timer.C:
		return errs.New(errs.DeadlineExceeded, "no stream to copy with came within %s", unclaimedLimit)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { _ = s.Close() }()
	defer context.AfterFunc(ctx, func() { _ = s.Conn().SetDeadline(time.Unix(1, 0)) })()
	err := do(s)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		_ = s.Conn().SetWriteDeadline(time.Now().Add(time.Second))
		_ = s.Abort(err) // the answer to the call says it too
		return err
	}
	return nil
}

// transferEnd hands the one stream of a copy to who copies.
type transferEnd struct {
	mu   sync.Mutex // guards the following
	done bool
	come chan *wire.Stream
}

func (*transferEnd) exited()  {}
func (*transferEnd) release() {}

func (t *transferEnd) attach(s *wire.Stream) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.done {
		_ = s.Close()
		return
	}
	t.done = true
	t.come <- s
}

func (t *transferEnd) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done = true
	select {
	case s := <-t.come:
		_ = s.Close()
	default:
	}
}
