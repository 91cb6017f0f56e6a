package kernel

import (
	"bytes"
	"compress/bzip2"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/therootcompany/xz"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// compression is a stream format; "" is none.
type compression string

const (
	gzipped  compression = "gzip"
	xzed     compression = "xz"
	zstded   compression = "zstd"
	lz4ed    compression = "lz4"
	bzipped  compression = "bzip2"
	lzmaed   compression = "lzma"
	lzopped  compression = "lzo"
	unpacked compression = ""
)

// maxWindow is the largest dictionary a decoder may allocate, in bytes: what
// the kernel's own build uses at most (scripts/xz_wrap.sh and zstd -22 --ultra).
const maxWindow = 128 << 20

// magics are the first bytes of each format, as scripts/extract-vmlinux knows
// them; lz4 has its frame and the kernel's legacy one.
func magics() []struct {
	format compression
	magic  string
} {
	return []struct {
		format compression
		magic  string
	}{
		{gzipped, "\x1f\x8b\x08"},
		{xzed, "\xfd7zXZ\x00"},
		{zstded, "\x28\xb5\x2f\xfd"},
		{lz4ed, "\x02\x21\x4c\x18"},
		{lz4ed, "\x04\x22\x4d\x18"},
		{bzipped, "BZh"},
		{lzmaed, "\x5d\x00\x00"},
		{lzopped, "\x89LZO"},
	}
}

// sniff tells the compression by its magic bytes; unpacked if it knows none.
func sniff(head []byte) compression {
	for _, m := range magics() {
		if bytes.HasPrefix(head, []byte(m.magic)) {
			return m.format
		}
	}
	return unpacked
}

// decompress answers the plain bytes of r. The caller bounds how many it takes
// and closes the result, which does not close r.
func decompress(format compression, r io.Reader) (io.ReadCloser, error) {
	switch format {
	case unpacked:
		return io.NopCloser(r), nil
	case gzipped:
		return gzip.NewReader(r)
	case xzed:
		x, err := xz.NewReader(r, maxWindow)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(x), nil
	case zstded:
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case lz4ed:
		return io.NopCloser(lz4.NewReader(r)), nil
	case bzipped:
		return io.NopCloser(bzip2.NewReader(r)), nil
	}
	return nil, errs.New(errs.Unsupported, "%s compression is not supported", format)
}
