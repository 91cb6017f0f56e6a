package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// readBlock is how much is read at a time, in bytes. It holds a line of any
// legal length.
const readBlock = maxLine

// errNothing says that there is no complete line now.
var errNothing = errors.New("nothing more yet")

// cursor is a place in a log: a file and an offset, always at the start of a
// line. Torn lines are not taken in: a writer that starts again may cut one off
// and write another in its place.
type cursor struct {
	dir    string
	number int      // of the file; 0: before the first
	f      *os.File // nil: to be opened
	off    int64    // of the next line
	buf    []byte   // read at off and not yet taken
	mem    []byte   // buf's memory
	last   bool     // the next file existed before the last look at this one
	skip   int64    // bytes of an overlong line that were passed over
}

func (c *cursor) close() {
	if c.f != nil {
		c.f.Close()
		c.f = nil
	}
}

// next answers the next record, errNothing, or what is wrong here.
func (c *cursor) next() (Record, error) {
	for {
		if end := bytes.IndexByte(c.buf, '\n'); end >= 0 {
			line := c.buf[:end]
			c.buf = c.buf[end+1:]
			return c.take(line)
		}
		more, err := c.fill()
		if err != nil {
			return Record{}, err
		}
		if more {
			continue
		}
		if err := c.turn(); err != nil {
			return Record{}, err
		}
	}
}

// take decodes the line at the place and passes it.
func (c *cursor) take(line []byte) (Record, error) {
	at, length := c.off-c.skip, int64(len(line))+1+c.skip
	c.off += int64(len(line)) + 1
	if c.skip > 0 || length > maxLine {
		c.skip = 0
		return Record{}, c.corrupt(at, length, "line too long")
	}
	r, err := decode(line)
	if err != nil {
		return Record{}, &CorruptError{File: segmentPath(c.dir, c.number), Offset: at, Length: length, Err: err}
	}
	return r, nil
}

func (c *cursor) corrupt(at, length int64, what string) error {
	return &CorruptError{File: segmentPath(c.dir, c.number), Offset: at, Length: length,
		Err: errs.New(errs.DataLoss, "%s", what)}
}

// fill reads at the place again, and answers whether that brought anything new
// to look at.
func (c *cursor) fill() (bool, error) {
	if c.f == nil {
		return false, nil
	}
	if c.mem == nil {
		c.mem = make([]byte, readBlock)
	}
	n, err := c.f.ReadAt(c.mem, c.off)
	if err != nil && err != io.EOF {
		return false, fmt.Errorf("read log: %w", err)
	}
	c.buf = c.mem[:n]
	if bytes.IndexByte(c.buf, '\n') >= 0 {
		return true, nil
	}
	if n < readBlock {
		c.buf = nil // torn, or nothing
		return false, nil
	}
	// No record is as long as that: pass over it, to the next newline.
	c.skip += int64(n)
	c.off += int64(n)
	c.buf = nil
	return true, nil
}

// turn goes to the next file, where this one is done.
func (c *cursor) turn() error {
	next, err := c.following()
	switch {
	case err != nil:
		return err
	case next == 0:
		return errNothing
	case c.f != nil && !c.last:
		// Where the next file exists nothing is added to this one: but look once
		// more at what was added before it existed.
		c.last = true
		return nil
	}
	return c.open(next)
}

// following answers the number of the file after this one, or 0; io.EOF where
// the folder is gone.
func (c *cursor) following() (int, error) {
	if c.number > 0 {
		if _, err := os.Lstat(segmentPath(c.dir, c.number+1)); err == nil {
			return c.number + 1, nil
		}
		if _, err := os.Lstat(segmentPath(c.dir, c.number)); err == nil {
			return 0, nil // not rotated away, so the newest
		}
	}
	ns, err := segments(c.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, io.EOF
	}
	if err != nil {
		return 0, err
	}
	if i := slices.IndexFunc(ns, func(n int) bool { return n > c.number }); i >= 0 {
		return ns[i], nil
	}
	return 0, nil
}

// open moves to file n and reports what lies between.
func (c *cursor) open(n int) error {
	f, err := os.Open(segmentPath(c.dir, n))
	if os.IsNotExist(err) {
		return nil // removed meanwhile: look again
	}
	if err != nil {
		return fmt.Errorf("open log file: %w", err)
	}
	var torn error
	if c.f != nil {
		torn = c.torn()
		c.f.Close()
	}
	dropped := 0
	if c.number > 0 {
		dropped = n - c.number - 1
	}
	c.f, c.number, c.off, c.buf, c.last, c.skip = f, n, 0, nil, false, 0
	if dropped > 0 {
		return &DroppedError{Files: dropped}
	}
	return torn
}

// torn reports bytes that a file ends with and that no newline follows.
func (c *cursor) torn() error {
	info, err := c.f.Stat()
	if err != nil || info.Size() <= c.off-c.skip {
		return nil
	}
	return c.corrupt(c.off-c.skip, info.Size()-c.off+c.skip, "torn line")
}
