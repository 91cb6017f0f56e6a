package engine

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/internal/image"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/spec"
)

// rootTar writes a tar with one file of that text.
func rootTar(t *testing.T, path, text string) {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "file", Mode: 0o644, Size: int64(len(text))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	overwrite(t, path, b.String())
}

// A root filesystem that is gone or damaged when its instance starts is built
// again, from whatever it was made of.
func TestRootIsBuiltAgain(t *testing.T) {
	s := newStack(t, Options{})
	dir := t.TempDir()
	file := filepath.Join(dir, "root.tar")
	rootTar(t, file, "one")
	if _, err := s.o.Images.Import(t.Context(), file, "app", image.Config{}, nil); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]spec.Container{
		"image":     {Image: "app"},
		"tar":       {RootFS: &spec.RootFS{Tar: file}},
		"directory": {RootFS: &spec.RootFS{Directory: dir}},
	} {
		t.Run(name, func(t *testing.T) {
			var rec store.Instance
			if _, err := s.root(t.Context(), c, &rec, func(event.Progress) {}); err != nil {
				t.Fatal(err)
			}
			var err error
			if rec.Spec, err = spec.EncodeContainer(c); err != nil {
				t.Fatal(err)
			}
			for damage, do := range map[string]func() error{
				"none":    func() error { return nil },
				"gone":    func() error { return os.Remove(rec.Root) },
				"cut off": func() error { _ = os.Chmod(rec.Root, 0o600); return os.Truncate(rec.Root, 100) },
			} {
				if err := do(); err != nil {
					t.Fatal(err)
				}
				if err := s.renewRoot(t.Context(), rec); err != nil || !image.Whole(rec.Root) {
					t.Errorf("%s: %v", damage, err)
				}
			}
		})
	}
}

// What was made from something that has changed since cannot be had again.
func TestRootOfAChangedSource(t *testing.T) {
	s := newStack(t, Options{})
	file := filepath.Join(t.TempDir(), "root.tar")
	rootTar(t, file, "one")
	c := spec.Container{RootFS: &spec.RootFS{Tar: file}}
	rec := store.Instance{Container: "web"}
	if _, err := s.root(t.Context(), c, &rec, func(event.Progress) {}); err != nil {
		t.Fatal(err)
	}
	var err error
	if rec.Spec, err = spec.EncodeContainer(c); err != nil {
		t.Fatal(err)
	}
	rootTar(t, file, "two")
	if err := s.renewRoot(t.Context(), rec); err != nil { // it is there
		t.Error(err)
	}
	if err := os.Remove(rec.Root); err != nil {
		t.Fatal(err)
	}
	if err := s.renewRoot(t.Context(), rec); !errs.Is(err, errs.DataLoss) || !strings.Contains(errs.HintOf(err), "--force-recreate web") {
		t.Errorf("got %v (%s)", err, errs.HintOf(err))
	}
}
