package kernel

import (
	"bytes"
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
		"image twice":    {deb(gzipped, append(debianLike(), debianLike()[1])), errs.InvalidArgument, "several kernel images"},
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

func TestNoNameOfAPackageIsUsedOnDisk(t *testing.T) {
	top := t.TempDir()
	data := deb(gzipped, []entry{
		{"../boot/vmlinuz-1", []byte("1")},
		{"a/../../boot/vmlinuz-2", []byte("2")},
		{"lib/modules/1/kernel/xt_MARK.ko", []byte("upper")},
		{"lib/modules/1/kernel/xt_mark.ko", []byte("lower")}, // one file where case does not count
		{"lib/modules/1/modules.order", []byte("not wanted")},
		{"opt/vmlinuz-3", []byte("not wanted")},
	})
	found, err := unpackDeb(t.Context(), bytes.NewReader(data), int64(len(data)), filepath.Join(top, "spool"), func(int64, int64) {})
	if err != nil {
		t.Fatal(err)
	}
	spool, err := os.ReadFile(filepath.Join(top, "spool"))
	if err != nil || string(spool) != "12upperlower" {
		t.Errorf("spool %q, %v", spool, err)
	}
	if entries, err := os.ReadDir(top); err != nil || len(entries) != 1 {
		t.Errorf("wrote %v, %v", entries, err)
	}
	for name, want := range map[string]string{"xt_MARK": "upper", "xt_mark": "lower"} {
		if b, err := found.releases["1"].files[name].read(10); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

func FuzzDeb(f *testing.F) {
	small := []entry{{"boot/vmlinuz-1", []byte("kernel")}, {lib + "a.ko", []byte("m")}, {"../boot/vmlinuz", []byte("x")}}
	f.Add(deb(unpacked, small))
	f.Add(deb(gzipped, small))
	f.Add(ar(entry{"data.tar", nil}))
	f.Fuzz(func(t *testing.T, b []byte) {
		spool := filepath.Join(t.TempDir(), "spool")
		found, err := unpackDeb(t.Context(), bytes.NewReader(b), int64(len(b)), spool, func(int64, int64) {})
		if err != nil {
			return
		}
		st, err := os.Stat(spool)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range found.images {
			if i.off < 0 || i.size < 0 || i.off+i.size > st.Size() {
				t.Fatalf("%+v lies outside %d bytes", i, st.Size())
			}
		}
	})
}
