package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
)

func openRoot(t testing.TB, dir string) *os.Root {
	t.Helper()
	r, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func list(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", `cd "$1" && find . -mindepth 1 -printf '%P %y %m %l %s\n' | sort`, "sh", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v %s", err, out)
	}
	return string(out)
}

func TestThereAndBack(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(filepath.Join(from, "tree/closed/empty"), 0o755))
	must(t, os.WriteFile(filepath.Join(from, "tree/closed/script"), []byte("#!/bin/sh\n"), 0o755))
	must(t, os.WriteFile(filepath.Join(from, "tree/nothing"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(from, "tree/large"), bytes.Repeat([]byte("0123456789"), 1<<20), 0o644))
	must(t, os.WriteFile(filepath.Join(from, "tree/"+strings.Repeat("long", 60)), []byte("x"), 0o644))
	must(t, os.Symlink("/etc/passwd", filepath.Join(from, "tree/link")))
	must(t, os.Symlink("nowhere", filepath.Join(from, "tree/dangling")))
	must(t, os.Chtimes(filepath.Join(from, "tree/nothing"), time.Time{}, time.Unix(1000, 500)))
	must(t, os.Chtimes(filepath.Join(from, "tree/closed"), time.Time{}, time.Unix(2000, 0)))
	must(t, os.Chmod(filepath.Join(from, "tree/closed"), 0o555))
	t.Cleanup(func() {
		_ = os.Chmod(filepath.Join(from, "tree/closed"), 0o755)
		_ = os.Chmod(filepath.Join(to, "other/closed"), 0o755)
	})
	var b bytes.Buffer
	must(t, Pack(t.Context(), &b, openRoot(t, from), "tree", "tree", nil))
	must(t, Unpack(t.Context(), &b, openRoot(t, to), Options{As: "other"}))
	if got, want := list(t, to+"/other"), list(t, from+"/tree"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for name, want := range map[string]time.Time{"nothing": time.Unix(1000, 500), "closed": time.Unix(2000, 0)} {
		if info, err := os.Stat(filepath.Join(to, "other", name)); err != nil || !info.ModTime().Equal(want) {
			t.Errorf("%s: %v %v", name, info.ModTime(), err)
		}
	}
}

func TestSkipped(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(filepath.Join(from, "proc/1"), 0o755))
	var b bytes.Buffer
	skip := func(d *os.File) bool { return filepath.Base(d.Name()) == "proc" }
	must(t, Pack(t.Context(), &b, openRoot(t, from), ".", "all", skip))
	must(t, Unpack(t.Context(), &b, openRoot(t, to), Options{As: "."}))
	if got := list(t, to); got != "proc d 755  4096\n" {
		t.Errorf("%q", got)
	}
}

func tarOf(t testing.TB, headers ...tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		body := []byte(h.PAXRecords["x.body"])
		h.PAXRecords = nil
		h.Size = int64(len(body))
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		must(t, w.WriteHeader(&h))
		_, err := w.Write(body)
		must(t, err)
	}
	must(t, w.Close())
	return &b
}

func body(s string) map[string]string { return map[string]string{"x.body": s} }

// Whatever the tar says, nothing is written outside, or removed there.
func TestHostileTars(t *testing.T) {
	for name, headers := range map[string][]tar.Header{
		"dots":      {{Name: "../../outside/x", Typeflag: tar.TypeReg, PAXRecords: body("x")}},
		"absolute":  {{Name: "/outside/x", Typeflag: tar.TypeReg, PAXRecords: body("x")}},
		"link":      {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../outside"}, {Name: "l/x", Typeflag: tar.TypeReg, PAXRecords: body("x")}},
		"hard link": {{Name: "h", Typeflag: tar.TypeLink, Linkname: "../outside/secret"}, {Name: "h", Typeflag: tar.TypeReg, PAXRecords: body("x")}},
		"by link":   {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../outside/secret"}, {Name: "h", Typeflag: tar.TypeLink, Linkname: "l"}},
		"dir link":  {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../outside"}, {Name: "l", Typeflag: tar.TypeDir, Mode: 0o777}},
		"device":    {{Name: "d", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}},
		"root":      {{Name: ".", Typeflag: tar.TypeReg, PAXRecords: body("x")}},
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			inside, outside := filepath.Join(base, "inside"), filepath.Join(base, "outside")
			must(t, os.Mkdir(inside, 0o755))
			must(t, os.Mkdir(outside, 0o700))
			must(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600))
			err := Unpack(t.Context(), tarOf(t, headers...), openRoot(t, inside), Options{})
			if got := list(t, outside); got != "secret f 600  6\n" {
				t.Errorf("outside: %s (%v)", got, err)
			}
			if info, _ := os.Stat(outside); info.Mode().Perm() != 0o700 {
				t.Errorf("outside has the mode %o", info.Mode().Perm())
			}
		})
	}
}

func TestFilesAndDirectoriesDoNotReplaceEachOther(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "d"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "f"), []byte("old"), 0o600))
	r := openRoot(t, dir)
	for _, h := range []tar.Header{{Name: "d", Typeflag: tar.TypeReg}, {Name: "f", Typeflag: tar.TypeDir, Mode: 0o755}} {
		if err := Unpack(t.Context(), tarOf(t, h), r, Options{}); !errs.Is(err, errs.FailedPrecondition) {
			t.Errorf("%s: %v", h.Name, err)
		}
	}
	must(t, Unpack(t.Context(), tarOf(t, tar.Header{Name: "f", Typeflag: tar.TypeReg, Mode: 0o640, PAXRecords: body("new")}), r, Options{}))
	if b, _ := os.ReadFile(filepath.Join(dir, "f")); string(b) != "new" {
		t.Errorf("%q", b)
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Pack(ctx, new(bytes.Buffer), openRoot(t, t.TempDir()), ".", "x", nil); err == nil {
		t.Error("it was packed")
	}
	if err := Unpack(ctx, tarOf(t, tar.Header{Name: "f", Typeflag: tar.TypeReg}), openRoot(t, t.TempDir()), Options{}); err == nil {
		t.Error("it was unpacked")
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(tarOf(f, tar.Header{Name: "a/../b", Typeflag: tar.TypeReg, PAXRecords: body("x")}).Bytes())
	f.Add(tarOf(f, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: ".."}, tar.Header{Name: "l/x", Typeflag: tar.TypeReg}).Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		base := t.TempDir()
		inside := filepath.Join(base, "inside")
		must(t, os.Mkdir(inside, 0o755))
		_ = Unpack(t.Context(), bytes.NewReader(b), openRoot(t, inside), Options{})
		entries, err := os.ReadDir(base)
		if err != nil || len(entries) != 1 {
			t.Fatalf("%v %v", entries, err)
		}
	})
}

// What a copy that fails leaves has the modes of the tar, and no half of a file.
func TestUnpackBrokenOff(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []*tar.Header{
		{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "d/whole", Typeflag: tar.TypeReg, Mode: 0o644, Size: 4},
		{Name: "d/half", Typeflag: tar.TypeReg, Mode: 0o644, Size: 4},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 && h.Name != "d/half" {
			_, _ = w.Write([]byte("text"))
			_ = w.Flush()
		}
	}
	b.WriteString("te")
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := Unpack(t.Context(), &b, root, Options{}); err == nil {
		t.Error("it did not fail")
	}
	if info, err := os.Stat(filepath.Join(dir, "d")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the folder: %v, %v", info, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "d/whole")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "d/half")); !os.IsNotExist(err) {
		t.Errorf("half a file: %v", err)
	}
}
