package logs

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"
)

// Source is one instance's log in a merge.
type Source struct {
	Name   string
	Reader *Reader
}

// Entry is a record and whose it is.
type Entry struct {
	Name string
	Record
}

// Merged reads several logs as one, by time. It belongs to one goroutine.
type Merged struct {
	sources []*source     // that may still have something
	readers []*Reader     // all, to close
	wake    chan struct{} // of all readers that follow
}

type source struct {
	Source
	head *Record // nil: to be read
}

// Merge takes over the readers: Close closes them. What is there already comes
// in the order of its times, and in that of the sources where times are equal;
// what is followed comes as it is written. No goroutine is needed for it.
func Merge(sources ...Source) *Merged {
	m := &Merged{wake: make(chan struct{}, 1)}
	for _, s := range sources {
		m.sources = append(m.sources, &source{Source: s})
		m.readers = append(m.readers, s.Reader)
		if s.Reader.sub != nil {
			s.Reader.sub.wake.Store(&m.wake)
		}
	}
	return m
}

// Close closes the readers.
func (m *Merged) Close() error {
	var all []error
	for _, r := range m.readers {
		all = append(all, r.Close())
	}
	return errors.Join(all...)
}

// Next is Reader.Next over all sources. Where it answers an error other than
// io.EOF, the entry names the source; that source goes on after a *CorruptError
// and a *DroppedError, and is left out after any other.
func (m *Merged) Next(ctx context.Context) (Entry, error) {
	for {
		if name, err := m.fill(ctx); err != nil {
			return Entry{Name: name}, err
		}
		if len(m.sources) == 0 {
			return Entry{}, io.EOF
		}
		if s := m.first(); s != nil {
			e := Entry{Name: s.Name, Record: *s.head}
			s.head = nil
			return e, nil
		}
		if err := wait(ctx, m.wake, m.until()); err != nil {
			return Entry{}, err
		}
	}
}

// fill reads the heads that can be had without waiting, and forgets the sources
// that have ended.
func (m *Merged) fill(ctx context.Context) (string, error) {
	for i := 0; i < len(m.sources); {
		s := m.sources[i]
		if s.head != nil {
			i++
			continue
		}
		r, ok, err := s.Reader.poll(ctx)
		if err == nil {
			if ok {
				s.head = &r
			}
			i++
			continue
		}
		if ctx.Err() == nil && !passing(err) {
			m.sources = slices.Delete(m.sources, i, i+1)
		}
		if err != io.EOF {
			return s.Name, err
		}
	}
	return "", nil
}

// passing reports whether a reader goes on after err.
func passing(err error) bool {
	var corrupt *CorruptError
	var dropped *DroppedError
	return errors.As(err, &corrupt) || errors.As(err, &dropped)
}

// first answers the source with the earliest head, or nil.
func (m *Merged) first() *source {
	var min *source
	for _, s := range m.sources {
		if s.head != nil && (min == nil || s.head.Time.Before(min.head.Time)) {
			min = s
		}
	}
	return min
}

// until answers when the first source ends by time; zero: none does.
func (m *Merged) until() time.Time {
	var first time.Time
	for _, s := range m.sources {
		if u := s.Reader.o.Until; !u.IsZero() && (first.IsZero() || u.Before(first)) {
			first = u
		}
	}
	return first
}
