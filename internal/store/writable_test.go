package store

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckWritable(t *testing.T) {
	home := Home{Dir: t.TempDir()}
	if err := home.CheckWritable(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(home.Dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	// What is no folder is not even writable to root.
	for _, name := range []string{"stacks", "images"} {
		if err := os.WriteFile(filepath.Join(home.Dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err := home.CheckWritable()
	if err == nil || !strings.Contains(err.Error(), "stacks") || !strings.Contains(err.Error(), "images") {
		t.Errorf("got %v", err)
	}
}
