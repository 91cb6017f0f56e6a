//go:build linux

package guest

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// A volume that machines share is filled once, by one of them, and what one that died
// has left is brought to its end.
func TestFillOnce(t *testing.T) {
	at := t.TempDir()
	data := filepath.Join(at, volumeData)
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	var copies atomic.Int32
	image := func(to string) (bool, error) {
		copies.Add(1)
		return true, errors.Join(os.RemoveAll(to), os.Mkdir(to, 0o755), os.Mkdir(filepath.Join(to, "dir"), 0o750), os.WriteFile(filepath.Join(to, "file"), []byte("image"), 0o640))
	}
	has := func(names ...string) {
		t.Helper()
		entries, err := os.ReadDir(data)
		if err != nil || len(entries) != len(names) {
			t.Fatalf("%v, %v, want %v", entries, err, names)
		}
		for i, e := range entries {
			if e.Name() != names[i] {
				t.Errorf("%v, want %v", entries, names)
			}
		}
	}
	fill := func(copyTo func(string) (bool, error)) {
		t.Helper()
		if err := fillOnce(at, copyTo); err != nil {
			t.Fatal(err)
		}
	}
	fill(func(string) (bool, error) { return false, nil }) // the image has nothing there
	has()
	failed := errors.New("the copy failed")
	if err := fillOnce(at, func(string) (bool, error) { return false, failed }); !errors.Is(err, failed) {
		t.Error(err)
	}

	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if err := fillOnce(at, image); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	has("dir", "file")
	if n := copies.Load(); n != 1 {
		t.Errorf("%d machines copied", n)
	}
	if fi, err := os.Stat(data); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}

	// One died between two entries.
	for _, err := range []error{os.Remove(filepath.Join(at, filledMark)), os.Mkdir(filepath.Join(at, wholeData), 0o755),
		os.Rename(filepath.Join(data, "file"), filepath.Join(at, wholeData, "file"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	fill(image)
	has("dir", "file")

	// What was emptied since stays empty, and what others have put there stays.
	for _, name := range []string{"dir", "file"} {
		if err := os.Remove(filepath.Join(data, name)); err != nil {
			t.Fatal(err)
		}
	}
	fill(image)
	has()
	if err := errors.Join(os.Remove(filepath.Join(at, filledMark)), os.WriteFile(filepath.Join(data, "own"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	fill(image)
	has("own")
}
