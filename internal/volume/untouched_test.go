package volume

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/vzcompose/vzcompose/internal/errs"
)

func TestUntouched(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	for _, size := range sizes() {
		_ = os.Remove(path) // there is none at first
		if err := Create(path, size<<20); err != nil {
			t.Fatal(err)
		}
		if ok, err := Untouched(path); !ok || err != nil {
			t.Errorf("%d MiB, new: %v, %v", size, ok, err)
		}
	}
	for name, at := range map[string]int64{"time of a mount": 1024 + 0x2c, "count of mounts": 1024 + 0x34} {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{1}, at); err != nil {
			t.Fatal(err)
		}
		if ok, err := Untouched(path); ok || err != nil {
			t.Errorf("with a %s: %v, %v", name, ok, err)
		}
		if _, err := f.WriteAt([]byte{0}, at); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	if err := os.Truncate(path, 1000); err != nil {
		t.Fatal(err)
	}
	if _, err := Untouched(path); !errs.Is(err, errs.DataLoss) {
		t.Errorf("cut off: %v", err)
	}
}
