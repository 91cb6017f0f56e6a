package kernel

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
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

// unpackDeb finds what a kernel consists of (images, modules, modules.builtin)
// in the package src, in one pass, and appends it to one file at spool: no name
// of the package is ever a name on disk. seen is told how many bytes of the
// package were taken in.
func unpackDeb(ctx context.Context, src io.ReaderAt, size int64, spool string, seen func(current, total int64)) (*folder, error) {
	data, err := dataMember(src, size)
	if err != nil {
		return nil, err
	}
	var magic [8]byte
	if _, err := data.ReadAt(magic[:], 0); err != nil {
		return nil, errs.New(errs.DataLoss, "read data.tar: %w", err)
	}
	in := &ctxReader{ctx: ctx, r: data, seen: func(n int64) { seen(n, data.Size()) }}
	plain, err := decompress(sniff(magic[:]), bufio.NewReaderSize(in, spoolBuffer))
	if err != nil {
		return nil, fmt.Errorf("decompress data.tar: %w", err)
	}
	defer plain.Close()
	f, err := os.OpenFile(spool, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, spoolBuffer)
	found, err := unpackTar(ctx, &ctxReader{ctx: ctx, r: plain, limit: maxUnpack}, w, spool)
	if err != nil {
		return nil, err
	}
	return found, w.Flush()
}

const spoolBuffer = 1 << 20

// unpackTar appends the files wanted of r to w, which is the file at spool, and
// answers where they lie in it.
func unpackTar(ctx context.Context, r io.Reader, w io.Writer, spool string) (*folder, error) {
	found := newFolder()
	tr := tar.NewReader(r)
	var off int64
	for range maxEntries {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read data.tar: %w", err)
		}
		limit := wanted(h)
		if limit == 0 {
			continue
		}
		// A sparse entry may be longer than its bytes in r: off is bounded too.
		n, err := copyBounded(ctx, w, tr, min(limit, maxUnpack-off), "it")
		if err != nil {
			return nil, fmt.Errorf("unpack %q: %w", h.Name, err)
		}
		found.add(path.Clean(h.Name), blob{path: spool, off: off, size: n})
		off += n
	}
	return nil, errs.New(errs.ResourceExhausted, "the package has more than %d files", maxEntries)
}

// wanted answers how many bytes the entry may have; 0 if it is not needed.
func wanted(h *tar.Header) int64 {
	if h.Typeflag != tar.TypeReg {
		return 0
	}
	name := path.Clean(h.Name)
	base, inTree := path.Base(name), releaseOf(name) != ""
	if _, ok := imageName(base); ok && (inTree || path.Base(path.Dir(name)) == "boot") {
		return maxImage
	}
	if _, _, ok := moduleOf(base); ok && inTree {
		return maxModule
	}
	if inTree && (base == builtinList || base == builtinModinfo) {
		return maxText
	}
	return 0
}
