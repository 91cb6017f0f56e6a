package logs

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Options of a writer.
type Options struct {
	// MaxSize of one file, in bytes; 0 means 64 MiB. A file is larger only where
	// the records of one write are.
	MaxSize int64
	// MaxFiles that are kept; 0 means 5.
	MaxFiles int
	// Clock dates the records; nil is time.Now.
	Clock func() time.Time
	// OnLoss is called where output was lost of which the log has no record yet:
	// Settle is to be called after a while. It must not block, nor call back. May
	// be nil.
	OnLoss func()
}

const (
	defaultMaxSize  = 64 << 20
	defaultMaxFiles = 5
	// batch is how much of one Write is encoded before it goes to the file.
	batch = 64 << 10
)

// Writer appends to the log of one instance. Its streams may be written at the
// same time. Only one writer of a folder may be open: the lock on the instance
// is the shim's.
type Writer struct {
	dir string
	o   Options

	mu     sync.Mutex // guards the following and all streams' state
	f      *os.File   // nil once closed
	number int        // of f
	size   int64      // of whole records in f
	buf    []byte     // encoded, not yet written; empty between writes
	head   []byte     // the shared part of the records under way
	torn   bool       // f ends with a part of a line that could not be cut off
	short  []*stream  // that have lost something of which there is no record yet
}

// OpenWriter opens the log in dir, which it makes where it is missing, and goes
// on where the last writer ended. A last line that a killed writer left torn is
// cut off; whole lines are never lost.
func OpenWriter(dir string, o Options) (*Writer, error) {
	if o.MaxSize <= 0 {
		o.MaxSize = defaultMaxSize
	}
	if o.MaxFiles <= 0 {
		o.MaxFiles = defaultMaxFiles
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make log folder: %w", err)
	}
	ns, err := segments(dir)
	if err != nil {
		return nil, err
	}
	w := &Writer{dir: dir, o: o, number: 1}
	if len(ns) > 0 {
		w.number = ns[len(ns)-1]
	}
	if err := w.openSegment(); err != nil {
		return nil, err
	}
	return w, nil
}

// openSegment opens number and repairs its end.
func (w *Writer) openSegment() error {
	f, err := os.OpenFile(segmentPath(w.dir, w.number), os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open log file: %w", err)
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		w.size, err = lastNewline(f, end)
	}
	if err == nil && w.size != end {
		err = f.Truncate(w.size)
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("repair log file: %w", err)
	}
	w.f = f
	return nil
}

// Close closes the file. Streams that are still open lose their unterminated
// rest: close them first.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f == nil {
		return nil
	}
	err := w.f.Close()
	w.f = nil
	return err
}

// Stream answers a writer that splits what it is given into lines. name is
// "stdout", "stderr" or another of at most 32 bytes of a-z, 0-9, - and _; boot
// counts from 1.
//
// A write returns when its complete lines are in the file and visible to readers.
// What the file does not take is lost: whoever writes must not stand still
// because a disk is full. How much it was, the first record that the file takes
// again says, of the next write, Settle or Close; Close fails where there is none.
// Close writes the unterminated rest as a partial record.
func (w *Writer) Stream(name string, boot int) io.WriteCloser {
	s := &stream{w: w, name: name, boot: boot}
	if !validStream(name) || boot < 0 || boot > maxBoot {
		s.broken = errs.New(errs.InvalidArgument, "log stream %q of boot %d", name, boot)
	}
	return s
}

// stream's state is guarded by w.mu.
type stream struct {
	w       *Writer
	name    string
	boot    int
	pending []byte // the line so far, at most maxText
	spare   []byte // becomes pending
	lost    int64  // bytes since the last record
	broken  error  // set when nothing can be written (any more)
}

func (s *stream) Write(p []byte) (int, error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	for taken := 0; ; {
		part := p[taken:min(len(p), taken+batch)]
		if s.broken != nil {
			return taken, s.broken
		}
		if s.w.f == nil {
			return taken, errClosed()
		}
		s.writeLocked(part)
		if taken += len(part); taken == len(p) {
			return taken, nil
		}
	}
}

func errClosed() error { return errs.New(errs.FailedPrecondition, "write log: the writer is closed") }

// writeLocked takes all of p, or loses it.
func (s *stream) writeLocked(p []byte) {
	size := int64(len(p))
	s.w.beginLocked(s)
	line := s.pending
	for {
		end := bytes.IndexByte(p, '\n')
		whole := end >= 0
		if !whole {
			end = len(p)
		}
		text := p[:end]
		if len(line) > 0 {
			// The room behind pending is its own: pending stays as it is.
			text = append(line, text...)
			line = nil
		}
		for len(text) > maxText {
			s.w.buf = appendText(append(s.w.buf, s.w.head...), text[:maxText], true)
			text = text[maxText:]
		}
		if !whole {
			s.spare = append(s.spare[:0], text...)
			break
		}
		s.w.buf = appendText(append(s.w.buf, s.w.head...), text, false)
		p = p[end+1:]
	}
	if err := s.w.flushLocked(s); err != nil {
		s.loseLocked(size)
		return
	}
	s.pending, s.spare = s.spare, s.pending
}

// loseLocked counts what was not written, with the line that it ended.
func (s *stream) loseLocked(n int64) {
	if s.lost == 0 {
		s.w.short = append(s.w.short, s)
	}
	s.lost += n + int64(len(s.pending))
	s.pending = s.pending[:0]
	if s.w.o.OnLoss != nil {
		s.w.o.OnLoss()
	}
}

// Settle writes the records of what was lost. Where the file does not take them
// the error says why.
func (w *Writer) Settle() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.short) > 0 {
		w.beginLocked(w.short[0])
		if err := w.flushLocked(w.short[0]); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the stream. It is idempotent.
func (s *stream) Close() error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if s.broken != nil {
		return nil
	}
	s.broken = errs.New(errs.FailedPrecondition, "write to log stream %s: closed", s.name)
	s.w.beginLocked(s)
	if len(s.pending) > 0 {
		s.w.buf = appendText(append(s.w.buf, s.w.head...), s.pending, true)
	}
	err := s.w.flushLocked(s)
	if err != nil {
		s.loseLocked(0)
		err = fmt.Errorf("%w; %d bytes of %s are lost", err, s.lost, s.name)
	}
	s.pending, s.spare = nil, nil
	return err
}

// beginLocked begins what is to be written next of s, with what it has lost.
func (w *Writer) beginLocked(s *stream) {
	w.head = appendHead(w.head[:0], w.o.Clock(), s.name, s.boot)
	if s.lost > 0 {
		w.buf = appendLost(append(w.buf, w.head...), s.lost)
	}
}

// flushLocked writes buf, which beginLocked has begun for s. On error nothing of
// it is in the file.
func (w *Writer) flushLocked(s *stream) error {
	b := w.buf
	w.buf = w.buf[:0]
	if len(b) == 0 {
		return nil
	}
	if w.f == nil {
		return errClosed()
	}
	if w.size > 0 && w.size+int64(len(b)) > w.o.MaxSize {
		if err := w.rotateLocked(); err != nil {
			return err
		}
	}
	if err := w.appendLocked(b); err != nil {
		return fmt.Errorf("write log: %w", err)
	}
	if s.lost > 0 {
		s.lost = 0
		w.short = slices.DeleteFunc(w.short, func(o *stream) bool { return o == s })
	}
	return nil
}

// appendLocked appends b to the file, whole or not at all: a disk that is full
// takes a part, and the next record must not continue a torn line.
func (w *Writer) appendLocked(b []byte) error {
	if w.torn {
		if _, err := w.f.Write([]byte("\n")); err != nil {
			return err
		}
		end, err := w.f.Seek(0, io.SeekEnd)
		if err != nil {
			return err
		}
		w.torn, w.size = false, end
	}
	n, err := w.f.Write(b)
	if err == nil {
		w.size += int64(n)
		return nil
	}
	if n > 0 {
		w.torn = w.f.Truncate(w.size) != nil // a reader reports the line
	}
	return err
}

// rotateLocked starts the next file, then removes the oldest ones.
func (w *Writer) rotateLocked() error {
	next, err := os.OpenFile(segmentPath(w.dir, w.number+1), os.O_RDWR|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	// Nothing is buffered in the old file: its close has nothing to say.
	w.f.Close()
	w.f, w.torn = next, false
	w.number++
	w.size = 0
	ns, err := segments(w.dir)
	if err != nil {
		return err
	}
	for _, n := range ns {
		if n > w.number-w.o.MaxFiles {
			break
		}
		if err := os.Remove(segmentPath(w.dir, n)); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("remove old log: %w", err)
		}
	}
	return nil
}
