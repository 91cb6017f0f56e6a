package kernel

import (
	"context"
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/kernel/kerneltest"
)

// bare is a kernel of its own content.
func bare(release string) []byte { return kerneltest.Vmlinux(elf.EM_X86_64, pvhType, release) }

func TestListNewestFirstAndBrokenLast(t *testing.T) {
	s := openStore(t)
	old := mustImport(t, s, writeFile(t, "vmlinux", bare("1.0")))
	arm := mustImport(t, s, writeFile(t, "Image", arm64Image("2.0")))
	young := mustImport(t, s, writeFile(t, "vmlinux", bare("3.0")))
	broken := mustImport(t, s, writeFile(t, "vmlinux", bare("4.0")))
	if err := os.Truncate(broken.Image, 5); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(s.dir, "hello"), 0o700); err != nil {
		t.Fatal(err)
	}
	all, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, k := range all {
		got = append(got, k.ID)
		if want := k.ID == young.ID || k.ID == arm.ID; k.Default != want {
			t.Errorf("%s: default %v", k, k.Default)
		}
	}
	want := strings.Join([]string{young.ID, arm.ID, old.ID}, " ")
	if !strings.HasPrefix(strings.Join(got, " "), want) || len(all) != 5 {
		t.Errorf("got %v, want %s and two broken ones", got, want)
	}
	for _, k := range all[3:] {
		if k.Broken == "" {
			t.Errorf("%s is not said to be broken", k.ID)
		}
	}
	if _, err := os.Stat(broken.Image); err != nil {
		t.Error("the broken one was deleted")
	}
}

func TestImportAgainIsOneAndNewest(t *testing.T) {
	s := openStore(t)
	first := writeFile(t, "vmlinux", bare("1.0"))
	a := mustImport(t, s, first)
	b := mustImport(t, s, writeFile(t, "vmlinux", bare("2.0")))
	again := mustImport(t, s, writeFile(t, "vmlinux.gz", compressed(gzipped, bare("1.0"))))
	if again.ID != a.ID || !again.Imported.After(b.Imported) || !strings.HasSuffix(again.Origin, ".gz") {
		t.Errorf("first %v, again %+v", a, again)
	}
	if d, err := s.Default(t.Context(), "amd64"); err != nil || d.ID != a.ID {
		t.Errorf("default %v, %v", d, err)
	}
}

func TestImportMendsABrokenOne(t *testing.T) {
	s := openStore(t)
	src := writeTree(t, debianLike())
	k := mustImport(t, s, src)
	if err := os.Remove(filepath.Join(k.ModulesDir, "vsock.ko")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.load(k.ID); !errs.Is(err, errs.DataLoss) {
		t.Fatalf("load: %v", err)
	}
	if again := mustImport(t, s, src); again.ID != k.ID || again.Broken != "" {
		t.Errorf("%v", again)
	}
	if left := leftovers(t, s); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestRemove(t *testing.T) {
	s := openStore(t)
	k := mustImport(t, s, writeFile(t, "vmlinux", bare("1.0")))
	for id, class := range map[string]errs.Class{
		"../../../etc": errs.InvalidArgument, "": errs.InvalidArgument, "000000000000": errs.NotFound,
	} {
		if err := s.Remove(t.Context(), id); !errs.Is(err, class) {
			t.Errorf("%q: %v", id, err)
		}
	}
	if err := s.Remove(t.Context(), k.ID); err != nil {
		t.Fatal(err)
	}
	if all, err := s.List(t.Context()); err != nil || len(all)+len(leftovers(t, s)) != 0 {
		t.Errorf("%v %v %v", all, leftovers(t, s), err)
	}
}

func TestCrashedImportIsSweptAway(t *testing.T) {
	s := openStore(t)
	if err := os.MkdirAll(filepath.Join(s.dir, tempPrefix+"import-1", "spool"), 0o700); err != nil {
		t.Fatal(err)
	}
	if all, err := s.List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%v %v", all, err)
	}
	mustImport(t, s, writeFile(t, "vmlinux", bare("1.0")))
	if left := leftovers(t, s); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestCancelledImportLeavesNothing(t *testing.T) {
	stop := errors.New("enough")
	for _, phase := range []string{"unpack", "decompress", "modules"} {
		s := openStore(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		_, err := s.Import(ctx, writeFile(t, "k.deb", deb(gzipped, debianLike())), func(p string, _, _ int64) {
			if p == phase {
				cancel(stop)
			}
		})
		cancel(nil)
		if !errors.Is(err, stop) {
			t.Errorf("%s: %v", phase, err)
		}
		if all, _ := s.List(t.Context()); len(all)+len(leftovers(t, s)) != 0 {
			t.Errorf("%s: left behind: %v %v", phase, all, leftovers(t, s))
		}
	}
}

func TestImportOfWhatIsNoFile(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, class := range map[string]errs.Class{pipe: errs.InvalidArgument, pipe + "x": errs.NotFound} {
		if _, err := openStore(t).Import(t.Context(), path, nil); !errs.Is(err, class) || !strings.Contains(err.Error(), path) {
			t.Errorf("%v", err)
		}
	}
}

func TestImportWaitsForTheLockOnly(t *testing.T) {
	s := openStore(t)
	unlock, err := lock(t.Context(), filepath.Join(s.dir, ".lock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*lockPoll)
	defer cancel()
	path := writeFile(t, "vmlinux", bare("1.0"))
	if _, err := s.Import(ctx, path, nil); !errs.Is(err, errs.DeadlineExceeded) || !strings.Contains(err.Error(), "lock kernel store") {
		t.Errorf("%v", err)
	}
	unlock()
	mustImport(t, s, path)
}

func TestFolders(t *testing.T) {
	newer := "lib/modules/6.10.0-1-test/"
	two := append(debianLike(), entry{"boot/vmlinuz-6.9.0", bzImage(gzipped, bare("6.9.0"))})
	for name, c := range map[string]struct {
		in   []entry
		want string // of the Kernel's line or the error
	}{
		"a distribution's tree":       {debianLike(), debianLikeKernel},
		"newest that has modules":     {two, debianLikeKernel},
		"installed and in lib":        {append(debianLike(), entry{lib + "vmlinuz", bzImage(gzipped, goodVmlinux())}), debianLikeKernel},
		"old one aside":               {append(debianLike(), entry{"boot/vmlinuz-" + testRelease + ".old", nil}), debianLikeKernel},
		"two releases":                {append(two, entry{newer + "modules.builtin", []byte("a.ko\n")}, entry{"boot/vmlinuz-6.10.0-1-test", bare("6.10.0-1-test")}), "lacks what"},
		"no way to choose":            {[]entry{{"vmlinux", bare("1")}, {"Image", bare("2")}}, "several kernel images"},
		"loose modules":               {loose(debianLike()), debianLikeKernel},
		"modules of another release":  {append(without(debianLike(), "vmlinuz-"+testRelease), entry{"vmlinux", bare("9.9")}), "is for kernel 6.1.0-1-test, the image is 9.9"},
		"nothing":                     {[]entry{{"README", nil}}, "no kernel image"},
		"an image and nothing beside": {[]entry{{"vmlinux", bare("1")}}, "no modules for kernel 1"},
	} {
		t.Run(name, func(t *testing.T) {
			k, err := openStore(t).Import(t.Context(), writeTree(t, c.in), nil)
			got := described(k)
			if err != nil {
				got = err.Error()
			}
			if !strings.Contains(got, c.want) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// loose puts all files into one folder.
func loose(entries []entry) []entry {
	var flat []entry
	for _, e := range entries {
		base := filepath.Base(e.name)
		flat = append(flat, entry{base, e.data})
	}
	return flat
}

func TestBareImageIsBelieved(t *testing.T) {
	k := mustImport(t, openStore(t), writeFile(t, "vmlinux", bare("1.0")))
	if described(k) != "amd64 1.0 boot= builtin= missing=" || len(k.Modules) != 0 {
		t.Errorf("%v", k)
	}
}

func TestCompareReleases(t *testing.T) {
	order := []string{"", "5.10.0-9-amd64", "6.1.0-9-amd64", "6.1.0-56-amd64", "6.1.0-56-cloud-amd64", "6.10.0", "6.010.1"}
	for i, a := range order {
		for j, b := range order {
			got, want := compareReleases(a, b), 0
			if i != j {
				want = map[bool]int{true: -1, false: 1}[i < j]
			}
			if got != want {
				t.Errorf("%q and %q: %d, want %d", a, b, got, want)
			}
		}
	}
}

func TestRecordOfFormat1(t *testing.T) {
	const stored = `{"format":1,"id":"ID","version":"6.1","arch":"amd64","image":{"size":7,"sha256":"aa"},
		"modules":{"fuse":{"size":1,"sha256":"bb"},"vsock":{"size":2,"sha256":"cc"}},
		"boot":["vsock"],"lazy":{"fuse":["fuse"],"virtio_net":[]},"builtin":["ext4"],"missing":["virtiofs"],
		"origin":"/k.deb","imported":"2026-01-02T03:04:05Z"}`
	const id = "272831d7669d"
	r, err := decodeRecord([]byte(strings.Replace(stored, "ID", id, 1)), id)
	if err != nil {
		t.Fatal(err)
	}
	want := "272831d7669d amd64 6.1 boot=vsock.ko fuse=fuse.ko virtio_net= builtin=ext4 missing=virtiofs"
	k := (&Store{dir: "/s"}).kernel(r)
	if k.String() != want || k.Origin != "/k.deb" || !k.Imported.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) {
		t.Errorf("got %+v", k)
	}
	b, err := encodeRecord(r)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := decodeRecord(b, id); err != nil || (&Store{dir: "/s"}).kernel(again).String() != want {
		t.Errorf("after a round trip: %v, %v", again, err)
	}
	for change, class := range map[string]errs.Class{
		`"format":1|"format":2`:         errs.Unsupported,
		`"amd64"|"vax"`:                 errs.DataLoss,
		`"boot":["vsock"]|"boot":["x"]`: errs.DataLoss,
		`"cc"|"dd"`:                     errs.DataLoss,
		`"ID"|"000000000000"`:           errs.DataLoss,
		`{"format"|"format"`:            errs.DataLoss,
		`"boot":["vsock"],"lazy":{"fuse":["fuse"]|"boot":["../x"],"lazy":{"fuse":["fuse"]`: errs.DataLoss,
	} {
		from, to, _ := strings.Cut(change, "|")
		if _, err := decodeRecord([]byte(strings.Replace(strings.Replace(stored, from, to, 1), "ID", id, 1)), id); !errs.Is(err, class) {
			t.Errorf("%s: %v", change, err)
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"format":1,"id":"000000000000","arch":"amd64"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decodeRecord(b, "000000000000"); err == nil {
			for _, name := range r.modules() {
				if !moduleName.MatchString(name) {
					t.Fatalf("module %q", name)
				}
			}
		}
	})
}
