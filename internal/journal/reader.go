package journal

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// ReadOptions select entries.
type ReadOptions struct {
	// Since and Until bound their times, both inclusive; zero: no bound.
	Since, Until time.Time
	// Follow goes on with what is written later, also where the stack goes and
	// comes again, until Until has passed or the context of Next ends.
	Follow bool
}

// Reader reads a journal. It belongs to one goroutine.
type Reader struct {
	path  string
	o     ReadOptions
	fs    *fsnotify.Watcher // nil where it does not follow
	files []*os.File        // still to be read; the first is being read
	past  *os.File          // read to its end; kept open so that it stays known
	in    *bufio.Reader     // of the first
	part  []byte            // of a line whose end is not written yet
	long  bool              // the line is over its bound: the rest of it is skipped
	began bool
}

// Open opens the journal at path, which need not be there. Close releases it.
func Open(path string, o ReadOptions) (*Reader, error) {
	r := &Reader{path: path, o: o}
	if o.Follow {
		var err error
		if r.fs, err = fsnotify.NewWatcher(); err != nil {
			return nil, errs.As(errs.ResourceExhausted, fmt.Errorf("watch the journal: %w", err))
		}
		// The folder above tells when the stack's own goes and comes.
		if err := r.fs.Add(filepath.Dir(filepath.Dir(path))); err != nil {
			_ = r.fs.Close()
			return nil, fmt.Errorf("watch the journal: %w", err)
		}
	}
	return r, nil
}

// Close releases the files and the watch.
func (r *Reader) Close() error {
	for _, f := range r.known() {
		_ = f.Close() // read only
	}
	r.files, r.past, r.in = nil, nil, nil
	if r.fs == nil {
		return nil
	}
	return r.fs.Close()
}

// Next answers the next entry; it waits for one where the reader follows.
// io.EOF is the end. A line that is no entry is errs.DataLoss, and the next call
// goes on behind it.
func (r *Reader) Next(ctx context.Context) (Entry, error) {
	for {
		e, err := r.next()
		switch {
		case err == nil && r.match(e):
			return e, nil
		case err == nil:
			continue
		case !errors.Is(err, io.EOF) || r.fs == nil:
			return Entry{}, err
		}
		more, err := r.open()
		if err != nil {
			return Entry{}, err
		}
		if more {
			continue
		}
		if err := r.wait(ctx); err != nil {
			return Entry{}, err
		}
	}
}

func (r *Reader) match(e Entry) bool {
	return (r.o.Since.IsZero() || !e.Time.Before(r.o.Since)) && (r.o.Until.IsZero() || !e.Time.After(r.o.Until))
}

// next answers the next entry of the files that are open; io.EOF: there is no
// whole line left.
func (r *Reader) next() (Entry, error) {
	if !r.began {
		r.began = true
		if _, err := r.open(); err != nil {
			return Entry{}, err
		}
	}
	for len(r.files) > 0 {
		piece, err := r.in.ReadSlice('\n')
		if len(r.part)+len(piece) > maxLine {
			r.part, r.long = nil, true
		} else if !r.long {
			r.part = append(r.part, piece...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && len(r.files) > 1:
			r.advance()
			continue
		case err != nil:
			return Entry{}, err
		}
		line, long := r.part, r.long
		r.part, r.long = nil, false
		if len(bytes.TrimSpace(line)) == 0 && !long {
			continue
		}
		return decode(line, long)
	}
	return Entry{}, io.EOF
}

func decode(line []byte, long bool) (e Entry, err error) {
	if long {
		return e, errs.New(errs.DataLoss, "a line of the journal is over %d bytes", maxLine)
	}
	if err := json.Unmarshal(line, &e); err != nil {
		return e, errs.New(errs.DataLoss, "a line of the journal is no entry: %w", err)
	}
	return e, nil
}

// advance goes on with the next file. A line that was begun in the last one is
// not finished any more.
func (r *Reader) advance() {
	if r.past != nil {
		_ = r.past.Close() // read only
	}
	r.past, r.files = r.files[0], r.files[1:]
	r.part, r.long = nil, false
	r.in = bufio.NewReader(r.files[0])
}

// known are the files that were opened and not forgotten.
func (r *Reader) known() []*os.File {
	if r.past == nil {
		return r.files
	}
	return append([]*os.File{r.past}, r.files...)
}

// open adds files that are there and not known yet, and says whether there were
// any. The one that is read stays until it was read to its end: its name may be
// another's by now.
func (r *Reader) open() (more bool, err error) {
	if r.fs != nil { // before the look, so that nothing falls between
		if err := r.fs.Add(filepath.Dir(r.path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, fmt.Errorf("watch the journal: %w", err)
		}
	}
	for _, name := range []string{old(r.path), r.path} {
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("open the journal: %w", err)
		}
		known, err := isOneOf(f, r.known())
		if known || err != nil {
			_ = f.Close() // read only
			if err != nil {
				return false, fmt.Errorf("look at the journal: %w", err)
			}
			continue
		}
		r.files, more = append(r.files, f), true
	}
	if r.in == nil && len(r.files) > 0 {
		r.in = bufio.NewReader(r.files[0])
	}
	return more, nil
}

func isOneOf(f *os.File, all []*os.File) (bool, error) {
	st, err := f.Stat()
	if err != nil {
		return false, err
	}
	for _, o := range all {
		ost, err := o.Stat()
		if err != nil {
			return false, err
		}
		if os.SameFile(st, ost) {
			return true, nil
		}
	}
	return false, nil
}

// wait waits until something may have been written.
func (r *Reader) wait(ctx context.Context) error {
	var over <-chan time.Time
	if !r.o.Until.IsZero() {
		if !time.Now().Before(r.o.Until) {
			return io.EOF
		}
		t := time.NewTimer(time.Until(r.o.Until) + time.Nanosecond)
		defer t.Stop()
		over = t.C
	}
	select {
	case _, ok := <-r.fs.Events:
		if !ok {
			return io.EOF
		}
	case <-r.fs.Errors: // the system's queue ran over: anything may have happened
	case <-over:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}
