package image

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// compression is how a stream is compressed, as its first bytes show.
type compression string

const (
	plain    compression = "plain"
	gzipped  compression = "gzip"
	zstdType compression = "zstd"
	xzType   compression = "xz"
)

// maxWindow is what a decompressor may hold in memory for one stream: xz -9
// and zstd --ultra need 64 and 128 MiB.
const maxWindow = 128 << 20

// sniff looks at the start of r, of which it takes nothing.
func sniff(r *bufio.Reader) (compression, error) {
	head, err := r.Peek(6)
	if err != nil && err != io.EOF {
		return "", err
	}
	for c, magic := range map[compression]string{
		gzipped: "\x1f\x8b", zstdType: "\x28\xb5\x2f\xfd", xzType: "\xfd7zXZ\x00",
	} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return c, nil
		}
	}
	if bytes.HasPrefix(head, []byte("BZh")) {
		return "", errs.WithHint(errs.New(errs.Unsupported, "bzip2 is not read here"), "compress it with gzip, xz or zstd")
	}
	return plain, nil
}

// decompress answers what r holds, at most limit bytes of it: more is an error.
// Closing it does not close r.
func decompress(r io.Reader, limit int64) (io.ReadCloser, compression, error) {
	br := bufio.NewReaderSize(r, 1<<20)
	kind, err := sniff(br)
	if err != nil {
		return nil, "", err
	}
	d := &decompressor{kind: kind, left: limit, limit: limit, close: func() {}}
	switch kind {
	case plain:
		d.r = br
	case gzipped:
		d.r, err = gzip.NewReader(br)
	case xzType:
		d.r, err = xz.NewReader(br, maxWindow)
	case zstdType:
		var z *zstd.Decoder
		if z, err = zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow)); err == nil {
			d.r, d.close = z, z.Close
		}
	}
	if err != nil {
		return nil, "", errs.New(errs.DataLoss, "read %s: %w", kind, err)
	}
	return d, kind, nil
}

type decompressor struct {
	r           io.Reader
	kind        compression
	left, limit int64
	close       func()
}

func (d *decompressor) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	if d.left -= int64(n); d.left < 0 {
		return 0, errs.New(errs.ResourceExhausted, "unpacks to more than %d bytes", d.limit)
	}
	if err != nil && err != io.EOF && errs.ClassOf(err) == errs.Unknown && d.kind != plain {
		err = errs.New(errs.DataLoss, "read %s: %w", d.kind, err)
	}
	return n, err
}

func (d *decompressor) Close() error {
	d.close()
	return nil
}

// readAhead reads from r on a goroutine of its own, so that decompressing and
// hashing overlap with what the consumer does.
type readAhead struct {
	full chan chunk
	free chan []byte
	stop chan struct{}
	done chan struct{}
	cur  chunk // the unread rest of the newest one
	sum  hash.Hash
}

type chunk struct {
	buf, rest []byte
	err       error
}

var errStopped = errors.New("reader is closed")

// newReadAhead hashes with sum, which may be nil. It must be closed before r is.
func newReadAhead(r io.Reader, sum hash.Hash) *readAhead {
	const buffers = 4
	a := &readAhead{
		full: make(chan chunk, buffers), free: make(chan []byte, buffers),
		stop: make(chan struct{}), done: make(chan struct{}), sum: sum,
	}
	for range buffers {
		a.free <- make([]byte, 256<<10)
	}
	go func() {
		defer close(a.done)
		a.run(r)
	}()
	return a
}

func (a *readAhead) run(r io.Reader) {
	for {
		var buf []byte
		select {
		case <-a.stop:
			return
		case buf = <-a.free:
		}
		n, err := io.ReadFull(r, buf)
		if err == io.ErrUnexpectedEOF { // ReadFull's own; sources here class theirs
			err = io.EOF
		}
		if a.sum != nil {
			a.sum.Write(buf[:n])
		}
		a.full <- chunk{buf, buf[:n], err} // has room for all buffers
		if err != nil {
			return
		}
	}
}

func (a *readAhead) Read(p []byte) (int, error) {
	for len(a.cur.rest) == 0 {
		if a.cur.err != nil {
			return 0, a.cur.err
		}
		if a.cur.buf != nil {
			a.free <- a.cur.buf
		}
		select {
		case a.cur = <-a.full:
		case <-a.stop:
			return 0, errStopped
		}
	}
	n := copy(p, a.cur.rest)
	a.cur.rest = a.cur.rest[n:]
	return n, nil
}

// digest is that of all that was read; valid with a sum, once Read answered
// io.EOF.
func (a *readAhead) digest() string { return fmt.Sprintf("sha256:%x", a.sum.Sum(nil)) }

// Close ends the goroutine; it waits for a read under way.
func (a *readAhead) Close() error {
	close(a.stop)
	<-a.done
	return nil
}
