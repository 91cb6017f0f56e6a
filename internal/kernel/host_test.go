package kernel

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// renamed is debianLike as another release.
func renamed(release string) []entry {
	var out []entry
	for _, e := range debianLike() {
		e.name = strings.ReplaceAll(e.name, testRelease, release)
		e.data = []byte(strings.ReplaceAll(string(e.data), testRelease, release))
		if strings.Contains(e.name, "vmlinuz") {
			e.data = bzImage(gzipped, bare(release))
		}
		out = append(out, e)
	}
	return out
}

func hostWith(t *testing.T, running string, entries ...[]entry) *Store {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("the kernels made here are for amd64")
	}
	s := openStore(t)
	all := []entry{{"proc/sys/kernel/osrelease", []byte(running + "\n")}}
	for _, e := range entries {
		all = append(all, e...)
	}
	s.root = writeTree(t, all)
	return s
}

func TestDefaultIsTheHostsOwn(t *testing.T) {
	const a, b, c = "6.1.0-2-test", "6.1.0-3-test", "6.1.0-9-test"
	for name, tc := range map[string]struct {
		running string
		host    [][]entry
		want    string
	}{
		"the running one":         {b, [][]entry{renamed(a), renamed(b), renamed(c)}, b},
		"else the newest":         {"5.0", [][]entry{renamed(a), renamed(c), renamed(b)}, c},
		"one that will do":        {c, [][]entry{renamed(a), renamed(b), without(renamed(c), "erofs.ko")}, b},
		"the image beside them":   {a, [][]entry{moved(renamed(a), "boot/vmlinuz-"+a, "lib/modules/"+a+"/vmlinuz")}, a},
		"no image for the newest": {"5.0", [][]entry{renamed(a), without(renamed(c), "vmlinuz-"+c)}, a},
	} {
		t.Run(name, func(t *testing.T) {
			s := hostWith(t, tc.running, tc.host...)
			k, err := s.Default(t.Context(), "amd64")
			if err != nil {
				t.Fatal(err)
			}
			if k.Version != tc.want || len(k.Boot) == 0 {
				t.Errorf("got %v, want %s", k, tc.want)
			}
			s.root = t.TempDir()
			if again, err := s.Default(t.Context(), "amd64"); err != nil || again.ID != k.ID {
				t.Errorf("it was not imported: %v, %v", again, err)
			}
		})
	}
}

func moved(entries []entry, from, to string) []entry {
	for i := range entries {
		if entries[i].name == from {
			entries[i].name = to
		}
	}
	return entries
}

func TestAnImportComesBeforeTheHostsOwn(t *testing.T) {
	s := hostWith(t, testRelease, debianLike())
	want := mustImport(t, s, writeFile(t, "vmlinux", bare("1.0")))
	if k, err := s.Default(t.Context(), "amd64"); err != nil || k.ID != want.ID {
		t.Errorf("%v, %v", k, err)
	}
}

func TestNoDefault(t *testing.T) {
	secret := hostWith(t, testRelease, debianLike())
	image := filepath.Join(secret.root, "boot/vmlinuz-"+testRelease)
	if err := os.Chmod(image, 0); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		s           *Store
		arch        string
		words, hint string
	}{
		"nothing":       {openStore(t), "amd64", "no kernel for amd64 machines", "run: vzcompose kernel import PATH"},
		"another arch":  {hostWith(t, testRelease, debianLike()), "arm64", "no kernel for arm64", "run: vzcompose kernel import PATH"},
		"lacks modules": {hostWith(t, testRelease, without(debianLike(), "vsock.ko")), "amd64", "no module vsock", "run: vzcompose kernel import PATH"},
		"not readable":  {secret, "amd64", "permission denied", "run: sudo chmod a+r " + image},
	} {
		t.Run(name, func(t *testing.T) {
			if c.s == secret && os.Geteuid() == 0 {
				t.Skip("root may read everything")
			}
			_, err := c.s.Default(t.Context(), c.arch)
			if !errs.Is(err, errs.NotFound) || !strings.Contains(err.Error(), c.words) || !strings.HasPrefix(errs.HintOf(err), c.hint) {
				t.Errorf("%v (%s; hint %q)", err, errs.ClassOf(err), errs.HintOf(err))
			}
		})
	}
}
