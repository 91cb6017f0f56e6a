//go:build linux

package share

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

func (g *guest) mustOpen(node uint64, flags uint32) uint64 {
	g.t.Helper()
	b, err := g.call(opOpen, node, words(flags, uint32(0)))
	if err != nil {
		g.t.Fatalf("open: %v", err)
	}
	return binary.LittleEndian.Uint64(b)
}

func (g *guest) release(fh uint64) error {
	return second(g.call(opRelease, root, words(fh, uint32(0), uint32(0), uint64(0))))
}

// A file that is released while a request uses it stays open until that is done:
// its number is not another file's meanwhile.
func TestReleasedWhileItIsUsed(t *testing.T) {
	dir, _ := playground(t)
	g := newGuest(t, Options{Path: dir})
	for range 2 {
		fh := g.mustOpen(g.mustLookup(root, "file"), unix.O_RDWR)
		h, done, code := g.fs.handle(fh, false)
		if !code.Ok() {
			t.Fatal(code)
		}
		fd := int(h.f.Fd())
		if err := g.release(fh); err != nil {
			t.Fatal(err)
		}
		if _, _, code := g.fs.handle(fh, false); code != fuse.EBADF {
			t.Errorf("a released file is there: %v", code)
		}
		b := make([]byte, 6)
		if n, err := unix.Pread(fd, b, 0); err != nil || string(b[:n]) != "inside" {
			t.Errorf("in the middle of a request: %q, %v", b[:n], err)
		}
		done()
		if err := h.f.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("after the request it is open: %v", err)
		}
	}
}

// Whatever is released under whatever is read, what comes is the share's.
func TestReleaseBesideReads(t *testing.T) {
	dir, outside := playground(t)
	g := newGuest(t, Options{Path: dir})
	file := g.mustLookup(root, "file")
	var guests, host sync.WaitGroup
	end := make(chan struct{})
	host.Go(func() { // opens what takes the numbers
		for {
			select {
			case <-end:
				return
			default:
			}
			if f, err := os.OpenFile(filepath.Join(outside, "secret"), os.O_RDWR, 0); err == nil {
				_ = f.Close()
			}
		}
	})
	for range 8 {
		guests.Go(func() {
			for range 300 {
				b, err := g.call(opOpen, file, words(uint32(unix.O_RDWR), uint32(0)))
				if err != nil {
					t.Error(err)
					return
				}
				fh := binary.LittleEndian.Uint64(b)
				var race sync.WaitGroup
				race.Go(func() { _ = g.release(fh) })
				race.Go(func() {
					b, err := g.call(opRead, file, words(fh, uint64(0), uint32(64), uint32(0), uint64(0), uint32(0), uint32(0)))
					if err == nil && string(b) != "inside" {
						t.Errorf("read %q", b)
					}
				})
				race.Go(func() {
					_, _ = g.call(opWrite, file, words(fh, uint64(0), uint32(6), uint32(0), uint64(0), uint32(0), uint32(0), []byte("inside")))
				})
				race.Wait()
			}
		})
	}
	guests.Wait()
	close(end)
	host.Wait()
	untouched(t, outside)
	if len(g.fs.handles) != 0 {
		t.Errorf("%d handles are left", len(g.fs.handles))
	}
}

// A second INIT beside other requests is served alone (under the race detector).
func TestInitBesideRequests(t *testing.T) {
	dir, _ := playground(t)
	g := newGuest(t, Options{Path: dir})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				_, _ = g.call(opInit, 0, words(uint32(7), uint32(38), uint32(1<<16), uint32(0xffffffff), make([]byte, 48)))
			}
		})
		wg.Go(func() {
			for range 50 {
				g.mustLookup(root, "file")
			}
		})
	}
	wg.Wait()
}

func TestSharesPartTheDescriptors(t *testing.T) {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	for _, of := range []int{0, 1, 2, 8} {
		l := limitsOf(of)
		if n := uint64((l.nodes + l.handles + l.locks) * max(of, 1)); n > lim.Cur/8*6 {
			t.Errorf("%d shares may hold %d of %d descriptors", of, n, lim.Cur)
		}
	}
	dir, _ := playground(t)
	g := newGuest(t, Options{Path: dir})
	g.fs.limits.handles = 2
	file := g.mustLookup(root, "file")
	one := g.mustOpen(file, unix.O_RDONLY)
	g.mustOpen(file, unix.O_RDONLY)
	if _, err := g.call(opOpen, file, words(uint32(unix.O_RDONLY), uint32(0))); !errors.Is(err, unix.ENFILE) {
		t.Errorf("over the limit: %v", err)
	}
	if err := g.release(one); err != nil {
		t.Fatal(err)
	}
	g.mustOpen(file, unix.O_RDONLY)
}

// Permission bits are those that the guest asked for: the host's umask is not its.
func TestTheUmaskOfTheHost(t *testing.T) {
	dir, _ := playground(t)
	g := newGuest(t, Options{Path: dir})
	defer unix.Umask(unix.Umask(0o077))
	for name, err := range map[string]error{
		"folder": second(g.call(opMkdir, root, words(uint32(0o777), uint32(0), "folder"))),
		"pipe":   second(g.call(opMknod, root, words(uint32(unix.S_IFIFO|0o777), uint32(0), uint32(0), uint32(0), "pipe"))),
		"made":   second(g.call(opCreate, root, words(uint32(unix.O_RDWR), uint32(0o777), uint32(0), uint32(0), "made"))),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if fi, err := os.Lstat(filepath.Join(dir, name)); err != nil || fi.Mode().Perm() != 0o777 {
			t.Errorf("%s is %v, %v", name, fi.Mode(), err)
		}
	}
	if _, err := g.call(opSymlink, root, words("link", "file")); err != nil {
		t.Error(err)
	}
}

// A file that is open for writing is cut by way of that, as its permission bits may
// let nobody open it again.
func TestTruncateByHandle(t *testing.T) {
	dir, _ := playground(t)
	g := newGuest(t, Options{Path: dir})
	file := g.mustLookup(root, "file")
	byHandle := func(fh uint64) []byte {
		b := bytes.Clone(setattr(fuse.FATTR_SIZE|fuse.FATTR_FH, 2, 0))
		binary.LittleEndian.PutUint64(b[8:], fh)
		return b
	}
	if _, err := g.call(opSetattr, file, byHandle(g.mustOpen(file, unix.O_RDONLY))); !errors.Is(err, unix.EINVAL) {
		t.Errorf("by what is open for reading: %v", err)
	}
	if _, err := g.call(opSetattr, file, byHandle(99)); !errors.Is(err, unix.EBADF) {
		t.Errorf("by no handle: %v", err)
	}
	if _, err := g.call(opSetattr, file, byHandle(g.mustOpen(file, unix.O_RDWR))); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(b) != "in" {
		t.Errorf("%q, %v", b, err)
	}
}
