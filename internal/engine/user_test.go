package engine

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/vzcompose/vzcompose/internal/image/erofs"
)

// Who a container's user is, is in its image; it is root where that is not known.
func TestUserInAnImage(t *testing.T) {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for name, text := range map[string]string{"etc/passwd": "root:x:0:0::/:\nredis:x:100:101::/:\n", "etc/group": "root:x:0:\nadm:x:4:redis\n"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "root")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	root := erofs.NewWriter(f, erofs.Limits{})
	if err := root.AddLayer(t.Context(), "layer", &layer); err != nil {
		t.Fatal(err)
	}
	if _, err := root.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	for user, want := range map[string][2]uint32{"": {0, 0}, "redis": {100, 101}, "100": {100, 101}, "redis:adm": {100, 4}, "7": {7, 0}, "7:8": {7, 8}, "nobody": {0, 0}} {
		if got := userIn(path, user); got.UID != want[0] || got.GID != want[1] {
			t.Errorf("%q is %+v", user, got)
		}
	}
	for _, damaged := range []string{filepath.Join(t.TempDir(), "none"), os.DevNull} {
		if got := userIn(damaged, "7:8"); damaged == os.DevNull && got.UID != 7 || damaged != os.DevNull && got.UID != 0 {
			t.Errorf("%s: %+v", damaged, got)
		}
	}
}
