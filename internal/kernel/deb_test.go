package kernel

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/errs"
)

func TestPackagesOfEveryCompression(t *testing.T) {
	s := openStore(t)
	var first Kernel
	for _, format := range []compression{gzipped, zstded, unpacked} {
		k := mustImport(t, s, writeFile(t, "k.deb", deb(format, debianLike())))
		if described(k) != debianLikeKernel {
			t.Errorf("%s: %s", format, k)
		}
		if first.ID == "" {
			first = k
		}
		if k.ID != first.ID {
			t.Errorf("%s: the same kernel is %s and %s", format, k.ID, first.ID)
		}
	}
	if all, err := s.List(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("%d kernels, %v", len(all), err)
	}
}

func TestHostilePackages(t *testing.T) {
	good := deb(gzipped, debianLike())
	for name, c := range map[string]struct {
		in    []byte
		class errs.Class
		words string
	}{
		"no data":        {ar(entry{"debian-binary", []byte("2.0\n")}), errs.InvalidArgument, "no data.tar"},
		"cut member":     {good[:len(good)/2], errs.DataLoss, "cut off"},
		"cut header":     {good[:90], errs.InvalidArgument, "no data.tar"},
		"no magic":       {bytes.Replace(good, []byte("`\n"), []byte("xx"), 1), errs.DataLoss, "broken member header"},
		"negative":       {bytes.Replace(good, []byte("4         `"), []byte("-4        `"), 1), errs.DataLoss, "broken member header"},
		"too many":       {ar(make([]entry, maxMembers+1)...), errs.InvalidArgument, "no data.tar"},
		"empty data":     {ar(entry{"data.tar", nil}), errs.DataLoss, "data.tar"},
		"not a tar":      {ar(entry{"data.tar", bytes.Repeat([]byte("x"), 2048)}), errs.Unknown, "read data.tar"},
		"no kernel":      {deb(gzipped, []entry{{"usr/share/doc/x", []byte("x")}}), errs.NotFound, "no kernel image"},
		"image twice":    {deb(gzipped, append(debianLike(), debianLike()[1])), errs.AlreadyExists, "exists"},
		"image a link":   {deb(gzipped, []entry{{"boot/vmlinuz-1", []byte("link:/etc/passwd")}}), errs.NotFound, "no kernel image"},
		"through a link": {deb(gzipped, []entry{{"boot", []byte("link:/tmp")}, {"boot/vmlinuz-1", []byte("x")}}), errs.InvalidArgument, "not a kernel"},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
			_, err := s.Import(t.Context(), writeFile(t, "k.deb", c.in), nil)
			if errs.ClassOf(err) != c.class || err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("got %v (%s)", err, errs.ClassOf(err))
			}
			if left := leftovers(t, s); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestPathsOfAPackageStayInside(t *testing.T) {
	top := t.TempDir()
	path := writeFile(t, "k.deb", deb(gzipped, []entry{
		{"../boot/vmlinuz-1", []byte("x")},
		{"a/../../boot/vmlinuz-2", []byte("x")},
		{"../lib/modules/1/x.ko", []byte("x")},
		{"a/../boot/vmlinuz-3", []byte("inside")},
	}))
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unpackDeb(t.Context(), f, filepath.Join(top, "a", "spool"), func(int64, int64) {}); err == nil {
		t.Error("the parent of the spool folder was made")
	}
	if err := unpackDeb(t.Context(), f, filepath.Join(top, "spool"), func(int64, int64) {}); err != nil {
		t.Fatal(err)
	}
	var got []string
	_ = filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			rel, _ := filepath.Rel(top, p)
			got = append(got, filepath.ToSlash(rel))
		}
		return err
	})
	if strings.Join(got, " ") != "spool/boot/vmlinuz-3" {
		t.Errorf("wrote %v", got)
	}
}

func FuzzDeb(f *testing.F) {
	small := []entry{{"boot/vmlinuz-1", []byte("kernel")}, {lib + "a.ko", []byte("m")}, {"../boot/vmlinuz", []byte("x")}}
	f.Add(deb(unpacked, small))
	f.Add(deb(gzipped, small))
	f.Add(ar(entry{"data.tar", nil}))
	f.Fuzz(func(t *testing.T, b []byte) {
		top := t.TempDir()
		p := filepath.Join(top, "in")
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		src, err := os.Open(p)
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		_ = unpackDeb(t.Context(), src, filepath.Join(top, "spool"), func(int64, int64) {})
		entries, err := os.ReadDir(top)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Name() != "in" && e.Name() != "spool" {
				t.Fatalf("wrote %s outside", e.Name())
			}
		}
	})
}
