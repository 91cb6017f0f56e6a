package kernel

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// arMagic starts a Debian package, which is an ar archive (deb(5)).
const arMagic = "!<arch>\n"

// maxMembers bounds the ar archive; a package has three.
const maxMembers = 16

// dataMember finds data.tar* in the package r of size bytes.
func dataMember(r io.ReaderAt, size int64) (*io.SectionReader, error) {
	head := make([]byte, len(arMagic))
	if _, err := r.ReadAt(head, 0); err != nil || string(head) != arMagic {
		return nil, errs.New(errs.InvalidArgument, "not a Debian package")
	}
	off := int64(len(arMagic))
	for range maxMembers {
		name, length, err := arHeader(r, off)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		off += arHeaderBytes
		if length > size-off {
			return nil, errs.New(errs.DataLoss, "the package is cut off in %s", name)
		}
		if strings.HasPrefix(name, "data.tar") {
			return io.NewSectionReader(r, off, length), nil
		}
		off += length + length%2
	}
	return nil, errs.New(errs.InvalidArgument, "the package has no data.tar")
}

const arHeaderBytes = 60

// arHeader reads the member header at off: name in 16 bytes, then times and
// owners, the length in decimal at 48, and a magic at 58.
func arHeader(r io.ReaderAt, off int64) (name string, length int64, err error) {
	var h [arHeaderBytes]byte
	if n, err := r.ReadAt(h[:], off); n < len(h) {
		return "", 0, err
	}
	name = strings.TrimRight(string(h[:16]), " ")
	name = strings.TrimSuffix(name, "/")
	length, err = strconv.ParseInt(strings.TrimRight(string(h[48:58]), " "), 10, 64)
	if err != nil || length < 0 || string(h[58:]) != "`\n" {
		return "", 0, errs.New(errs.DataLoss, "the package has a broken member header at byte %d", off)
	}
	return name, length, nil
}

// unpackDeb writes what a kernel consists of (images, modules, modules.builtin)
// from the package src into dir, in one pass. seen is told how many bytes of
// the package were taken in.
func unpackDeb(ctx context.Context, src *os.File, dir string, seen func(current, total int64)) error {
	st, err := src.Stat()
	if err != nil {
		return err
	}
	data, err := dataMember(src, st.Size())
	if err != nil {
		return err
	}
	var magic [8]byte
	if _, err := data.ReadAt(magic[:], 0); err != nil {
		return errs.New(errs.DataLoss, "read data.tar: %w", err)
	}
	in := &ctxReader{ctx: ctx, r: data, seen: func(n int64) { seen(n, data.Size()) }}
	plain, err := decompress(sniff(magic[:]), in)
	if err != nil {
		return fmt.Errorf("decompress data.tar: %w", err)
	}
	defer plain.Close()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return unpackTar(ctx, &ctxReader{ctx: ctx, r: plain, limit: maxUnpack}, root)
}

func unpackTar(ctx context.Context, r io.Reader, root *os.Root) error {
	tr := tar.NewReader(r)
	left := int64(maxUnpack) // a sparse entry is longer than its bytes in r
	for range maxEntries {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read data.tar: %w", err)
		}
		limit := wanted(h)
		if limit == 0 {
			continue
		}
		n, err := unpackFile(ctx, tr, root, path.Clean(h.Name), min(limit, left))
		if err != nil {
			return fmt.Errorf("unpack %q: %w", h.Name, err)
		}
		left -= n
	}
	return errs.New(errs.ResourceExhausted, "the package has more than %d files", maxEntries)
}

// wanted answers how many bytes the entry may have; 0 if it is not needed.
func wanted(h *tar.Header) int64 {
	if h.Typeflag != tar.TypeReg || !filepath.IsLocal(h.Name) {
		return 0
	}
	base, inTree := path.Base(h.Name), releaseOf(h.Name) != ""
	if !inTree && path.Base(path.Dir(h.Name)) != "boot" {
		return 0
	}
	if _, ok := imageName(base); ok {
		return maxImage
	}
	if !inTree {
		return 0
	}
	if base == "modules.builtin" || base == "modules.builtin.modinfo" {
		return maxText
	}
	if _, _, ok := moduleOf(base); ok {
		return maxModule
	}
	return 0
}

func unpackFile(ctx context.Context, r io.Reader, root *os.Root, name string, limit int64) (int64, error) {
	if err := root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return 0, err
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	n, err := copyBounded(ctx, f, r, limit, name)
	return n, errors.Join(err, f.Close())
}
