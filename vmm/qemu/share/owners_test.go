//go:build linux

package share

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// chown is a fuse_setattr_in that gives a file to others.
func chown(uid, gid uint32) []byte {
	return words(uint32(fuse.FATTR_UID|fuse.FATTR_GID), uint32(0), make([]byte, 60), uint32(0), uint32(0), uid, gid, uint32(0))
}

// seen is a file as the guest sees it: kind and permissions, owner, device number.
func (g *guest) seen(node uint64) string {
	g.t.Helper()
	b, err := g.call(opGetattr, node, words(uint32(0), uint32(0), uint64(0)))
	if err != nil {
		return err.Error()
	}
	at := func(n int) uint32 { return binary.LittleEndian.Uint32(b[n:]) }
	return fmt.Sprintf("%o %d:%d %d", at(76), at(84), at(88), at(92))
}

func (g *guest) must(op uint32, node uint64, payload []byte) []byte {
	g.t.Helper()
	b, err := g.call(op, node, payload)
	if err != nil {
		g.t.Fatalf("operation %d: %v", op, err)
	}
	return b
}

func (g *guest) create(dir uint64, name string, mode uint32) uint64 {
	g.t.Helper()
	return binary.LittleEndian.Uint64(g.must(opCreate, dir, words(uint32(unix.O_RDWR), mode, uint32(0), uint32(0), name)))
}

func TestOwnersAreRemembered(t *testing.T) {
	dir, _ := playground(t)
	o := remembering(t).at(dir)
	o.UID, o.GID = 33, 34
	g := newGuest(t, o)
	g.must(opSetattr, root, chown(999, 998))
	g.must(opSetattr, root, setattr(fuse.FATTR_MODE, 0, 0o2700))
	g.must(opSetattr, g.mustLookup(root, "up"), chown(5, 6))
	g.must(opSetattr, g.mustLookup(root, "sub"), setattr(fuse.FATTR_MODE, 0, 0))
	g.must(opMknod, root, words(uint32(unix.S_IFCHR|0o640), uint32(0x105), uint32(0), uint32(0), "device"))
	g.must(opMknod, root, words(uint32(unix.S_IFIFO|0o200), uint32(0), uint32(0), uint32(0), "pipe"))
	g.uid, g.gid = 7, 8
	g.create(root, "theirs", 0o4511)
	g.must(opMkdir, root, words(uint32(0o750), uint32(0), "folder"))
	g.must(opSymlink, root, words("link", "to"))
	g.uid, g.gid = 33, 34
	g.create(g.mustLookup(root, "sub"), "own", 0o640)
	g.must(opSetattr, g.mustLookup(root, "file"), setattr(fuse.FATTR_MODE, 0, 0o400))
	want := map[string]string{
		"file": "100400 33:34 0", "secret": "120777 33:34 0", "sub": "40000 33:34 0", "up": "120777 5:6 0",
		"device": "20640 0:998 261", "pipe": "10200 0:998 0", "theirs": "104511 7:998 0", "folder": "42750 7:998 0", "link": "120777 7:998 0",
	}
	check := func(g *guest) {
		t.Helper()
		if got := g.seen(root); got != "42700 999:998 0" {
			t.Errorf("the folder is %s", got)
		}
		for name, w := range want {
			if got := g.seen(g.mustLookup(root, name)); got != w {
				t.Errorf("%s is %s, not %s", name, got, w)
			}
		}
		if got := g.seen(g.mustLookup(g.mustLookup(root, "sub"), "own")); got != "100640 33:34 0" {
			t.Errorf("what the container's user made is %s", got)
		}
	}
	check(g)
	beside := newGuest(t, o)
	check(beside)
	o.ReadOnly = true
	reads := newGuest(t, o)
	check(reads)
	g.fs.Close()
	if err := os.Rename(dir, dir+".moved"); err != nil {
		t.Fatal(err)
	}
	check(newGuest(t, o.at(dir+".moved")))

	me := fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid())
	for name, w := range map[string]string{".": "40700", "sub": "40700", "file": "100600", "device": "100640", "pipe": "10600", "theirs": "100711", "folder": "40750"} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir+".moved", name), &st); err != nil {
			t.Error(err)
		}
		if got := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid); got != w+" "+me {
			t.Errorf("on the host %s is %s, not %s", name, got, w)
		}
	}
	if all, err := os.ReadDir(dir + ".moved"); err != nil || len(all) != len(want)+1 { // and a link that is not asked about
		t.Errorf("the folder has %v, %v", all, err)
	}
}

// What the user does on the host goes before what is remembered.
func TestTheHostChangesWhatIsRemembered(t *testing.T) {
	dir, _ := playground(t)
	g := newGuest(t, remembering(t).at(dir))
	file := g.mustLookup(root, "file")
	g.must(opSetattr, file, chown(9, 9))
	g.must(opSetattr, file, setattr(fuse.FATTR_MODE, 0, 0o4400))
	path := filepath.Join(dir, "file")
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if got := g.seen(file); got != "100755 9:9 0" {
		t.Errorf("after a chmod on the host: %s", got)
	}
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := g.seen(g.mustLookup(root, "file")); got != "100644 0:0 0" {
		t.Errorf("another file under the name: %s", got)
	}
	if got := g.seen(g.mustLookup(root, "file.old")); got != "100755 9:9 0" {
		t.Errorf("the file under another name: %s", got)
	}
}

// slots counts what a table has.
func slots(t *testing.T, owners string) (n int) {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(owners, "*"))
	if err != nil || len(all) != 1 {
		t.Fatalf("%v %v", all, err)
	}
	b, err := os.ReadFile(all[0])
	if err != nil {
		t.Fatal(err)
	}
	for ; len(b) >= slotSize; b = b[slotSize:] {
		if !bytes.Equal(b[:slotSize], make([]byte, slotSize)) {
			n++
		}
	}
	return n
}

// Most files need no slot, and one that is gone gives its own back.
func TestSlotsAreGivenBack(t *testing.T) {
	dir, _ := playground(t)
	o := remembering(t).at(dir)
	g := newGuest(t, o)
	plain := g.create(root, "plain", 0o644)
	if n := slots(t, o.Owners); n != 0 {
		t.Errorf("%d slots for a file as any other", n)
	}
	g.must(opSetattr, plain, chown(1, 1))
	g.must(opSetattr, plain, chown(0, 0))
	if n := slots(t, o.Owners); n != 0 {
		t.Errorf("%d slots for a file that was given back", n)
	}
	g.uid = 9
	gone := g.create(root, "gone", 0o644)
	kept := g.create(root, "kept", 0o644)
	g.must(opUnlink, root, words("gone"))
	if got := g.seen(gone); got != "100644 9:0 0" {
		t.Errorf("removed while it is open: %s", got)
	}
	if _, err := g.call(opForget, gone, words(uint64(1))); err != nil && !errors.Is(err, unix.EIO) {
		t.Error(err)
	}
	if n := slots(t, o.Owners); n != 1 {
		t.Errorf("%d slots for one file", n)
	}
	g.must(opUnlink, root, words("kept"))
	_ = kept
	g.fs.Close()
	if n := slots(t, o.Owners); n != 0 {
		t.Errorf("%d slots are left when the machine is gone", n)
	}
}

// A guest cannot make a table larger than it may be: what cannot be remembered is
// refused.
func TestAFullTable(t *testing.T) {
	dir, _ := playground(t)
	o := remembering(t).at(dir)
	g := newGuest(t, o)
	g.fs.owners.levels = 1
	g.uid = 9
	made := 0
	for ; made < firstLevel*bucketSlots; made++ {
		name := fmt.Sprint("f", made)
		if _, err := g.call(opMknod, root, words(uint32(unix.S_IFREG|0o644), uint32(0), uint32(0), uint32(0), name)); err != nil {
			if err != unix.EDQUOT {
				t.Error(err)
			}
			if _, err := os.Lstat(filepath.Join(dir, name)); !os.IsNotExist(err) {
				t.Errorf("what was refused is there: %v", err)
			}
			break
		}
	}
	if made < firstLevel || made == firstLevel*bucketSlots {
		t.Errorf("%d files were made", made)
	}
	if n := slots(t, o.Owners); n != made {
		t.Errorf("%d slots for %d files", n, made)
	}
	g.fs.owners.levels = levels
	g.must(opMknod, root, words(uint32(unix.S_IFREG|0o644), uint32(0), uint32(0), uint32(0), "more"))
	g = newGuest(t, o)
	for n := range made {
		if got := g.seen(g.mustLookup(root, fmt.Sprint("f", n))); got != "100644 9:0 0" {
			t.Errorf("file %d is %s", n, got)
		}
	}
}

// A damaged table keeps nobody from sharing the folder, and takes new owners.
func TestADamagedTable(t *testing.T) {
	damage := map[string]func(path string) error{
		"gone":     os.Remove,
		"cut":      func(p string) error { return os.Truncate(p, 100) },
		"noise":    func(p string) error { return os.WriteFile(p, noise(1<<16+77), 0o600) },
		"long":     func(p string) error { return os.WriteFile(p, noise(1<<20), 0o600) },
		"a folder": func(p string) error { _ = os.Remove(p); return os.Mkdir(p, 0o700) },
		"a link":   func(p string) error { _ = os.Remove(p); return os.Symlink("/dev/zero", p) },
		"a pipe":   func(p string) error { _ = os.Remove(p); return unix.Mkfifo(p, 0o600) },
		"bits": func(p string) error {
			b, err := os.ReadFile(p)
			for i := range b {
				if b[i] != 0 && i%slotSize >= 8 && i%slotSize < 60 && i%slotSize/8 == 4 {
					b[i] ^= 1
				}
			}
			return errors.Join(err, os.WriteFile(p, b, 0o600))
		},
	}
	for what, do := range damage {
		t.Run(what, func(t *testing.T) {
			dir, _ := playground(t)
			o := remembering(t).at(dir)
			g := newGuest(t, o)
			g.must(opSetattr, g.mustLookup(root, "file"), chown(9, 9))
			g.fs.Close()
			all, err := filepath.Glob(filepath.Join(o.Owners, "*"))
			if err != nil || len(all) != 1 {
				t.Fatal(all, err)
			}
			if err := do(all[0]); err != nil {
				t.Fatal(err)
			}
			g = newGuest(t, o)
			file := g.mustLookup(root, "file")
			if got := g.seen(file); got != "100644 0:0 0" {
				t.Errorf("the file is %s", got)
			}
			g.must(opSetattr, file, chown(8, 8))
			want := "100644 8:8 0"
			if (g.fs.owners == nil) != (g.fs.forgets != nil) {
				t.Errorf("a table %v, and %v", g.fs.owners, g.fs.forgets)
			}
			if g.fs.owners == nil {
				want = "100644 0:0 0"
			}
			if got := g.seen(file); got != want {
				t.Errorf("then it is %s", got)
			}
			g.must(opSetattr, file, setattr(fuse.FATTR_MODE, 0, 0o700))
			o.ReadOnly = true
			newGuest(t, o).mustLookup(root, "file")
		})
	}
}

// noise is no table.
func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// Shares of several machines have one table: each sees what the others change, and
// nothing is lost.
func TestOneTableForAll(t *testing.T) {
	dir, _ := playground(t)
	o := remembering(t).at(dir)
	var wg sync.WaitGroup
	for n := range uint32(4) {
		g := newGuest(t, o)
		g.uid = n + 1
		wg.Go(func() {
			for k := range 60 {
				name := fmt.Sprintf("f%d-%d", n, k)
				if _, err := g.call(opMknod, root, words(uint32(unix.S_IFREG|0o644), uint32(0), uint32(0), uint32(0), name)); err != nil {
					t.Error(err)
				}
				file, err := g.lookup(root, "file")
				if err != nil {
					t.Error(err)
				}
				if _, err := g.call(opSetattr, file, chown(n+1, n+1)); err != nil {
					t.Error(err)
				}
				var uid, gid uint32
				if _, err := fmt.Sscanf(g.seen(file), "100644 %d:%d 0", &uid, &gid); err != nil || uid != gid || uid == 0 {
					t.Errorf("in the middle of it: %d:%d %v", uid, gid, err)
				}
			}
		})
	}
	wg.Wait()
	g := newGuest(t, o)
	for n := range 4 {
		for k := range 60 {
			name := fmt.Sprintf("f%d-%d", n, k)
			if got, want := g.seen(g.mustLookup(root, name)), fmt.Sprintf("100644 %d:0 0", n+1); got != want {
				t.Errorf("%s is %s", name, got)
			}
		}
	}
}

// A table that nobody has used for long goes; one that is in use stays.
func TestOldTablesGo(t *testing.T) {
	o := remembering(t)
	var dirs []string
	for range 3 {
		dir, _ := playground(t)
		dirs = append(dirs, dir)
	}
	gone, used := newGuest(t, o.at(dirs[0])), newGuest(t, o.at(dirs[1]))
	gone.must(opSetattr, root, chown(9, 9))
	used.must(opSetattr, root, chown(9, 9))
	gone.fs.Close()
	all, err := filepath.Glob(filepath.Join(o.Owners, "*"))
	if err != nil || len(all) != 2 {
		t.Fatal(all, err)
	}
	for _, age := range []time.Duration{unused / 2, unused + time.Hour} {
		then := time.Now().Add(-age)
		for _, path := range all {
			if err := os.Chtimes(path, then, then); err != nil {
				t.Fatal(err)
			}
		}
		newGuest(t, o.at(dirs[2])).fs.Close()
		want := 3
		if age > unused {
			want = 2
		}
		if left, err := filepath.Glob(filepath.Join(o.Owners, "*")); err != nil || len(left) != want {
			t.Errorf("%v old: %v %v", age, left, err)
		}
	}
	used.fs.Close()
	if got := newGuest(t, o.at(dirs[1])).seen(root); got != "40755 9:9 0" {
		t.Errorf("the folder in use is %s", got)
	}
}

// FuzzTable reads a table of any bytes.
func FuzzTable(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, bucketSize))
	f.Add(noise(3 * bucketSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir, outside := playground(t)
		o := remembering(t).at(dir)
		newGuest(t, o).fs.Close()
		all, _ := filepath.Glob(filepath.Join(o.Owners, "*"))
		if err := os.WriteFile(all[0], b, 0o600); err != nil {
			t.Fatal(err)
		}
		g := newGuest(t, o)
		file := g.mustLookup(root, "file")
		g.must(opSetattr, file, chown(8, 9))
		if got := g.seen(file); got != "100644 8:9 0" {
			t.Errorf("the file is %s", got)
		}
		untouched(t, outside)
	})
}
