package spec

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMakeable(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "fixed"), 0o500); err != nil {
		t.Fatal(err)
	}
	cases := map[string]string{"a": "", "a/b/c": "", "link": "a symbolic link", "link/x": "a symbolic link", "file/x": "not a"}
	if os.Geteuid() != 0 { // who may do anything
		cases["fixed/x/y"] = "permission denied"
	}
	for path, want := range cases {
		err := makeable(filepath.Join(dir, path))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}
