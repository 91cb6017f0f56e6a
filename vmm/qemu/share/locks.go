//go:build linux

package share

import (
	"os"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Bounds of the locks of one share.
const (
	maxLocks = 1024 // owners of locks, counted by file; fewer where there are fewer descriptors
	maxSpans = 4096 // locked ranges: the host's kernel has memory for each
	// maxLockWaiters is less than maxFlight: those who wait must not keep the request
	// from being served that unlocks.
	maxLockWaiters = maxFlight / 2
)

// A waiting request sleeps this long between two attempts. The host's kernel could
// wait for it, but only in a thread that nothing wakes when the machine ends.
const (
	firstPause   = 500 * time.Microsecond
	longestPause = 16 * time.Millisecond
)

// lockKey is an owner of locks on a file: a process of the guest, or for flock an
// open file of it.
type lockKey struct {
	file  fileID
	owner uint64
	flock bool
}

// lock is the open file description of the host that has the locks of one owner.
type lock struct {
	key   lockKey
	f     *os.File
	pid   uint32 // in the guest, of who asked last
	spans spans  // of flock: one, of the whole file
	users int    // requests that use f
}

// lockWait is one request that waits.
type lockWait struct {
	key  lockKey
	want span
}

// lockTable is what a guest has locked. A lock of the guest is one of the host: flock
// is flock(2), and fcntl takes an open file description lock, as the host's processes
// are not the guest's. So locks hold between machines and against programs of the
// host, and end with this process.
type lockTable struct {
	limit int // of held

	mu      sync.Mutex // guards the following
	held    map[lockKey]*lock
	spans   int // of all
	waiters map[*lockWait]bool
	changed chan struct{} // closed and replaced when something is unlocked
	pauses  int           // while not 0, nobody waits
	paused  chan struct{} // closed when pauses leaves 0
}

func newLockTable(limit int) *lockTable {
	return &lockTable{limit: limit, held: map[lockKey]*lock{}, waiters: map[*lockWait]bool{},
		changed: make(chan struct{}), paused: make(chan struct{})}
}

// use returns the description of an owner, opened by open where there is none, until
// done is called.
func (t *lockTable) use(key lockKey, open func() (*os.File, error)) (l *lock, done func(), code fuse.Status) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l = t.held[key]
	if l == nil {
		if len(t.held) >= t.limit {
			return nil, nil, fuse.Status(unix.ENOLCK)
		}
		f, err := open()
		if err != nil { // its permission bits have changed since the guest opened it
			return nil, nil, fuse.Status(unix.ENOLCK)
		}
		l = &lock{key: key, f: f}
		t.held[key] = l
	}
	l.users++
	return l, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		l.users--
		t.dropLocked(l)
	}, fuse.OK
}

// dropLocked closes a description without locks that nobody uses.
func (t *lockTable) dropLocked(l *lock) {
	if l.users > 0 || len(l.spans) > 0 || t.held[l.key] != l {
		return
	}
	delete(t.held, l.key)
	_ = l.f.Close() // nothing was written
}

// set takes a lock or lets go of one; EAGAIN: another owner has it.
func (t *lockTable) set(l *lock, want span, pid uint32) fuse.Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := l.spans.with(want)
	if more := len(next) - len(l.spans); more > 0 && t.spans+more > maxSpans {
		return fuse.Status(unix.ENOLCK)
	}
	err := l.apply(want)
	if err == unix.EWOULDBLOCK && l.key.flock {
		next = nil // flock(2): a failed conversion loses the lock that there was
	} else if err != nil {
		return fuse.ToStatus(err)
	}
	t.replaceLocked(l, next)
	if err == nil {
		l.pid = pid
	}
	return fuse.ToStatus(err)
}

func (t *lockTable) replaceLocked(l *lock, next spans) {
	t.spans += len(next) - len(l.spans)
	if len(l.spans) > 0 { // what was there may be less now
		close(t.changed)
		t.changed = make(chan struct{})
	}
	l.spans = next
}

// apply asks the host's kernel, which does not wait.
func (l *lock) apply(want span) error {
	fd := int(l.f.Fd())
	if l.key.flock {
		how := map[int16]int{unix.F_RDLCK: unix.LOCK_SH, unix.F_WRLCK: unix.LOCK_EX, unix.F_UNLCK: unix.LOCK_UN}[want.kind]
		return unix.Flock(fd, how|unix.LOCK_NB)
	}
	lk := want.flock()
	return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &lk)
}

// flock is a span as the kernel reads it.
func (s span) flock() unix.Flock_t {
	lk := unix.Flock_t{Type: s.kind, Whence: unix.SEEK_SET, Start: s.start}
	if s.end != toEnd {
		lk.Len = s.end - s.start + 1
	}
	return lk
}

// wait is set, again and again until the lock is had, cancel is closed, or the table
// is paused.
func (t *lockTable) wait(cancel <-chan struct{}, l *lock, want span, pid uint32) fuse.Status {
	w := &lockWait{l.key, want}
	timer := time.NewTimer(0)
	defer timer.Stop()
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.waiters, w)
	}()
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		t.mu.Lock()
		changed, paused, stop := t.changed, t.paused, t.pauses > 0
		t.mu.Unlock()
		if stop {
			return fuse.EINTR
		}
		if code := t.set(l, want, pid); code != fuse.EAGAIN {
			return code
		}
		if code := t.enlist(w); !code.Ok() {
			return code
		}
		timer.Reset(pause)
		select {
		case <-cancel:
			return fuse.EINTR
		case <-paused:
			return fuse.EINTR
		case <-changed:
			pause = firstPause
		case <-timer.C:
		}
	}
}

// enlist counts a request among those that wait, unless it would wait for itself.
func (t *lockTable) enlist(w *lockWait) fuse.Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.waiters[w] && len(t.waiters) >= maxLockWaiters {
		return fuse.Status(unix.ENOLCK)
	}
	if !w.key.flock && t.deadlockLocked(w, w.key.owner, map[uint64]bool{}) {
		return fuse.Status(unix.EDEADLK)
	}
	t.waiters[w] = true
	return fuse.OK
}

// deadlockLocked reports whether owner has a lock that w waits for, be it by way of
// others who wait. As in the kernel of one machine this is for fcntl only; a circle
// through another machine is not seen.
func (t *lockTable) deadlockLocked(w *lockWait, owner uint64, seen map[uint64]bool) bool {
	for key, l := range t.held {
		if key.flock || key.file != w.key.file || key.owner == w.key.owner || seen[key.owner] || !l.spans.conflict(w.want) {
			continue
		}
		if key.owner == owner {
			return true
		}
		seen[key.owner] = true
		for other := range t.waiters {
			if !other.key.flock && other.key.owner == key.owner && t.deadlockLocked(other, owner, seen) {
				return true
			}
		}
	}
	return false
}

// holder returns a process of the guest that keeps others from having want; 0: none
// is known.
func (t *lockTable) holder(key lockKey, want span) uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, l := range t.held {
		if !k.flock && k.file == key.file && k.owner != key.owner && l.spans.conflict(want) {
			return l.pid
		}
	}
	return 0
}

// any reports whether there is a lock.
func (t *lockTable) any() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.held) > 0
}

// release frees all that an owner has locked of a file.
func (t *lockTable) release(key lockKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.held[key]
	if l == nil {
		return
	}
	if l.users > 0 { // else closing it is enough
		_ = l.apply(span{0, toEnd, unix.F_UNLCK}) // what is there can always be unlocked
	}
	t.replaceLocked(l, nil)
	t.dropLocked(l)
}

// pause ends every request that waits, and lets none wait until resume.
func (t *lockTable) pause() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pauses++; t.pauses == 1 {
		close(t.paused)
	}
}

// resume takes a pause back.
func (t *lockTable) resume() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pauses--; t.pauses == 0 {
		t.paused = make(chan struct{})
	}
}

// clear frees all locks. No request may use one.
func (t *lockTable) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range t.held {
		t.replaceLocked(l, nil)
		t.dropLocked(l)
	}
}
