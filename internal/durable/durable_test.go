package durable

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func TestWriteFileIsWholeOrNotThere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for text, write := range map[string]func(string, []byte) error{"one": WriteFile, "another": Replace} {
		if err := write(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(path); string(b) != text || err != nil {
			t.Errorf("got %q, %v", b, err)
		}
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("its mode: %v, %v", fi, err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "taken", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(filepath.Join(dir, "taken"), []byte("x")); err == nil {
		t.Error("a directory was replaced")
	}
	if err := WriteFile(filepath.Join(dir, "none", "f"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in a directory that is not there: %v", err)
	}
	if err := WriteFile(path, []byte("another")); err != nil {
		t.Fatal(err)
	}
	why := errors.New("full")
	err := Create(path, func(f *os.File) error {
		_, _ = f.WriteString("half")
		return why
	})
	if b, _ := os.ReadFile(path); !errors.Is(err, why) || string(b) != "another" {
		t.Errorf("after a failed write: %q, %v", b, err)
	}
	if left := names(t, dir); len(left) != 2 {
		t.Errorf("what is left: %q", left)
	}
}

func TestCreateFromWritesUnderTheGivenName(t *testing.T) {
	dir := t.TempDir()
	tmp := filepath.Join(dir, "tmp")
	if err := MkdirAll(tmp); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "f")
	err := CreateFrom(filepath.Join(tmp, "blob.*"), path, func(f *os.File) error {
		if filepath.Dir(f.Name()) != tmp {
			t.Errorf("written at %s", f.Name())
		}
		return f.Chmod(0o400)
	})
	if fi, serr := os.Stat(path); err != nil || serr != nil || fi.Mode().Perm() != 0o400 {
		t.Errorf("got %v, %v, %v", fi, err, serr)
	}
}

func TestMkdirAll(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b", "c")
	for range 2 {
		if err := MkdirAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("got %v, %v", fi, err)
	}
	file := filepath.Join(dir, "f")
	if err := WriteFile(file, nil); err != nil {
		t.Fatal(err)
	}
	if err := MkdirAll(file); err == nil {
		t.Error("a file is no directory")
	}
}

func TestRename(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "a", "f"), filepath.Join(dir, "b", "g")
	for _, p := range []string{from, to} {
		if err := MkdirAll(filepath.Dir(p)); err != nil {
			t.Fatal(err)
		}
	}
	if err := WriteFile(from, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := Rename(from, to); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(to); string(b) != "x" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
	if err := Rename(from, to); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of what is not there: %v", err)
	}
}
