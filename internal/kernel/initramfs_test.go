package kernel

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/vzcompose/vzcompose/internal/errs"
)

type cpioEntry struct {
	name                string
	mode, major, minor  uint64
	ino, nlink, uid, at uint64
	data                []byte
}

// readCpio is a reader of newc archives, written from the format's
// description and not from the writer.
func readCpio(t *testing.T, b []byte) []cpioEntry {
	t.Helper()
	var all []cpioEntry
	for off := 0; ; {
		if off%4 != 0 || len(b) < off+110 || string(b[off:off+6]) != "070701" {
			t.Fatalf("no header at %d", off)
		}
		var f [13]uint64
		for i := range f {
			v, err := strconv.ParseUint(string(b[off+6+8*i:off+14+8*i]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			f[i] = v
		}
		name := string(b[off+110 : off+110+int(f[11])])
		if !strings.HasSuffix(name, "\x00") {
			t.Fatalf("name %q does not end in NUL", name)
		}
		off = (off + 110 + int(f[11]) + 3) &^ 3
		if name == "TRAILER!!!\x00" {
			if off != len(b) {
				t.Errorf("%d bytes after the trailer", len(b)-off)
			}
			return all
		}
		all = append(all, cpioEntry{name: strings.TrimSuffix(name, "\x00"), ino: f[0], mode: f[1], uid: f[2] + f[3], nlink: f[4],
			at: f[5], major: f[9], minor: f[10], data: b[off : off+int(f[6])]})
		off = (off + int(f[6]) + 3) &^ 3
	}
}

func buildInitramfs(t *testing.T, s *Store, k Kernel, agent string) (path string, content []byte) {
	t.Helper()
	path, err := s.Initramfs(t.Context(), k, []byte(agent))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, b
}

func TestInitramfsLayout(t *testing.T) {
	s := openStore(t)
	k := mustImport(t, s, writeTree(t, debianLike()))
	_, b := buildInitramfs(t, s, k, "agent!")
	got := map[string]cpioEntry{}
	var order strings.Builder
	for i, e := range readCpio(t, b) {
		if _, twice := got[e.name]; twice || e.ino != uint64(i+1) || e.at != 0 || e.uid != 0 {
			t.Errorf("%+v", e)
		}
		if dir := filepath.Dir(e.name); dir != "." && got[dir].mode != modeDir {
			t.Errorf("%s comes before its folder", e.name)
		}
		got[e.name] = e
		if !strings.HasSuffix(e.name, ".ko") {
			fmt.Fprintf(&order, "%s %o %d:%d\n", e.name, e.mode, e.major, e.minor)
		}
	}
	const want = "dev 40755 0:0\nproc 40755 0:0\nsys 40755 0:0\nrun 40755 0:0\ntmp 40755 0:0\nmodules 40755 0:0\n" +
		"dev/console 20600 5:1\ndev/null 20600 1:3\ndev/kmsg 20600 1:11\ninit 100755 0:0\n" +
		"modules/boot.list 100644 0:0\nmodules/lazy.json 100644 0:0\n"
	if order.String() != want {
		t.Errorf("got\n%s", order.String())
	}
	if string(got["init"].data) != "agent!" {
		t.Errorf("init is %q", got["init"].data)
	}
	if list := strings.Fields(string(got["modules/boot.list"].data)); !slices.Equal(list, k.Boot) {
		t.Errorf("boot.list %v", list)
	}
	var lazy map[string][]string
	if err := json.Unmarshal(got["modules/lazy.json"].data, &lazy); err != nil || fmt.Sprint(lazy) != fmt.Sprint(k.Lazy) {
		t.Errorf("lazy.json %v, %v", lazy, err)
	}
	for _, f := range k.Modules {
		name := strings.TrimSuffix(f, ".ko")
		if !bytes.Contains(got["modules/"+f].data, []byte("name="+name+"\x00")) {
			t.Errorf("%s is not in it", f)
		}
	}
}

func TestInitramfsIsBuiltOnceAndAlwaysAlike(t *testing.T) {
	one, two := openStore(t), openStore(t)
	src := writeTree(t, debianLike())
	k, k2 := mustImport(t, one, src), mustImport(t, two, src)
	const many = 8
	var wg sync.WaitGroup
	paths := make([]string, many)
	for i := range many {
		wg.Go(func() {
			p, err := one.Initramfs(t.Context(), k, []byte("agent"))
			if err != nil {
				t.Error(err)
			}
			paths[i] = p
		})
	}
	wg.Wait()
	if len(slices.Compact(paths)) != 1 {
		t.Errorf("paths %v", paths)
	}
	before, err := os.Stat(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	path, a := buildInitramfs(t, one, k, "agent")
	after, err := os.Stat(path)
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("built again: %v", err)
	}
	path2, b := buildInitramfs(t, two, k2, "agent")
	if filepath.Base(path) != filepath.Base(path2) || !bytes.Equal(a, b) {
		t.Error("two stores differ")
	}
	if other, _ := buildInitramfs(t, one, k, "agent 2"); other == path {
		t.Error("another agent has the same initramfs")
	}
	if err := one.Remove(t.Context(), k.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("it outlived its kernel: %v", err)
	}
}

func TestInitramfsOfABareKernel(t *testing.T) {
	s := openStore(t)
	k := mustImport(t, s, writeFile(t, "vmlinux", bare("1.0")))
	_, b := buildInitramfs(t, s, k, "a")
	for _, e := range readCpio(t, b) {
		if e.name == "modules/boot.list" && len(e.data) != 0 || e.name == "modules/lazy.json" && string(e.data) != "{}" {
			t.Errorf("%s: %q", e.name, e.data)
		}
	}
}

func TestInitramfsRefuses(t *testing.T) {
	s := openStore(t)
	k := mustImport(t, s, writeTree(t, debianLike()))
	p := filepath.Join(k.ModulesDir, "vsock.ko")
	b, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-1] ^= 1
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		k     Kernel
		agent string
		class errs.Class
	}{
		"a changed module": {k, "agent", errs.DataLoss},
		"no agent":         {k, "", errs.InvalidArgument},
		"no kernel":        {Kernel{ID: "000000000000"}, "agent", errs.NotFound},
		"a path":           {Kernel{ID: "../x"}, "agent", errs.InvalidArgument},
	} {
		if _, err := s.Initramfs(t.Context(), c.k, []byte(c.agent)); !errs.Is(err, c.class) {
			t.Errorf("%s: %v", name, err)
		}
	}
	files, err := filepath.Glob(filepath.Join(s.dir, k.ID, "*"))
	if err != nil || len(files) != 4 { // record, image, modules, lock
		t.Errorf("left behind: %v, %v", files, err)
	}
}
