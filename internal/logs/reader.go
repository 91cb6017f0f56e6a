package logs

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// All as ReadOptions.Tail is everything there is.
const All = -1

// ReadOptions select records. The zero value selects nothing of the past: Tail
// is a count.
type ReadOptions struct {
	// Since and Until bound the records' times, both inclusive; zero: no bound.
	Since, Until time.Time
	// Tail is how many of the last lines to begin with, after the other
	// conditions; All for every one.
	Tail int
	// Streams to read; none means all.
	Streams []string
	// Boot to read; 0 means all.
	Boot int
	// Follow goes on with what is written later, until Ended is closed, Until
	// has passed or the context of Next ends.
	Follow bool
	// Ended is closed when no more will be written; nil: it may always.
	Ended <-chan struct{}
	// Watch is shared between readers that follow; nil makes one for this reader.
	Watch *Watch
}

func (o *ReadOptions) match(r *Record) bool {
	return (o.Since.IsZero() || !r.Time.Before(o.Since)) &&
		(o.Until.IsZero() || !r.Time.After(o.Until)) &&
		(o.Boot == 0 || r.Boot == o.Boot) &&
		(len(o.Streams) == 0 || slices.Contains(o.Streams, r.Stream))
}

// CorruptError reports a part of a log file that holds no record. The reader
// goes on behind it.
type CorruptError struct {
	File   string // its path
	Offset int64  // in bytes
	Length int64  // in bytes
	Err    error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s: %d bytes at %d: %v", e.File, e.Length, e.Offset, e.Err)
}

// Unwrap answers the cause, of class data loss.
func (e *CorruptError) Unwrap() error { return e.Err }

// DroppedError reports files that were removed before the reader came to them.
// The reader goes on behind them.
type DroppedError struct{ Files int }

func (e *DroppedError) Error() string {
	return fmt.Sprintf("%d log files were removed before they were read", e.Files)
}

// Unwrap gives the error its class.
func (e *DroppedError) Unwrap() error { return errs.New(errs.DataLoss, "log dropped") }

// Reader reads the log of one instance. It belongs to one goroutine.
type Reader struct {
	o   ReadOptions
	cur cursor

	sub      *subscription // nil where it does not follow
	own      *Watch        // to close; nil where it is shared
	drained  bool          // nothing was left at the last look
	stopping chan struct{} // ends the goroutine that waits for Ended
	stopped  chan struct{} // closed when it has ended
}

// OpenReader opens the log in dir, which must exist. Close releases it.
func OpenReader(dir string, o ReadOptions) (*Reader, error) {
	r := &Reader{o: o, cur: cursor{dir: dir}}
	// The watch comes before the first look, so that nothing falls between.
	if o.Follow {
		if err := r.watch(dir); err != nil {
			return nil, err
		}
	}
	if err := r.place(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Reader) watch(dir string) error {
	w := r.o.Watch
	if w == nil {
		var err error
		if w, err = NewWatch(); err != nil {
			return err
		}
		r.own = w
	}
	sub, err := w.subscribe(dir)
	if err != nil {
		if r.own != nil {
			r.own.Close()
		}
		return err
	}
	r.o.Watch, r.sub = w, sub
	if r.o.Ended != nil {
		r.stopping, r.stopped = make(chan struct{}), make(chan struct{})
		go r.awaitEnd()
	}
	return nil
}

// awaitEnd wakes the reader when no more will be written.
func (r *Reader) awaitEnd() {
	defer close(r.stopped)
	select {
	case <-r.o.Ended:
		r.sub.poke()
	case <-r.stopping:
	}
}

// Close releases the files and the watch.
func (r *Reader) Close() error {
	r.cur.close()
	if r.sub == nil {
		return nil
	}
	if r.stopping != nil {
		close(r.stopping)
		<-r.stopped
	}
	r.o.Watch.unsubscribe(r.sub)
	r.sub = nil
	if r.own != nil {
		return r.own.Close()
	}
	return nil
}

// Next answers the next record; it waits for one where the reader follows.
// io.EOF is the end. A *CorruptError and a *DroppedError say what is missing
// here, and the next call goes on. Where the folder is removed the log ends.
func (r *Reader) Next(ctx context.Context) (Record, error) {
	for {
		rec, ok, err := r.poll(ctx)
		if ok || err != nil {
			return rec, err
		}
		if err := wait(ctx, *r.sub.wake.Load(), r.o.Until); err != nil {
			return Record{}, err
		}
	}
}

// poll is Next that does not wait: ok is false where a follower has nothing yet.
func (r *Reader) poll(ctx context.Context) (rec Record, ok bool, err error) {
	if r.sub != nil {
		// Cleared before the look: what happens during it makes the next look.
		if !r.sub.dirty.Swap(false) && r.drained && !r.past() {
			return Record{}, false, nil
		}
		r.drained = false
	}
	// Asked before the look, for the same reason.
	last := r.sub == nil || r.ended()
	for {
		if ctx.Err() != nil {
			return Record{}, false, context.Cause(ctx)
		}
		rec, err := r.cur.next()
		switch {
		case err == errNothing && last:
			return Record{}, false, io.EOF
		case err == errNothing:
			r.drained = true
			return Record{}, false, nil
		case err != nil:
			return Record{}, false, err
		case r.o.match(&rec):
			if r.sub != nil {
				r.sub.dirty.Store(true) // there may be more
			}
			return rec, true, nil
		}
	}
}

func (r *Reader) ended() bool {
	if r.past() {
		return true
	}
	select {
	case <-r.o.Ended:
		return true
	default:
		return false
	}
}

// past reports whether nothing that is still to come can match.
func (r *Reader) past() bool { return !r.o.Until.IsZero() && time.Now().After(r.o.Until) }

// wait waits for wake or, where it is set, for until to have passed.
func wait(ctx context.Context, wake <-chan struct{}, until time.Time) error {
	var over <-chan time.Time
	if !until.IsZero() {
		t := time.NewTimer(time.Until(until) + time.Nanosecond)
		defer t.Stop()
		over = t.C
	}
	select {
	case <-wake:
		return nil
	case <-over:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
