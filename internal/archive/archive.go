// Package archive sends files as a tar and takes them in again, within a folder
// that nothing in the tar, and nobody who changes links meanwhile, can lead out
// of (os.Root).
package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// maxPath bounds the path of an entry, in bytes: PATH_MAX of Linux.
const maxPath = 4096

// Skip says of a directory that what is in it is not sent: a filesystem that
// holds no files, as /proc. The directory itself is.
type Skip func(dir *os.File) bool

// Pack writes what root has at name to w, under the name as; "." is all of
// root. Links are sent as links, sockets not at all. skip may be nil.
func Pack(ctx context.Context, w io.Writer, root *os.Root, name, as string, skip Skip) error {
	p := &packer{ctx: ctx, tar: tar.NewWriter(w), root: root, skip: skip}
	if err := p.pack(path.Clean(name), path.Clean(as)); err != nil {
		return err
	}
	return p.tar.Close()
}

type packer struct {
	ctx  context.Context
	tar  *tar.Writer
	root *os.Root
	skip Skip
}

func (p *packer) pack(name, as string) error {
	if p.ctx.Err() != nil {
		return context.Cause(p.ctx)
	}
	if len(name) > maxPath {
		return errs.New(errs.InvalidArgument, "the path %.64q... is too long", name)
	}
	info, err := p.root.Lstat(name)
	if err != nil {
		return err
	}
	switch info.Mode().Type() {
	case 0:
		return p.file(name, as)
	case fs.ModeDir:
		return p.dir(name, as)
	case fs.ModeSocket:
		return nil // it means nothing without its server
	}
	link := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if link, err = p.root.Readlink(name); err != nil {
			return err
		}
	}
	return p.header(info, link, as)
}

func (p *packer) header(info fs.FileInfo, link, as string) error {
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return fmt.Errorf("%s: %w", as, err)
	}
	h.Name, h.Uname, h.Gname = as, "", ""
	if info.IsDir() {
		h.Name += "/"
	}
	h.Format = tar.FormatPAX // names of any length, times with fractions
	h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
	if err := p.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", as, err)
	}
	return nil
}

// file sends a file as long as it is at its opening.
func (p *packer) file(name, as string) error {
	f, err := p.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // it may have become a pipe
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errs.New(errs.FailedPrecondition, "%s was replaced while it was read", name)
	}
	if err := p.header(info, "", as); err != nil {
		return err
	}
	n, err := io.CopyN(p.tar, &reading{p.ctx, f}, info.Size())
	if errors.Is(err, io.EOF) {
		return errs.New(errs.FailedPrecondition, "%s became shorter while it was read: %d bytes, not %d", name, n, info.Size())
	}
	return err
}

func (p *packer) dir(name, as string) error {
	d, err := p.root.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }() // only read
	info, err := d.Stat()
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return errs.New(errs.FailedPrecondition, "%s was replaced while it was read", name)
	}
	if err := p.header(info, "", as); err != nil {
		return err
	}
	if p.skip != nil && p.skip(d) {
		return nil
	}
	for {
		names, err := d.Readdirnames(256)
		for _, n := range names {
			err := p.pack(path.Join(name, n), path.Join(as, n))
			if err != nil && !errors.Is(err, fs.ErrNotExist) { // what has just gone is no fault
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// reading ends with its context.
type reading struct {
	ctx context.Context
	r   io.Reader
}

func (r *reading) Read(b []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(b)
}

// Owner of what is taken in.
type Owner struct{ UID, GID int }

// Options say how files are taken in.
type Options struct {
	// As, where set, replaces the first name of every entry; "." puts what is in
	// it into the folder itself.
	As string
	// Owner is whom all is given to; nil: those whom the tar says where
	// KeepOwner is true, and otherwise whoever runs this.
	Owner     *Owner
	KeepOwner bool
}

// Unpack takes a tar in, below root. Files are replaced, directories merged; a
// directory does not replace a file, nor a file a directory. Devices and pipes
// are errs.Unsupported. What was taken in before an error stays, as the tar has it;
// of the file that it broke at nothing does.
func Unpack(ctx context.Context, r io.Reader, root *os.Root, o Options) error {
	u := &unpacker{root: root, o: o}
	return errors.Join(u.entries(tar.NewReader(&reading{ctx, r})), u.finish())
}

func (u *unpacker) entries(t *tar.Reader) error {
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the tar: %w", err)
		}
		if err := u.entry(h, t); err != nil {
			return err
		}
	}
}

// finish gives directories their modes and times, whatever became of what is in them.
// Last, as each change in a directory changes its time, and one that may not be
// written to can still be filled.
func (u *unpacker) finish() error {
	var all []error
	for i := len(u.dirs) - 1; i >= 0; i-- {
		d := u.dirs[i]
		all = append(all, u.root.Chmod(d.name, d.mode), u.root.Chtimes(d.name, d.time, d.time))
	}
	return errors.Join(all...)
}

type unpacker struct {
	root *os.Root
	o    Options
	dirs []madeDir
}

type madeDir struct {
	name string
	mode fs.FileMode
	time time.Time
}

// place answers where an entry goes, relative to the root.
func (u *unpacker) place(name string) (string, error) {
	clean := path.Clean("/" + name)[1:] // ".." leads nowhere
	if len(clean) > maxPath || strings.ContainsRune(clean, 0) {
		return "", errs.New(errs.InvalidArgument, "the tar has a name of %d bytes", len(clean))
	}
	if u.o.As != "" {
		_, rest, _ := strings.Cut(clean, "/")
		clean = path.Join(u.o.As, rest)
	}
	if clean == "" {
		clean = "."
	}
	return clean, nil
}

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	name, err := u.place(h.Name)
	if err != nil {
		return err
	}
	if name == "." {
		if h.Typeflag != tar.TypeDir {
			return errs.New(errs.InvalidArgument, "%.200q of the tar is to be the folder itself and is none", h.Name)
		}
		return nil // it is there
	}
	if h.Typeflag == tar.TypeDir {
		return u.dir(name, h)
	}
	for record := range h.PAXRecords {
		if strings.HasPrefix(record, "GNU.sparse.") { // a few bytes could say that it is an exabyte
			return errs.New(errs.Unsupported, "%s is a sparse file in the tar", h.Name)
		}
	}
	if err := u.clear(name); err != nil {
		return err
	}
	mode := h.FileInfo().Mode().Perm()
	switch h.Typeflag {
	case tar.TypeReg:
		err = u.file(name, mode, content)
	case tar.TypeSymlink:
		err = u.root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		var to string
		if to, err = u.place(h.Linkname); err == nil {
			err = u.root.Link(to, name)
		}
		if err == nil {
			return nil // owner and times are those of the first
		}
	default:
		return errs.New(errs.Unsupported, "%s is a device or a pipe, which is not copied", h.Name)
	}
	if err != nil {
		return err
	}
	if err := u.own(name, h); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeSymlink {
		return nil // os.Root sets no times of a link itself
	}
	return errors.Join(u.root.Chmod(name, mode), u.root.Chtimes(name, h.ModTime, h.ModTime))
}

// clear removes what an entry replaces.
func (u *unpacker) clear(name string) error {
	info, err := u.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.IsDir():
		return errs.New(errs.FailedPrecondition, "%s is a directory and cannot be replaced by a file", name)
	}
	return u.root.Remove(name)
}

func (u *unpacker) file(name string, mode fs.FileMode, content io.Reader) error {
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode&0o700|0o200)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if err = errors.Join(err, f.Close()); err != nil {
		err = errors.Join(err, u.root.Remove(name))
	}
	return err
}

func (u *unpacker) dir(name string, h *tar.Header) error {
	err := u.root.Mkdir(name, 0o700)
	if errors.Is(err, fs.ErrExist) {
		info, err := u.root.Stat(name)
		if err == nil && !info.IsDir() {
			err = errs.New(errs.FailedPrecondition, "%s is a file and cannot be replaced by a directory", name)
		}
		return err
	}
	if err != nil {
		return err
	}
	u.dirs = append(u.dirs, madeDir{name, h.FileInfo().Mode().Perm(), h.ModTime})
	return u.own(name, h)
}

func (u *unpacker) own(name string, h *tar.Header) error {
	switch {
	case u.o.Owner != nil:
		return u.root.Lchown(name, u.o.Owner.UID, u.o.Owner.GID)
	case u.o.KeepOwner:
		return u.root.Lchown(name, h.Uid, h.Gid)
	}
	return nil
}
