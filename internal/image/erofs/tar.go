package erofs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"strings"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
)

const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	whiteoutMeta   = ".wh..wh."
	paxXattr       = "SCHILY.xattr." // star's, and what every writer uses

	// maxInlined bounds the tails that wait in memory for the metadata to be
	// written. Beyond it tails take a block of their own.
	maxInlined = 128 << 20
)

// AddLayer merges the uncompressed tar r over what is there. Layers come oldest
// first; name is how errors call this one. It reads up to the tar's end and not
// what follows.
func (w *Writer) AddLayer(ctx context.Context, name string, r io.Reader) error {
	w.layer++
	tr := tar.NewReader(&ctxReader{ctx, r})
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: read tar: %w", name, inputError(err))
		}
		if err := w.addEntry(h, tr); err != nil {
			return fmt.Errorf("%s: entry %q: %w", name, clip(h.Name), inputError(err))
		}
	}
}

// ctxReader ends with the context.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// inputError gives a class to what reading a tar answered, if it has none.
func inputError(err error) error {
	var read readError
	switch {
	case errs.ClassOf(err) != errs.Unknown:
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errs.New(errs.DataLoss, "archive ends early: %w", err)
	case errors.Is(err, tar.ErrHeader), errors.Is(err, tar.ErrFieldTooLong):
		return errs.As(errs.InvalidArgument, err)
	case errors.As(err, &read):
		return errs.As(errs.DataLoss, err)
	}
	return err
}

// splitEntry answers the folder and the last component of an entry's name, made
// absolute: "..", lexically, stops at the root. Base is "" for the root itself.
func splitEntry(name string) (dir, base string, err error) {
	switch {
	case len(name) > maxPath:
		return "", "", errs.New(errs.InvalidArgument, "path of %d bytes is longer than %d", len(name), maxPath)
	case strings.ContainsRune(name, 0):
		return "", "", errs.New(errs.InvalidArgument, "path holds a NUL")
	}
	dir, base = path.Split(path.Clean("/" + name))
	return dir, base, nil
}

func (w *Writer) addEntry(h *tar.Header, data io.Reader) error {
	if w.entries++; w.entries > w.limits.Entries {
		return errs.New(errs.ResourceExhausted, "more than %d entries", w.limits.Entries)
	}
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	dir, base, err := splitEntry(h.Name)
	if err != nil {
		return err
	}
	if strings.Contains(dir, "/"+whiteoutPrefix) || strings.HasPrefix(base, whiteoutPrefix) {
		return w.addWhiteout(dir, base)
	}
	if h.Typeflag == tar.TypeLink {
		return w.addHardLink(dir, base, h.Linkname)
	}
	n, err := inodeOf(h)
	if err != nil {
		return err
	}
	if err := w.addContent(n, h.Linkname, data); err != nil {
		return err
	}
	return w.addInode(dir, base, n)
}

// addInode puts n, complete, at its place.
func (w *Writer) addInode(dir, base string, n *inode) error {
	if base == "" {
		if n.mode&modeType != modeDir {
			return errs.New(errs.InvalidArgument, "the root is not a folder")
		}
		w.tree.attributes(w.tree.root, n, w.layer)
		return nil
	}
	parent, err := w.tree.walk(dir, true)
	if err != nil {
		return err
	}
	if err := w.tree.count(); err != nil {
		return err
	}
	return w.tree.put(parent, base, n, w.layer)
}

// addWhiteout takes what lower layers put at a place. There is nothing to hide
// where the folder does not exist.
func (w *Writer) addWhiteout(dir, base string) error {
	if strings.HasPrefix(base, whiteoutMeta) && base != whiteoutOpaque || strings.Contains(dir, "/"+whiteoutMeta) {
		return nil
	}
	if strings.Contains(dir, "/"+whiteoutPrefix) {
		return errs.New(errs.InvalidArgument, "a whiteout is no folder")
	}
	name := strings.TrimPrefix(base, whiteoutPrefix)
	if base != whiteoutOpaque && (name == "" || name == "." || name == "..") {
		return errs.New(errs.InvalidArgument, "whiteout names nothing")
	}
	parent, err := w.tree.walk(dir, false)
	if err != nil || parent == nil {
		return err
	}
	if base == whiteoutOpaque {
		w.tree.opaque(parent, w.layer)
	} else {
		w.tree.whiteout(parent, name, w.layer)
	}
	return nil
}

// addHardLink gives an existing file one more name.
func (w *Writer) addHardLink(dir, base, target string) error {
	targetDir, targetBase, err := splitEntry(target)
	if err != nil {
		return err
	}
	from, err := w.tree.walk(targetDir, false)
	if err != nil {
		return err
	}
	if from == nil || targetBase == "" {
		return errs.New(errs.InvalidArgument, "hard link to %q, which is not there", clip(target))
	}
	old, ok := from.dir.kids[targetBase]
	switch {
	case !ok:
		return errs.New(errs.InvalidArgument, "hard link to %q, which is not there", clip(target))
	case old.node.dir != nil:
		return errs.New(errs.InvalidArgument, "hard link to %q, which is a folder", clip(target))
	case base == "":
		return errs.New(errs.InvalidArgument, "the root is not a folder")
	}
	parent, err := w.tree.walk(dir, true)
	if err != nil {
		return err
	}
	return w.tree.put(parent, base, old.node, w.layer)
}

// inodeOf takes type and attributes from a tar header. Access and change times,
// and the names of owners, have no place in the image.
func inodeOf(h *tar.Header) (*inode, error) {
	n := &inode{mode: uint16(h.Mode & 0o7777)}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		n.mode |= modeRegular
		n.size = uint64(h.Size)
	case tar.TypeDir:
		n.mode |= modeDir
	case tar.TypeSymlink:
		n.mode |= modeSymlink | 0o777
	case tar.TypeChar:
		n.mode |= modeChar
	case tar.TypeBlock:
		n.mode |= modeBlock
	case tar.TypeFifo:
		n.mode |= modeFifo
	default:
		return nil, errs.New(errs.InvalidArgument, "tar entry of unknown type %q", h.Typeflag)
	}
	if err := n.own(int64(h.Uid), int64(h.Gid)); err != nil {
		return nil, err
	}
	if t := n.mode & modeType; t == modeChar || t == modeBlock {
		if err := n.device(h.Devmajor, h.Devminor); err != nil {
			return nil, err
		}
	}
	n.modified(h.ModTime)
	attrs := map[string]string{}
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, paxXattr); ok {
			attrs[name] = v
		}
	}
	var err error
	n.xattrs, err = encodeXattrs(attrs)
	return n, err
}

func (n *inode) own(uid, gid int64) error {
	// The highest number means "none" to the kernel (INVALID_UID).
	if min(uid, gid) < 0 || max(uid, gid) >= math.MaxUint32 {
		return errs.New(errs.InvalidArgument, "owner %d:%d is not legal", uid, gid)
	}
	n.uid, n.gid = uint32(uid), uint32(gid)
	return nil
}

// device sets the number as new_encode_dev of include/linux/kdev_t.h does.
func (n *inode) device(major, minor int64) error {
	if major < 0 || major >= 1<<12 || minor < 0 || minor >= 1<<20 {
		return errs.New(errs.InvalidArgument, "device %d:%d is not legal", major, minor)
	}
	n.rdev = uint32(minor&0xff | major<<8 | (minor&^0xff)<<12)
	return nil
}

func (n *inode) modified(t time.Time) {
	n.mtime, n.mtimeNS = t.Unix(), uint32(t.Nanosecond())
}

// addContent takes a file's data or a link's target into the image.
func (w *Writer) addContent(n *inode, target string, data io.Reader) error {
	if err := w.tree.hold(len(n.xattrs)); err != nil {
		return err
	}
	switch n.mode & modeType {
	case modeSymlink:
		return w.addTarget(n, target)
	case modeRegular:
		if n.size > uint64(w.limits.Bytes-w.data) {
			return errs.New(errs.ResourceExhausted, "files exceed %d bytes", w.limits.Bytes)
		}
		w.data += int64(n.size)
		return w.addData(n, data)
	}
	return nil
}

func (w *Writer) addTarget(n *inode, target string) error {
	switch {
	case target == "" || len(target) > maxPath:
		return errs.New(errs.InvalidArgument, "symbolic link to a path of %d bytes", len(target))
	case strings.ContainsRune(target, 0):
		return errs.New(errs.InvalidArgument, "target of the symbolic link holds a NUL")
	}
	if err := w.tree.hold(len(target)); err != nil {
		return err
	}
	n.target, n.size = target, uint64(len(target))
	if n.inline = n.fitsInline(); n.inline {
		return nil
	}
	return w.addData(n, strings.NewReader(target))
}

// addData streams what fills blocks, and keeps a short rest for the metadata.
func (w *Writer) addData(n *inode, data io.Reader) error {
	tail := int64(n.size % blockSize)
	whole := int64(n.size)
	if n.fitsInline() && w.inlined+tail <= maxInlined {
		n.inline = true
		whole -= tail
	}
	if whole > 0 {
		if err := w.out.align(); err != nil {
			return err
		}
		n.block = w.out.block()
		if err := w.out.copyN(data, whole); err != nil {
			return err
		}
	}
	if !n.inline {
		return nil
	}
	w.inlined += tail
	n.tail = make([]byte, tail)
	if _, err := io.ReadFull(data, n.tail); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return readError{err}
	}
	return nil
}
