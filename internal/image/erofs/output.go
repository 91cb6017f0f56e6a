package erofs

import (
	"bytes"
	"io"
)

// output is a buffered, append-only writer that leaves holes for zeros. The
// first error stays.
type output struct {
	f    File
	buf  []byte
	base int64 // offset of buf[0] in the file; a multiple of blockSize
	err  error
}

const (
	outputBuffer = 1 << 20
	holeSize     = 16 * blockSize // the shortest run of zeros that is left out
)

func newOutput(f File) *output {
	return &output{f: f, buf: make([]byte, 0, outputBuffer)}
}

func (o *output) offset() int64 { return o.base + int64(len(o.buf)) }

// block is the number of the block that starts here; the offset is aligned.
// An image that outgrows the format is refused when it is finished.
func (o *output) block() uint32 { return uint32(o.offset() / blockSize) }

// skip leaves n bytes, a multiple of blockSize, unwritten at the very start.
func (o *output) skip(n int64) { o.base += n }

func (o *output) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		if err := o.room(); err != nil {
			return written, err
		}
		n := copy(o.buf[len(o.buf):cap(o.buf)], p)
		o.buf = o.buf[:len(o.buf)+n]
		p, written = p[n:], written+n
	}
	return written, nil
}

// readError marks what came from the input, so that it is not taken for an
// error of the image's file.
type readError struct{ err error }

func (e readError) Error() string { return e.err.Error() }
func (e readError) Unwrap() error { return e.err }

// copyN appends exactly n bytes of r, read into the buffer itself.
func (o *output) copyN(r io.Reader, n int64) error {
	for n > 0 {
		if err := o.room(); err != nil {
			return err
		}
		free := o.buf[len(o.buf):cap(o.buf)]
		got, err := r.Read(free[:min(int64(len(free)), n)])
		o.buf = o.buf[:len(o.buf)+got]
		n -= int64(got)
		if err == io.EOF && n > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && n > 0 {
			return readError{err}
		}
	}
	return nil
}

// room makes the buffer have some.
func (o *output) room() error {
	if o.err == nil && len(o.buf) == cap(o.buf) {
		o.flush()
	}
	return o.err
}

func (o *output) zero(n int64) error {
	var zeros [blockSize]byte
	for n > 0 {
		got, err := o.Write(zeros[:min(n, blockSize)])
		if err != nil {
			return err
		}
		n -= int64(got)
	}
	return o.err
}

// align fills the block with zeros.
func (o *output) align() error {
	if rest := o.offset() % blockSize; rest != 0 {
		return o.zero(blockSize - rest)
	}
	return o.err
}

// flush writes the buffer but for long runs of zeros.
func (o *output) flush() {
	var zeros [holeSize]byte
	start := 0 // of what is not written yet
	write := func(end int) {
		if o.err == nil && end > start {
			_, o.err = o.f.WriteAt(o.buf[start:end], o.base+int64(start))
		}
	}
	for at := 0; at < len(o.buf); at += holeSize {
		end := min(at+holeSize, len(o.buf))
		if bytes.Equal(o.buf[at:end], zeros[:end-at]) {
			write(at)
			start = end
		}
	}
	write(len(o.buf))
	o.base += int64(len(o.buf))
	o.buf = o.buf[:0]
}

// finish writes what is left, gives the file its length, and writes first to
// its start.
func (o *output) finish(first []byte) error {
	o.flush()
	if o.err != nil {
		return o.err
	}
	if err := o.f.Truncate(o.base); err != nil {
		return err
	}
	_, err := o.f.WriteAt(first, 0)
	return err
}
