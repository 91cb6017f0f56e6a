//go:build linux

package share

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const opFlush, opGetlk, opSetlk, opSetlkw, opInterrupt, opDestroy = 25, 31, 32, 33, 36, 38

// spansOf are the locks on f of others, as the kernel has them.
func spansOf(t *testing.T, f *os.File, size int64) (all spans) {
	t.Helper()
	for at := int64(0); at <= size; at++ {
		lk := span{at, at, unix.F_WRLCK}.flock()
		if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lk); err != nil {
			t.Fatal(err)
		}
		if lk.Type == unix.F_UNLCK {
			continue
		}
		s := span{lk.Start, toEnd, lk.Type}
		if lk.Len > 0 {
			s.end = lk.Start + lk.Len - 1
		}
		all, at = append(all, s), min(s.end, size)
	}
	return all
}

// The ranges that are counted are those that the kernel has.
func TestSpansAreTheKernels(t *testing.T) {
	const size = 24
	path := filepath.Join(t.TempDir(), "file")
	owner, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer owner.Close()
	other, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	random := rand.New(rand.NewPCG(1, 2))
	var have spans
	for range 3000 {
		a, b := random.Int64N(size), random.Int64N(size)
		want := span{min(a, b), max(a, b), []int16{unix.F_RDLCK, unix.F_WRLCK, unix.F_UNLCK}[random.IntN(3)]}
		if random.IntN(10) == 0 {
			want.end = toEnd
		}
		lk := want.flock()
		if err := unix.FcntlFlock(owner.Fd(), unix.F_OFD_SETLK, &lk); err != nil {
			t.Fatal(err)
		}
		before := have
		have = have.with(want)
		if kernel := spansOf(t, other, size); fmt.Sprint(have) != fmt.Sprint(kernel) {
			t.Fatalf("%v with %v: %v, the kernel has %v", before, want, have, kernel)
		}
		probe := span{random.Int64N(size), 0, []int16{unix.F_RDLCK, unix.F_WRLCK}[random.IntN(2)]}
		probe.end = probe.start + random.Int64N(size)
		lk = probe.flock()
		if err := unix.FcntlFlock(other.Fd(), unix.F_OFD_GETLK, &lk); err != nil {
			t.Fatal(err)
		}
		if kernel := lk.Type != unix.F_UNLCK; have.conflict(probe) != kernel {
			t.Fatalf("%v beside %v: conflict is %v for the kernel", probe, have, kernel)
		}
	}
}

// lk is a fuse_lk_in.
func lk(fh, owner uint64, start, end uint64, kind int16, flags uint32) []byte {
	return words(fh, owner, start, end, uint32(kind), uint32(100+owner), flags, uint32(0))
}

// posix and flock are locks of a whole file.
func posix(fh, owner uint64, kind int16) []byte { return lk(fh, owner, 0, toEnd, kind, 0) }

func flock(fh, owner uint64, kind int16) []byte {
	return lk(fh, owner, 0, toEnd, kind, fuse.FUSE_LK_FLOCK)
}

func (g *guest) lock(op uint32, in []byte) error { return second(g.call(op, root, in)) }

// numbered makes a request with a number of its own.
func (g *guest) numbered(op uint32, number uint64, payload []byte) error {
	in := words(uint32(inHeader+len(payload)), op, number, uint64(root), uint32(0), uint32(0), uint32(1), uint32(0), payload)
	out := make([]byte, 256)
	if n := perform(g.proto, in, out, true); n >= outHeader {
		if code := int32(binary.LittleEndian.Uint32(out[4:])); code != 0 {
			return unix.Errno(-code)
		}
	}
	return nil
}

// waits blocks until so many requests wait for locks.
func (g *guest) waits(n int) {
	g.t.Helper()
	end := time.Now().Add(10 * time.Second)
	for {
		g.fs.locks.mu.Lock()
		have := len(g.fs.locks.waiters)
		g.fs.locks.mu.Unlock()
		if have == n {
			return
		}
		if time.Now().After(end) {
			g.t.Fatalf("%d requests wait, not %d", have, n)
		}
		runtime.Gosched()
	}
}

func (g *guest) wants(what string, err, want error) {
	g.t.Helper()
	if !errors.Is(err, want) {
		g.t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// Locks hold between owners of one machine, between machines, and against the host,
// and end with their file, their owner and their machine.
func TestLocksHold(t *testing.T) {
	dir, _ := playground(t)
	for what, form := range map[string]func(fh, owner uint64, kind int16) []byte{"fcntl": posix, "flock": flock} {
		t.Run(what, func(t *testing.T) {
			one, two := newGuest(t, Options{Path: dir}), newGuest(t, Options{Path: dir, Coherent: true})
			a, b := one.mustOpen(one.mustLookup(root, "file"), unix.O_RDWR), two.mustOpen(two.mustLookup(root, "file"), unix.O_RDWR)
			host, err := os.OpenFile(filepath.Join(dir, "file"), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer host.Close()
			onHost := func(kind int16) error {
				return (&lock{key: lockKey{flock: what == "flock"}, f: host}).apply(span{0, toEnd, kind})
			}
			one.wants("lock", one.lock(opSetlk, form(a, 1, unix.F_WRLCK)), nil)
			one.wants("another owner", one.lock(opSetlk, form(a, 2, unix.F_WRLCK)), unix.EAGAIN)
			two.wants("another machine", two.lock(opSetlk, form(b, 1, unix.F_RDLCK)), unix.EAGAIN)
			one.wants("the host", onHost(unix.F_RDLCK), unix.EAGAIN)
			one.wants("down to reading", one.lock(opSetlk, form(a, 1, unix.F_RDLCK)), nil)
			two.wants("both read", two.lock(opSetlk, form(b, 1, unix.F_RDLCK)), nil)
			one.wants("up again", one.lock(opSetlk, form(a, 1, unix.F_WRLCK)), unix.EAGAIN)
			two.wants("unlock", two.lock(opSetlk, form(b, 1, unix.F_UNLCK)), nil)
			one.wants("up again", one.lock(opSetlk, form(a, 1, unix.F_WRLCK)), nil)

			got := make(chan error, 1)
			go func() { got <- two.lock(opSetlkw, form(b, 7, unix.F_WRLCK)) }()
			two.waits(1)
			if what == "fcntl" {
				one.wants("flush", second(one.call(opFlush, root, words(a, uint32(0), uint32(0), uint64(1)))), nil)
			} else {
				one.wants("release", second(one.call(opRelease, root, words(a, uint32(0), uint32(releaseFlock), uint64(1)))), nil)
			}
			two.wants("who waited", <-got, nil)
			one.wants("the host", onHost(unix.F_WRLCK), unix.EAGAIN)
			two.fs.Close() // as when its machine ends
			one.wants("the host", onHost(unix.F_WRLCK), nil)
			if n := len(one.fs.locks.held); n != 0 {
				t.Errorf("%d descriptors are left", n)
			}
		})
	}
}

// GETLK names the process where it is of the same machine, and the range that the
// kernel has.
func TestWhoHasALock(t *testing.T) {
	dir, _ := playground(t)
	one, two := newGuest(t, Options{Path: dir}), newGuest(t, Options{Path: dir})
	a, b := one.mustOpen(one.mustLookup(root, "file"), unix.O_RDWR), two.mustOpen(two.mustLookup(root, "file"), unix.O_RDWR)
	one.wants("lock", one.lock(opSetlk, lk(a, 5, 10, 19, unix.F_WRLCK, 0)), nil)
	ask := func(g *guest, fh, owner uint64) string {
		out, err := g.call(opGetlk, root, lk(fh, owner, 0, toEnd, unix.F_RDLCK, 0))
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(binary.LittleEndian.Uint64(out), binary.LittleEndian.Uint64(out[8:]), binary.LittleEndian.Uint32(out[16:]), binary.LittleEndian.Uint32(out[20:]))
	}
	for what, c := range map[string][2]string{
		"its owner":       {ask(one, a, 5), fmt.Sprint(0, 0, unix.F_UNLCK, 0)},
		"another owner":   {ask(one, a, 6), fmt.Sprint(10, 19, unix.F_WRLCK, 105)},
		"another machine": {ask(two, b, 5), fmt.Sprint(10, 19, unix.F_WRLCK, 0)},
	} {
		if c[0] != c[1] {
			t.Errorf("%s sees %s, want %s", what, c[0], c[1])
		}
	}
}

// Who waits is bounded below what is served at a time, so that the unlock comes
// through; an INTERRUPT, a new INIT and the end of the machine end all waits.
func TestWaitersAreBounded(t *testing.T) {
	dir, _ := playground(t)
	g := newGuest(t, Options{Path: dir})
	fh := g.mustOpen(g.mustLookup(root, "file"), unix.O_RDWR)
	begin := func() (errs chan error, wg *sync.WaitGroup) {
		errs, wg = make(chan error, maxLockWaiters), new(sync.WaitGroup)
		g.wants("lock", g.lock(opSetlk, posix(fh, 1, unix.F_WRLCK)), nil)
		for i := range uint64(maxLockWaiters) {
			wg.Go(func() { errs <- g.numbered(opSetlkw, 1000+i, posix(fh, 10+i, unix.F_RDLCK)) })
		}
		g.waits(maxLockWaiters)
		return errs, wg
	}
	all := func(errs chan error, n int, want error) {
		t.Helper()
		for range n {
			g.wants("who waited", <-errs, want)
		}
	}
	errs, wg := begin()
	g.wants("one too many", g.lock(opSetlkw, posix(fh, 9, unix.F_RDLCK)), unix.ENOLCK)
	g.wants("interrupt", g.numbered(opInterrupt, 1, words(uint64(1000))), nil)
	all(errs, 1, unix.EINTR)
	g.wants("unlock", g.lock(opSetlk, posix(fh, 1, unix.F_UNLCK)), nil)
	all(errs, maxLockWaiters-1, nil)
	wg.Wait()
	g.wants("destroy", g.numbered(opDestroy, 1, nil), nil)
	if n := len(g.fs.locks.held); n != 0 {
		t.Errorf("%d locks outlived their kernel", n)
	}

	errs, _ = begin()
	if _, err := g.call(opInit, 0, words(uint32(7), uint32(38), uint32(1<<16), uint32(0xffffffff), make([]byte, 48))); err != nil {
		t.Fatal(err)
	}
	all(errs, maxLockWaiters, unix.EINTR)

	errs, _ = begin()
	g.fs.locks.pause()
	all(errs, maxLockWaiters, unix.EINTR)
	g.wants("after the end", g.lock(opSetlkw, posix(fh, 9, unix.F_RDLCK)), unix.EINTR)
}

func TestDeadlock(t *testing.T) {
	dir, _ := playground(t)
	if err := os.WriteFile(filepath.Join(dir, "other"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	g := newGuest(t, Options{Path: dir})
	a, b := g.mustOpen(g.mustLookup(root, "file"), unix.O_RDWR), g.mustOpen(g.mustLookup(root, "other"), unix.O_RDWR)
	for owner, fh := range map[uint64]uint64{1: a, 2: b} {
		g.wants("lock", g.lock(opSetlk, posix(fh, owner, unix.F_WRLCK)), nil)
	}
	got := make(chan error, 1)
	go func() { got <- g.lock(opSetlkw, posix(b, 1, unix.F_WRLCK)) }()
	g.waits(1)
	g.wants("the circle", g.lock(opSetlkw, posix(a, 2, unix.F_WRLCK)), unix.EDEADLK)
	g.wants("unlock", g.lock(opSetlk, posix(b, 2, unix.F_UNLCK)), nil)
	g.wants("who waited", <-got, nil)
}

// A guest may have so many owners and ranges, and asks for nonsense in vain.
func TestLocksAreBounded(t *testing.T) {
	dir, outside := playground(t)
	g := newGuest(t, Options{Path: dir})
	fh := g.mustOpen(g.mustLookup(root, "file"), unix.O_RDWR)
	for i := range uint64(maxSpans) {
		if err := g.lock(opSetlk, lk(fh, 1, 2*i, 2*i, unix.F_WRLCK, 0)); err != nil {
			t.Fatal(err)
		}
	}
	g.wants("one range too many", g.lock(opSetlk, lk(fh, 1, 1<<40, 1<<40, unix.F_WRLCK, 0)), unix.ENOLCK)
	g.wants("a neighbour", g.lock(opSetlk, lk(fh, 1, 1, 1, unix.F_WRLCK, 0)), nil)
	g.wants("unlock", g.lock(opSetlk, posix(fh, 1, unix.F_UNLCK)), nil)
	if g.fs.locks.spans != 0 {
		t.Errorf("%d ranges are left", g.fs.locks.spans)
	}
	g.fs.locks.limit = 4
	for i := range uint64(4) {
		g.wants("an owner", g.lock(opSetlk, posix(fh, i, unix.F_RDLCK)), nil)
	}
	g.wants("one owner too many", g.lock(opSetlk, posix(fh, 9, unix.F_RDLCK)), unix.ENOLCK)
	for what, in := range map[string][]byte{
		"upside down":   lk(fh, 1, 9, 8, unix.F_WRLCK, 0),
		"beyond":        lk(fh, 1, 0, 1<<63, unix.F_WRLCK, 0),
		"of no type":    lk(fh, 1, 0, 1, 7, 0),
		"of no file":    posix(99, 1, unix.F_WRLCK),
		"cut off":       posix(fh, 1, unix.F_WRLCK)[:20],
		"of no type, 2": flock(fh, 1, -1),
	} {
		for _, op := range []uint32{opSetlk, opSetlkw, opGetlk} {
			if g.lock(op, in) == nil {
				t.Errorf("a lock %s was taken by operation %d", what, op)
			}
		}
	}
	untouched(t, outside)
}

// A read-only share locks for reading; flock takes either, as on any filesystem.
func TestLocksOfAReadOnlyShare(t *testing.T) {
	dir, _ := playground(t)
	g := newGuest(t, Options{Path: dir, ReadOnly: true})
	fh := g.mustOpen(g.mustLookup(root, "file"), unix.O_RDONLY)
	g.wants("reading", g.lock(opSetlk, posix(fh, 1, unix.F_RDLCK)), nil)
	g.wants("writing", g.lock(opSetlk, posix(fh, 2, unix.F_WRLCK)), unix.EBADF)
	g.wants("flock", g.lock(opSetlk, flock(fh, 3, unix.F_WRLCK)), nil)
}

// Two machines that append, each with its own idea of where the file ends, write
// over nothing.
func TestAppend(t *testing.T) {
	dir, _ := playground(t)
	for i, o := range []Options{{Path: dir}, {Path: dir, Coherent: true}} {
		g := newGuest(t, o)
		fh := g.mustOpen(g.mustLookup(root, "file"), unix.O_RDWR|unix.O_APPEND)
		text := fmt.Sprint("+", i)
		if _, err := g.call(opWrite, root, words(fh, uint64(0), uint32(len(text)), uint32(0), uint64(0), uint32(unix.O_WRONLY|unix.O_APPEND), uint32(0), []byte(text))); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(b) != "inside+0+1" {
		t.Errorf("%q, %v", b, err)
	}
}

// Of a coherent share the guest keeps nothing.
func TestCoherent(t *testing.T) {
	dir, _ := playground(t)
	g := newGuest(t, Options{Path: dir, Coherent: true})
	entry, err := g.call(opLookup, root, words("file"))
	if err != nil || strings.Trim(string(entry[16:32]), "\x00") != "" {
		t.Errorf("a name holds for %x, %v", entry[16:32], err)
	}
	file := binary.LittleEndian.Uint64(entry)
	attr, err := g.call(opGetattr, file, words(uint32(0), uint32(0), uint64(0)))
	if err != nil || strings.Trim(string(attr[:12]), "\x00") != "" {
		t.Errorf("attributes hold for %x, %v", attr[:12], err)
	}
	for what, call := range map[string]func() ([]byte, error){
		"open": func() ([]byte, error) { return g.call(opOpen, file, words(uint32(unix.O_RDWR), uint32(0))) },
		"create": func() ([]byte, error) {
			return g.call(opCreate, root, words(uint32(unix.O_RDWR), uint32(0o644), uint32(0), uint32(0), "made"))
		},
	} {
		out, err := call()
		if err != nil || binary.LittleEndian.Uint32(out[len(out)-8:])&fuse.FOPEN_DIRECT_IO == 0 {
			t.Errorf("%s: %x, %v", what, out, err)
		}
	}
}
