package vz

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/undo"
)

// Of a file that is shared alone, the folder has nothing else, what is written to
// it is in the file, and nothing is left of it.
func TestAFileAlone(t *testing.T) {
	dir, place := t.TempDir(), t.TempDir()
	for _, name := range []string{"file", "sibling"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("a"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("file", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	shares := []folder{{tag: "one", path: filepath.Join(dir, "link"), place: place}, {tag: "two", path: dir, readOnly: true}}
	var un undo.Stack
	if err := openShares(shares, &un); err != nil {
		t.Fatal(err)
	}
	all, err := os.ReadDir(shares[0].path)
	if err != nil || len(all) != 1 || all[0].Name() != "file" || shares[0].path == dir {
		t.Errorf("%s has %v, %v", shares[0].path, all, err)
	}
	if shares[1].path != dir || shares[1].file != "" {
		t.Errorf("%+v", shares[1])
	}
	if err := os.WriteFile(filepath.Join(shares[0].path, "file"), []byte("b"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(b) != "b" {
		t.Errorf("%q, %v", b, err)
	}
	if err := un.Run(context.Background(), undoLimit); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(place); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(b) != "b" {
		t.Errorf("the file itself: %q, %v", b, err)
	}
	var none undo.Stack
	if err := openShares([]folder{{tag: "x", path: filepath.Join(dir, "missing")}}, &none); !errs.Is(err, errs.NotFound) && !os.IsNotExist(err) {
		t.Errorf("missing: %v", err)
	}
	if err := openShares([]folder{{tag: "x", path: os.DevNull}}, &none); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("a device: %v", err)
	}
}
