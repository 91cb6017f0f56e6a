//go:build linux

package share

import (
	"cmp"
	"math"
	"slices"

	"golang.org/x/sys/unix"
)

// span is a range of a file that is locked, both ends included.
type span struct {
	start, end int64
	kind       int16 // F_RDLCK or F_WRLCK; in a request F_UNLCK too
}

// toEnd is the end of a span that goes on however long the file becomes.
const toEnd = math.MaxInt64

// spans are what one owner has locked of a file: sorted, apart from each other, and
// joined where neighbours are of one kind, as the kernel keeps them
// (posix_lock_inode of fs/locks.c). They are kept here to bound how many there are
// and to find deadlocks; the kernel decides who may have a lock.
type spans []span

// with returns the spans after s was set.
func (all spans) with(s span) spans {
	next := make(spans, 0, len(all)+2)
	for _, o := range all {
		if o.start < s.start {
			next = append(next, span{o.start, min(o.end, s.start-1), o.kind})
		}
		if o.end > s.end {
			next = append(next, span{max(o.start, s.end+1), o.end, o.kind})
		}
	}
	if s.kind != unix.F_UNLCK {
		next = append(next, s)
	}
	slices.SortFunc(next, func(a, b span) int { return cmp.Compare(a.start, b.start) })
	joined := next[:0]
	for _, o := range next {
		if n := len(joined) - 1; n >= 0 && joined[n].kind == o.kind && joined[n].end == o.start-1 {
			joined[n].end = o.end
			continue
		}
		joined = append(joined, o)
	}
	return joined
}

// conflict reports whether another owner cannot have s beside them.
func (all spans) conflict(s span) bool {
	return slices.ContainsFunc(all, func(o span) bool {
		return o.start <= s.end && s.start <= o.end && (o.kind == unix.F_WRLCK || s.kind == unix.F_WRLCK)
	})
}
