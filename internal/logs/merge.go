package logs

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
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

// Merged reads several logs as one, by time. It belongs to one goroutine, but
// for Do.
type Merged struct {
	sources []*source     // that may still have something
	wake    chan struct{} // of all readers that follow
	open    bool          // Next waits for sources that are still to come
	due     []func()      // asked for by Do, and taken from asked

	mu    sync.Mutex // guards asked
	asked []func()
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
		m.Add(s)
	}
	return m
}

// MergeOpen returns a merge without sources whose Next waits for some until
// Finish. Sources come and go by functions that are given to Do.
func MergeOpen() *Merged { return &Merged{wake: make(chan struct{}, 1), open: true} }

// Add takes one more reader over. It is for the merge's goroutine. A source of
// that name that is there already is closed: its log was removed.
func (m *Merged) Add(s Source) {
	m.sources = slices.DeleteFunc(m.sources, func(old *source) bool {
		if m.open && old.Name == s.Name {
			_ = old.Reader.Close() // it only read
			return true
		}
		return false
	})
	m.sources = append(m.sources, &source{Source: s})
	if s.Reader.sub != nil {
		s.Reader.sub.wake.Store(&m.wake)
	}
}

// Finish has Next return io.EOF, whatever its sources follow. It is for the
// merge's goroutine.
func (m *Merged) Finish() {
	m.open = false
	_ = m.Close() // they only read
}

// Do has the merge's goroutine call fn in Next, once it has returned all that
// was written before the call of Do. Any goroutine may call it. What is still
// to be done when the merge is closed is not done.
func (m *Merged) Do(fn func()) {
	m.mu.Lock()
	m.asked = append(m.asked, fn)
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// takeAsked takes what Do was asked for. Every source is looked at once more
// then: what was written may not have been told yet.
func (m *Merged) takeAsked() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.asked) == 0 {
		return
	}
	m.due, m.asked = append(m.due, m.asked...), nil
	for _, s := range m.sources {
		if s.Reader.sub != nil {
			s.Reader.sub.dirty.Store(true)
		}
	}
}

// Close closes the readers.
func (m *Merged) Close() error {
	var all []error
	for _, s := range m.sources {
		all = append(all, s.Reader.Close())
	}
	m.sources = nil
	return errors.Join(all...)
}

// Next is Reader.Next over all sources. Where it answers an error other than
// io.EOF, the entry names the source; that source goes on after a *CorruptError
// and a *DroppedError, and is left out after any other.
func (m *Merged) Next(ctx context.Context) (Entry, error) {
	for {
		m.takeAsked()
		if name, err := m.fill(ctx); err != nil {
			return Entry{Name: name}, err
		}
		if s := m.first(); s != nil {
			e := Entry{Name: s.Name, Record: *s.head}
			s.head = nil
			return e, nil
		}
		if len(m.due) > 0 {
			fn := m.due[0]
			m.due = m.due[1:]
			fn()
			continue
		}
		if len(m.sources) == 0 && !m.open {
			return Entry{}, io.EOF
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
			_ = s.Reader.Close() // it only read
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
