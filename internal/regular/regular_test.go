package regular

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/vzcompose/vzcompose/internal/errs"
)

func TestOnlyFilesAreOpened(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for name, create := range map[string]func(string) error{
		"file":   func(p string) error { return os.WriteFile(p, []byte("12345"), 0o600) },
		"folder": func(p string) error { return os.Mkdir(p, 0o700) },
		"pipe":   func(p string) error { return syscall.Mkfifo(p, 0o600) },
		"zero":   func(p string) error { return os.Symlink("/dev/zero", p) },
	} {
		path := filepath.Join(dir, name)
		if err := create(path); err != nil {
			t.Fatal(err)
		}
		f, _, err := Open(path)
		if name == "file" {
			_ = f.Close()
			if err != nil {
				t.Error(err)
			}
			continue
		}
		if !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("open a %s: %v", name, err)
		}
		if _, _, err := OpenIn(root, name); err == nil {
			t.Errorf("a %s is opened in its folder", name)
		}
	}
	if b, err := Read(filepath.Join(dir, "file"), 5); string(b) != "12345" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := Read(filepath.Join(dir, "file"), 4); !errs.Is(err, errs.ResourceExhausted) {
		t.Errorf("over the limit: %v", err)
	}
}
