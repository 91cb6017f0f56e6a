package image

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/image/erofs"
)

// sameImage compares a root filesystem with what the writer makes of the tars
// themselves: its own tests say that this is right.
func sameImage(t *testing.T, path string, tars ...[]byte) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "want"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := erofs.NewWriter(f, erofs.Limits{})
	for _, b := range tars {
		if err := w.AddLayer(t.Context(), "want", bytes.NewReader(b)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes differ from %d (%v)", path, len(got), len(want), err)
	}
}

func TestRootFSOnce(t *testing.T) {
	reg, s := newRegistry(t), newStore(t)
	reg.login(t, testPass)
	content := tarOf(t, "a", noise(2<<20))
	reg.push(t, "app:1", imageOf(t, host, gzipLayer(t, content)))
	img, err := s.Pull(short(t), reg.ref("app:1"), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	// What a crash left, half-made; Open keeps its hands off while the store is used.
	half := s.path("tmp", "sha256-x.erofs.123")
	if err := os.WriteFile(half, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	release, err := s.use(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other, err := Open(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	built := map[int]bool{} // who saw progress
	for n := range 16 {
		wg.Go(func() {
			path, err := []*Store{s, other}[n%2].RootFS(short(t), img.Digest, func(p Progress) {
				mu.Lock()
				defer mu.Unlock()
				built[n] = true
			})
			if err != nil || path != s.rootfsPath(digestFrom(t, img.Digest)) {
				t.Errorf("%s, %v", path, err)
			}
		})
	}
	wg.Wait()
	if len(built) != 1 {
		t.Errorf("built by %d", len(built))
	}
	path := s.rootfsPath(digestFrom(t, img.Digest))
	sameImage(t, path, content)
	if _, err := os.Stat(half); err != nil {
		t.Errorf("swept while in use: %v", err)
	}
	release()
	if _, err := Open(s.dir); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(s.path("tmp")); len(left) > 0 {
		t.Errorf("left %v", left)
	}

	// One that lost its end is made anew.
	if err := os.Truncate(path, 4096); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RootFS(short(t), img.Digest, nil); err != nil {
		t.Fatal(err)
	}
	sameImage(t, path, content)
}

func TestDamagedLayer(t *testing.T) {
	reg, s := newRegistry(t), newStore(t)
	reg.login(t, testPass)
	raw := tarOf(t, "a", noise(10000))
	lying := imageOf(t, host, rawLayer(raw, []byte("something else"), types.OCIUncompressedLayer))
	reg.push(t, "lying:1", lying)
	fine := imageOf(t, host, gzipLayer(t, raw))
	reg.push(t, "fine:1", fine)
	for repo, damage := range map[string]func(path string) error{
		"lying:1": func(string) error { return nil },
		"fine:1":  func(p string) error { return os.Truncate(p, 5000) },
	} {
		img, err := s.Pull(short(t), reg.ref(repo), "", nil)
		if err != nil {
			t.Fatal(err)
		}
		m, _, err := s.readImage(img.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if err := damage(s.blobPath(m.Layers[0].Digest)); err != nil {
			t.Fatal(err)
		}
		_, err = s.RootFS(short(t), img.Digest, nil)
		if !errs.Is(err, errs.DataLoss) || !strings.Contains(err.Error(), "layer 1 of 1") {
			t.Errorf("%s: %v (%s)", repo, err, errs.ClassOf(err))
		}
		if left, _ := os.ReadDir(s.path("tmp")); len(left) > 0 {
			t.Errorf("left %v", left)
		}
	}
	if _, err := s.RootFS(short(t), digestOf([]byte("nothing")).String(), nil); !errs.Is(err, errs.NotFound) {
		t.Errorf("unknown: %v", err)
	}
	if _, err := s.RootFS(short(t), "sha256:../../x", nil); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("not a digest: %v", err)
	}
}

func TestRootFSFromTar(t *testing.T) {
	s := newStore(t)
	content := tarOf(t, "bin/", "", "bin/sh", "1")
	p := filepath.Join(t.TempDir(), "root.tar")
	for name, b := range map[string][]byte{"plain": content, "zstd": zstdBytes(t, content)} {
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		digest, path, err := s.RootFSFromTar(short(t), p, nil)
		if err != nil || digest != digestOf(b).String() {
			t.Fatalf("%s: %s, %v", name, digest, err)
		}
		sameImage(t, path, content)
		before := inode(t, path)
		if _, again, err := s.RootFSFromTar(short(t), p, nil); err != nil || inode(t, again) != before {
			t.Errorf("%s: built twice (%v)", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := s.RootFSFromTar(ctx, p, nil); !errs.Is(err, errs.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	for bad, class := range map[string]errs.Class{t.TempDir(): errs.InvalidArgument, "/nowhere": errs.NotFound} {
		if _, _, err := s.RootFSFromTar(short(t), bad, nil); !errs.Is(err, class) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestRootFSFromDirectory(t *testing.T) {
	s, dir := newStore(t), t.TempDir()
	file := filepath.Join(dir, "x")
	if err := os.WriteFile(file, []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	digest, path, err := s.RootFSFromDirectory(short(t), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	before := inode(t, path)
	if again, path, err := s.RootFSFromDirectory(short(t), dir, nil); err != nil || again != digest || inode(t, path) != before {
		t.Errorf("unchanged: %v", err)
	}
	if err := os.WriteFile(file, []byte("22"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again, _, err := s.RootFSFromDirectory(short(t), dir, nil); err != nil || again == digest {
		t.Errorf("changed: %v", err)
	}
	_, _, err = s.RootFSFromDirectory(short(t), dir, func(Progress) {
		_ = os.WriteFile(filepath.Join(dir, "new"), nil, 0o600)
	})
	if err != nil { // that one was there already: no progress
		t.Error(err)
	}
	if err := os.WriteFile(file, []byte("333"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err = s.RootFSFromDirectory(short(t), dir, func(Progress) {
		_ = os.WriteFile(filepath.Join(dir, "new"), nil, 0o600)
	})
	if !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("changed underway: %v", err)
	}
}

func inode(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(st.Ino, st.Mtim)
}
