package kernel

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// A kernel that one machine asks for is not what the others boot with, unless it
// is that already, or is imported afterwards.
func TestTakenForOneIsNotForAll(t *testing.T) {
	s := openStore(t)
	one, all := writeFile(t, "vmlinux", bare("2.0")), writeFile(t, "vmlinux", bare("1.0"))
	k, err := s.Take(t.Context(), one, "", nil)
	if err != nil || !k.Asked {
		t.Fatalf("%+v, %v", k, err)
	}
	for _, l := range listed(t, s) {
		if l.Default {
			t.Errorf("what machines boot with is %v", l)
		}
	}
	first := mustImport(t, s, all)
	if _, err := s.Take(t.Context(), all, "", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Take(t.Context(), one, "", nil); err != nil {
		t.Fatal(err)
	}
	if d, err := s.Default(t.Context(), "amd64"); err != nil || d.ID != first.ID || d.Asked {
		t.Errorf("what machines boot with is %v, %v", d, err)
	}
	if again, err := s.Find(k.ID); err != nil || again.Image != k.Image {
		t.Errorf("%v, %v", again, err)
	}
	if mustImport(t, s, one).ID != k.ID {
		t.Error("the same kernel is stored twice")
	}
	if d, err := s.Default(t.Context(), "amd64"); err != nil || d.ID != k.ID || d.Asked {
		t.Errorf("after it was imported they boot with %v, %v", d, err)
	}
	if _, err := s.Find("000000000000"); !errs.Is(err, errs.NotFound) {
		t.Errorf("one that there is not: %v", err)
	}
}

// An image and its modules may lie apart.
func TestImageAndModulesApart(t *testing.T) {
	s := openStore(t)
	tree := writeTree(t, debianLike())
	together := mustImport(t, s, tree)
	image := filepath.Join(t.TempDir(), "image")
	if err := os.Rename(filepath.Join(tree, "boot", "vmlinuz-"+testRelease), image); err != nil {
		t.Fatal(err)
	}
	k, err := s.Take(t.Context(), image, filepath.Join(tree, "lib", "modules", testRelease), nil)
	if err != nil || k.ID != together.ID {
		t.Errorf("%v, %v, want %v", k, err, together)
	}
	if _, err := s.Take(t.Context(), image, t.TempDir(), nil); !errs.Is(err, errs.NotFound) {
		t.Errorf("modules that are not there: %v", err)
	}
}

func listed(t *testing.T, s *Store) []Kernel {
	t.Helper()
	all, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return all
}
