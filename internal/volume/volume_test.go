package volume

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/state"
)

func TestEveryTemplateIsASoundFilesystemAndSparse(t *testing.T) {
	e2fsck, _ := exec.LookPath("e2fsck")
	for _, mib := range sizes() {
		path := filepath.Join(t.TempDir(), "disk.img")
		if err := Create(path, mib<<20); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		if st.Size != int64(mib)<<20 || st.Blocks*512 > 8<<20 {
			t.Errorf("%d MiB: %d bytes, %d of them on disk", mib, st.Size, st.Blocks*512)
		}
		if e2fsck == "" || mib > 8192 { // a check reads all inode tables
			continue
		}
		if out, err := exec.Command(e2fsck, "-f", "-n", path).CombinedOutput(); err != nil {
			t.Errorf("%d MiB: e2fsck: %v\n%s", mib, err, out)
		}
	}
}

func TestSizesRoundUpAndEndSomewhere(t *testing.T) {
	for size, want := range map[uint64]uint64{0: 64 << 20, 64<<20 + 1: 256 << 20, 3 << 30: 4 << 30, Largest: Largest, WritableLayer: WritableLayer} {
		if got, err := RoundUp(size); err != nil || got != want {
			t.Errorf("%d: got %d, %v; want %d", size, got, err, want)
		}
	}
	for _, mib := range sizes() {
		size := mib << 20
		if got, err := RoundUp(uint64(least(int64(size)))); err != nil || got != size {
			t.Errorf("the least for %d makes %d, %v", size, got, err)
		}
	}
	if _, err := RoundUp(Largest + 1); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("too large: %v", err)
	}
}

func TestStore(t *testing.T) {
	s := New(filepath.Join(t.TempDir(), "shop"))
	for range 2 { // what is there stays
		if err := s.Create("cache", 1<<30); err != nil {
			t.Fatal(err)
		}
	}
	all, err := s.List()
	if err != nil || len(all) != 1 || all[0].Name != "cache" || all[0].Size != 1<<30 || all[0].Least != 256<<20+1 {
		t.Fatalf("%v, %v", all, err)
	}
	for range 2 {
		if err := s.Remove("cache"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(s.dir); !os.IsNotExist(err) {
		t.Errorf("the empty folder stayed: %v", err)
	}
}

// Whose a volume is follows from its name, whatever names there are.
func TestOwners(t *testing.T) {
	s := New(t.TempDir())
	for _, name := range []string{"my.data-12345678", Anonymous("My.App-1", "/var/lib")} {
		if err := s.Create(name, 64<<20); err != nil {
			t.Fatal(err)
		}
	}
	all, err := s.List()
	if err != nil || len(all) != 2 || all[0].Instance != "My.App-1" || all[1].Instance != "" {
		t.Errorf("%v, %v", all, err)
	}
}

// A directory is made whole, is told from a disk, and goes with what is in it,
// whatever its permission bits.
func TestDirectory(t *testing.T) {
	s := New(filepath.Join(t.TempDir(), "shop"))
	for range 2 { // what is there stays
		if err := s.CreateDirectory("media"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Create("media.x", 64<<20); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateDirectory("media.x"); !errs.Is(err, errs.AlreadyExists) {
		t.Errorf("a disk became a directory: %v", err)
	}
	all, err := s.List()
	if err != nil || len(all) != 2 || all[0].Name != "media" || all[0].Kind != state.Directory || all[1].Kind != state.Disk {
		t.Errorf("%+v, %v", all, err)
	}
	if !s.IsDirectory("media") || s.IsDirectory("media.x") {
		t.Error("a disk and a directory are mixed up")
	}
	shut := filepath.Join(s.Directory("media"), "data", "shut")
	if err := os.MkdirAll(filepath.Join(shut, "in", "it"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(shut, filepath.Join(shut, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(shut, 0); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"media", "media.x"} {
		if err := s.Remove(name); err != nil {
			t.Error(err)
		}
	}
	if all, err := s.List(); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
}
