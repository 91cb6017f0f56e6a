package erofs

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// layer makes a tar of lines: "d PATH [MODE]", "f PATH CONTENT",
// "l PATH TARGET", "h PATH TARGET", "p PATH", "c PATH".
func layer(t testing.TB, entries ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, e := range entries {
		f := strings.SplitN(e, " ", 3)
		f = append(f, "", "")
		h := &tar.Header{Name: f[1], Mode: 0o644, ModTime: time.Unix(1000, 0)}
		switch f[0] {
		case "d":
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
			if f[2] != "" {
				fmt.Sscanf(f[2], "%o", &h.Mode)
			}
		case "f":
			h.Typeflag, h.Size = tar.TypeReg, int64(len(f[2]))
		case "l":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f[2]
		case "h":
			h.Typeflag, h.Linkname = tar.TypeLink, f[2]
		case "p":
			h.Typeflag = tar.TypeFifo
		case "c":
			h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, 5, 300
		default:
			t.Fatalf("entry %q", e)
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if f[0] == "f" {
			if _, err := tw.Write([]byte(f[2])); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestMerge(t *testing.T) {
	type layers [][]string
	for name, c := range map[string]struct {
		layers layers
		want   []string // without the root
	}{
		"plain": {
			layers{{"d a", "f a/x 1", "l a/l x", "h a/h a/x", "p a/p", "c a/c"}},
			[]string{"d /a 755", "c /a/c 644 5:300", `f /a/h 644 "1" links=2`, "l /a/l 777 -> x", "p /a/p 644", `f /a/x 644 "1" links=2`},
		},
		"names are cleaned and stop at the root": {
			layers{{"d ./a/", "f ../../etc/x 1", "f /a/../b 2", "f a//y 3"}},
			[]string{"d /a 755", `f /a/y 644 "3"`, `f /b 644 "2"`, "d /etc 755", `f /etc/x 644 "1"`},
		},
		"upper replaces": {
			layers{{"f x old"}, {"f x new"}},
			[]string{`f /x 644 "new"`},
		},
		"last in a layer wins": {
			layers{{"f x 1", "f x 2", "d x"}},
			[]string{"d /x 755"},
		},
		"folder again keeps content, takes mode": {
			layers{{"d a 755", "f a/x 1"}, {"d a 700"}},
			[]string{"d /a 700", `f /a/x 644 "1"`},
		},
		"implicit parent of an upper layer keeps mode": {
			layers{{"d a 700", "f a/x 1"}, {"f a/y 2"}},
			[]string{"d /a 700", `f /a/x 644 "1"`, `f /a/y 644 "2"`},
		},
		"folder by file": {
			layers{{"d a", "f a/x 1"}, {"f a 2"}},
			[]string{`f /a 644 "2"`},
		},
		"file by folder": {
			layers{{"f a 2"}, {"d a", "f a/x 1"}},
			[]string{"d /a 755", `f /a/x 644 "1"`},
		},
		"folder by file by folder": {
			layers{{"d a", "f a/x 1"}, {"f a 2"}, {"d a"}},
			[]string{"d /a 755"},
		},
		"folder by file by folder in one layer": {
			layers{{"d a", "f a/x 1"}, {"f a 2", "d a"}},
			[]string{"d /a 755"},
		},
		"whiteout of a file": {
			layers{{"f x 1", "f y 2"}, {"f .wh.x "}},
			[]string{`f /y 644 "2"`},
		},
		"whiteout of a folder": {
			layers{{"d a", "d a/b", "f a/b/x 1"}, {"f .wh.a "}},
			nil,
		},
		"whiteout of nothing": {
			layers{{"f x 1"}, {"f .wh.y ", "f no/where/.wh.z ", "f x/.wh.z "}},
			[]string{`f /x 644 "1"`},
		},
		"whiteout before the same name": {
			layers{{"d a", "f a/old 1"}, {"f .wh.a ", "d a 700", "f a/new 2"}},
			[]string{"d /a 700", `f /a/new 644 "2"`},
		},
		"whiteout after the same name": {
			layers{{"d a", "f a/old 1"}, {"d a 700", "f a/new 2", "f .wh.a "}},
			[]string{"d /a 700", `f /a/new 644 "2"`},
		},
		"whiteout after a file of the same name": {
			layers{{"f x 1"}, {"f x 2", "f .wh.x "}},
			[]string{`f /x 644 "2"`},
		},
		"whiteout of a folder this layer only passes through": {
			layers{{"d a 700", "d a/b 700", "f a/b/old 1"}, {"f a/b/new 2", "f .wh.a "}},
			[]string{"d /a 755", "d /a/b 755", `f /a/b/new 644 "2"`},
		},
		"whiteout in the lowest layer": {
			layers{{"f x 1", "f .wh.x ", "d a", "f a/y 2", "f a/.wh..wh..opq "}},
			[]string{"d /a 755", `f /a/y 644 "2"`, `f /x 644 "1"`},
		},
		"opaque before": {
			layers{{"d a", "f a/old 1", "d a/sub", "f a/sub/old 1"}, {"f a/.wh..wh..opq ", "f a/new 2"}},
			[]string{"d /a 755", `f /a/new 644 "2"`},
		},
		"opaque after": {
			layers{{"d a", "f a/old 1", "d a/sub", "f a/sub/old 1"}, {"d a/sub", "f a/sub/new 2", "f a/new 2", "f a/.wh..wh..opq "}},
			[]string{"d /a 755", `f /a/new 644 "2"`, "d /a/sub 755", `f /a/sub/new 644 "2"`},
		},
		"opaque hides only lower content, for later layers too": {
			layers{{"f a/1 1"}, {"f a/.wh..wh..opq ", "f a/2 2"}, {"f a/3 3"}},
			[]string{"d /a 755", `f /a/2 644 "2"`, `f /a/3 644 "3"`},
		},
		"opaque twice": {
			layers{{"f a/1 1"}, {"f a/.wh..wh..opq ", "f a/2 2", "f a/.wh..wh..opq "}, {"f a/.wh..wh..opq ", "f a/3 3"}},
			[]string{"d /a 755", `f /a/3 644 "3"`},
		},
		"opaque root": {
			layers{{"f a/1 1", "f b 1"}, {"f .wh..wh..opq ", "f c 2"}},
			[]string{`f /c 644 "2"`},
		},
		"opaque of a folder that comes later": {
			layers{{"f x 1"}, {"f a/.wh..wh..opq ", "d a", "f x/.wh..wh..opq ", "d x"}},
			[]string{"d /a 755", "d /x 755"},
		},
		"link to a lower file": {
			layers{{"f x 1"}, {"h y x"}},
			[]string{`f /x 644 "1" links=2`, `f /y 644 "1" links=2`},
		},
		"link outlives its first name": {
			layers{{"f x 1"}, {"h y x", "f .wh.x "}},
			[]string{`f /y 644 "1"`},
		},
		"link keeps its data when the first name is replaced": {
			layers{{"f x 1", "h y x"}, {"f x 2"}},
			[]string{`f /x 644 "2"`, `f /y 644 "1"`},
		},
		"link to a symbolic link is one to the link": {
			layers{{"f x 1", "l s x", "h t s"}},
			[]string{"l /s 777 -> x links=2", "l /t 777 -> x links=2", `f /x 644 "1"`},
		},
		"link to itself": {
			layers{{"f x 1", "h x x"}},
			[]string{`f /x 644 "1"`},
		},
		"link name and target go through links": {
			layers{{"d usr/lib", "f usr/lib/x 1", "l lib usr/lib"}, {"h lib/y lib/x"}},
			[]string{"l /lib 777 -> usr/lib", "d /usr 755", "d /usr/lib 755", `f /usr/lib/x 644 "1" links=2`, `f /usr/lib/y 644 "1" links=2`},
		},
		"parent that is a link": {
			layers{{"d usr/bin", "l bin usr/bin"}, {"f bin/x 1"}},
			[]string{"l /bin 777 -> usr/bin", "d /usr 755", "d /usr/bin 755", `f /usr/bin/x 644 "1"`},
		},
		"parent that is a link out of the image": {
			layers{{"l out ../../../../etc", "l abs /etc"}, {"f out/x 1", "f abs/y 2"}},
			[]string{"l /abs 777 -> /etc", "d /etc 755", `f /etc/x 644 "1"`, `f /etc/y 644 "2"`, "l /out 777 -> ../../../../etc"},
		},
		"link chain with dots": {
			layers{{"d a/b", "l a/b/up ..", "l s a/b/up/./c", "d a/c"}, {"f s/x 1"}},
			[]string{"d /a 755", "d /a/b 755", "l /a/b/up 777 -> ..", "d /a/c 755", `f /a/c/x 644 "1"`, "l /s 777 -> a/b/up/./c"},
		},
		"folder over a link replaces the link": {
			layers{{"d usr/bin", "f usr/bin/x 1", "l bin usr/bin"}, {"d bin", "f bin/y 2"}},
			[]string{"d /bin 755", `f /bin/y 644 "2"`, "d /usr 755", "d /usr/bin 755", `f /usr/bin/x 644 "1"`},
		},
		"whiteout through a link, and of a link": {
			layers{{"d usr/bin", "f usr/bin/x 1", "l bin usr/bin", "l s bin"}, {"f bin/.wh.x ", "f .wh.s "}},
			[]string{"l /bin 777 -> usr/bin", "d /usr 755", "d /usr/bin 755"},
		},
		"opaque through a link": {
			layers{{"d usr/bin", "f usr/bin/x 1", "l bin usr/bin"}, {"f bin/.wh..wh..opq ", "f bin/y 2"}},
			[]string{"l /bin 777 -> usr/bin", "d /usr 755", "d /usr/bin 755", `f /usr/bin/y 644 "2"`},
		},
		"passing ../ does not count as touching": {
			layers{{"d a", "d b", "l s a/../b"}, {"f s/x 1", "f .wh.a "}},
			[]string{"d /b 755", `f /b/x 644 "1"`, "l /s 777 -> a/../b"},
		},
		"AUFS bookkeeping": {
			layers{{"d .wh..wh.plnk", "f .wh..wh.plnk/1.2 x", "f .wh..wh.aufs ", "f x 1"}},
			[]string{`f /x 644 "1"`},
		},
		"root attributes": {
			layers{{"f x 1", "d ./ 700"}},
			[]string{"ROOT 700", `f /x 644 "1"`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var in [][]byte
			for _, l := range c.layers {
				in = append(in, layer(t, l...))
			}
			b, err := image(t, Limits{}, in...)
			if err != nil {
				t.Fatal(err)
			}
			got := lines(mustWalk(t, b))
			root := "d / 755"
			if len(c.want) > 0 && strings.HasPrefix(c.want[0], "ROOT ") {
				root, c.want = "d / "+c.want[0][5:], c.want[1:]
			}
			if want := append([]string{root}, c.want...); !slices.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			again, err := image(t, Limits{}, in...)
			if err != nil || !bytes.Equal(b, again) {
				t.Errorf("the same layers gave other bytes (%v)", err)
			}
			fsck(t, b)
		})
	}
}

// fsck runs the independent checker where it is installed.
func fsck(t testing.TB, b []byte) {
	t.Helper()
	tool, err := exec.LookPath("fsck.erofs")
	if err != nil {
		t.Log("fsck.erofs is not installed: only our own reader looked")
		return
	}
	p := filepath.Join(t.TempDir(), "fsck.img")
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tool, "--extract", p).CombinedOutput(); err != nil {
		t.Errorf("fsck.erofs: %v\n%s", err, out)
	}
}

func TestHostileLayers(t *testing.T) {
	long := strings.Repeat("n", 256)
	deep := strings.Repeat("d/", 2000)
	for name, c := range map[string]struct {
		layers [][]string
		limits Limits
		class  errs.Class
		text   string
	}{
		"file as a parent":        {[][]string{{"f a 1"}, {"f a/x 1"}}, Limits{}, errs.InvalidArgument, `layer 2: entry "a/x": "a" is not a folder`},
		"fifo as a parent":        {[][]string{{"p a", "d a/b"}}, Limits{}, errs.InvalidArgument, "not a folder"},
		"link loop":               {[][]string{{"l a b", "l b a", "f a/x 1"}}, Limits{}, errs.InvalidArgument, "too many symbolic links"},
		"link to nothing":         {[][]string{{"h a b"}}, Limits{}, errs.InvalidArgument, "not there"},
		"link to a folder":        {[][]string{{"d a", "h b a"}}, Limits{}, errs.InvalidArgument, "a folder"},
		"link as the root":        {[][]string{{"f a 1", "h / a"}}, Limits{}, errs.InvalidArgument, "root"},
		"file as the root":        {[][]string{{"f . 1"}}, Limits{}, errs.InvalidArgument, "root"},
		"whiteout of dots":        {[][]string{{"f .wh... "}}, Limits{}, errs.InvalidArgument, "names nothing"},
		"whiteout of nothing":     {[][]string{{"f .wh. "}}, Limits{}, errs.InvalidArgument, "names nothing"},
		"whiteout as a folder":    {[][]string{{"f .wh.a/b 1"}}, Limits{}, errs.InvalidArgument, "whiteout"},
		"long name":               {[][]string{{"f " + long + " 1"}}, Limits{}, errs.InvalidArgument, "longer than 255"},
		"long name on the way":    {[][]string{{"f " + long + "/x 1"}}, Limits{}, errs.InvalidArgument, "longer than 255"},
		"long path":               {[][]string{{"f " + strings.Repeat("d/", 2048) + "x 1"}}, Limits{}, errs.InvalidArgument, "path of"},
		"deep by links":           {[][]string{{"d " + deep, "l s " + deep, "d s/" + deep}}, Limits{}, errs.InvalidArgument, "deep"},
		"too many entries":        {[][]string{{"f a 1", "f a 1"}, {"f a 1", "f a 1"}}, Limits{Entries: 3}, errs.ResourceExhausted, "layer 2"},
		"too many implied":        {[][]string{{"f a/b/c/d/e/f 1"}}, Limits{Entries: 3}, errs.ResourceExhausted, "files"},
		"too much data":           {[][]string{{"f a 123"}, {"f a 456"}}, Limits{Bytes: 5}, errs.ResourceExhausted, "exceed 5 bytes"},
		"too long names together": {[][]string{{"f abc 1", "f def 1"}}, Limits{Metadata: 5}, errs.ResourceExhausted, "exceed 5 bytes"},
		"too long link target":    {[][]string{{"l a " + strings.Repeat("x", 4096)}}, Limits{}, errs.InvalidArgument, "path of 4096"},
	} {
		t.Run(name, func(t *testing.T) {
			var in [][]byte
			for _, l := range c.layers {
				in = append(in, layer(t, l...))
			}
			_, err := image(t, c.limits, in...)
			if !errs.Is(err, c.class) || !strings.Contains(err.Error(), c.text) || len(err.Error()) > 1000 {
				t.Errorf("got %v (%s), want %s: %s", err, errs.ClassOf(err), c.class, c.text)
			}
		})
	}
}

// write makes a tar of full headers.
func write(t testing.TB, hs ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range hs {
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := tw.Write(bytes.Repeat([]byte{'x'}, int(h.Size))); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestHostileHeaders(t *testing.T) {
	pax := func(h tar.Header) *tar.Header { h.Format = tar.FormatPAX; return &h }
	reg := tar.Header{Name: "x", Typeflag: tar.TypeReg}
	with := func(f func(*tar.Header)) *tar.Header { h := reg; f(&h); return pax(h) }
	many := map[string]string{}
	for i := range 80 {
		many[fmt.Sprintf("SCHILY.xattr.user.%d", i)] = strings.Repeat("v", 1000)
	}
	for name, c := range map[string]struct {
		h     *tar.Header
		class errs.Class
	}{
		"uid":    {with(func(h *tar.Header) { h.Uid = 1<<32 - 1 }), errs.InvalidArgument},
		"gid":    {with(func(h *tar.Header) { h.Gid = 1 << 40 }), errs.InvalidArgument},
		"device": {&tar.Header{Name: "x", Typeflag: tar.TypeChar, Devmajor: 1 << 12}, errs.InvalidArgument},
		"long xattr": {with(func(h *tar.Header) {
			h.PAXRecords = map[string]string{"SCHILY.xattr.user.a": strings.Repeat("v", 1<<16)}
		}), errs.ResourceExhausted},
		"xattrs": {with(func(h *tar.Header) { h.PAXRecords = many }), errs.ResourceExhausted},
		"xattr name": {with(func(h *tar.Header) {
			h.PAXRecords = map[string]string{"SCHILY.xattr.user." + strings.Repeat("n", 300): "v"}
		}), errs.InvalidArgument},
		"type": {&tar.Header{Name: "x", Typeflag: 'Q'}, errs.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := image(t, Limits{}, write(t, c.h)); !errs.Is(err, c.class) {
				t.Errorf("got %v (%s), want %s", err, errs.ClassOf(err), c.class)
			}
		})
	}
}

func TestDamagedTar(t *testing.T) {
	whole := layer(t, "f a "+strings.Repeat("x", 10000), "f b 1")
	for name, c := range map[string]struct {
		in    []byte
		class errs.Class
	}{
		"cut in data":   {whole[:3000], errs.DataLoss},
		"cut in header": {whole[:100], errs.DataLoss},
		"no tar":        {bytes.Repeat([]byte("vzcompose "), 200), errs.InvalidArgument},
	} {
		if _, err := image(t, Limits{}, c.in); !errs.Is(err, c.class) || !strings.Contains(err.Error(), "layer 1") {
			t.Errorf("%s: got %v (%s), want %s", name, err, errs.ClassOf(err), c.class)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := NewWriter(f, Limits{}).AddLayer(ctx, "layer 1", bytes.NewReader(whole)); !errs.Is(err, errs.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestAttributes(t *testing.T) {
	at := time.Unix(1700000000, 123456789)
	early := time.Unix(-5, 0)
	acl := string([]byte{2, 0, 0, 0, 1, 0, 6, 0, 0xff, 0xff, 0xff, 0xff})
	longName := strings.Repeat("l", 200) + "/" + strings.Repeat("m", 200)
	in := write(t,
		&tar.Header{Name: "x", Typeflag: tar.TypeReg, Size: 5000, Mode: 0o6755, Uid: 3_000_000_000, Gid: 70000, ModTime: at, Format: tar.FormatPAX,
			PAXRecords: map[string]string{"SCHILY.xattr.user.a": "1", "SCHILY.xattr.security.capability": "\x01\x00",
				"SCHILY.xattr.trusted.t": "", "SCHILY.xattr.system.posix_acl_access": acl, "SCHILY.xattr.com.apple.x": "no",
				"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.overlay.redirect": "/", "SCHILY.xattr.user.": "no"}},
		&tar.Header{Name: "early", Typeflag: tar.TypeReg, ModTime: early, Format: tar.FormatGNU},
		&tar.Header{Name: longName, Typeflag: tar.TypeReg, Size: 1, Format: tar.FormatGNU},
		&tar.Header{Name: "big", Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("t", 4000), Format: tar.FormatPAX,
			PAXRecords: map[string]string{"SCHILY.xattr.security.s": strings.Repeat("v", 9000)}},
		&tar.Header{Name: "tailed", Typeflag: tar.TypeReg, Size: 4096 + 1500, Format: tar.FormatPAX,
			PAXRecords: map[string]string{"SCHILY.xattr.user.s": strings.Repeat("v", 3000)}},
		&tar.Header{Name: "dev", Typeflag: tar.TypeBlock, Devmajor: 259, Devminor: 70000, Mode: 0o600},
	)
	b, err := image(t, Limits{}, in)
	if err != nil {
		t.Fatal(err)
	}
	fsck(t, b)
	all := mustWalk(t, b)
	x := all["/x"]
	if x.mode != modeRegular|0o6755 || x.uid != 3_000_000_000 || x.gid != 70000 || x.mtime != at.Unix() || x.mtimeNS != 123456789 || len(x.data) != 5000 {
		t.Errorf("x is %+v", x)
	}
	want := map[string]string{"user.a": "1", "security.capability": "\x01\x00", "trusted.t": "", "system.posix_acl_access": acl}
	if fmt.Sprint(x.xattrs) != fmt.Sprint(want) {
		t.Errorf("attributes %q, want %q", x.xattrs, want)
	}
	if all["/early"].mtime != -5 {
		t.Errorf("early: %d", all["/early"].mtime)
	}
	if len(all["/"+longName].data) != 1 {
		t.Error("long name is not there")
	}
	if n := all["/big"]; len(n.data) != 4000 || n.inline || len(n.xattrs["security.s"]) != 9000 {
		t.Errorf("big: %d bytes, inline %v", len(n.data), n.inline)
	}
	if n := all["/tailed"]; len(n.data) != 5596 || n.inline {
		t.Errorf("tailed: %d bytes, inline %v", len(n.data), n.inline)
	}
	if n := all["/dev"]; n.rdev != 70000&0xff|259<<8|(70000&^0xff)<<12 {
		t.Errorf("dev: %x", n.rdev)
	}
}

// TestSizes goes over every boundary of tails, blocks and folders, and
// compares all bytes.
func TestSizes(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	want := map[string][32]byte{}
	add := func(name string, data []byte) {
		if err := tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: int64(len(data)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(data); err != nil {
			t.Fatal(err)
		}
		want["/"+name] = sha256.Sum256(data)
	}
	for _, base := range []int{0, 4096, 8192, 1 << 20, 3 << 20} {
		for _, d := range []int{0, 1, 2047, 2048, 2049, 4031, 4032, 4033, 4095} {
			data := make([]byte, base+d)
			for i := range data {
				data[i] = byte(rnd.Uint32())
			}
			add(fmt.Sprintf("s/%d", base+d), data)
		}
	}
	hole := make([]byte, 1<<20)
	hole[0], hole[700_000] = 1, 2
	add("hole", hole)
	add("zero", make([]byte, 2<<20))
	for i := range 3000 { // folders of many blocks
		add(fmt.Sprintf("many/%s%d", strings.Repeat("n", i%200), i), nil)
	}
	for n := 1; n < 400; n++ { // folders that end anywhere in a block
		add(fmt.Sprintf("ends/%03d/%s", n/20, strings.Repeat("e", n%250+1)), []byte{byte(n)})
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	img, err := image(t, Limits{}, b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	fsck(t, img)
	all := mustWalk(t, img)
	for p, sum := range want {
		if n, ok := all[p]; !ok || sha256.Sum256(n.data) != sum {
			t.Errorf("%s differs (there: %v)", p, ok)
		}
	}
	var st unix.Stat_t
	f := filepath.Join(t.TempDir(), "sparse")
	sparse, err := os.Create(f)
	if err != nil {
		t.Fatal(err)
	}
	defer sparse.Close()
	w := NewWriter(sparse, Limits{})
	if err := w.AddLayer(t.Context(), "l", bytes.NewReader(layer(t, "f zero "+strings.Repeat("\x00", 8<<20)))); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat(f, &st); err != nil || st.Blocks*512 > 1<<20 {
		t.Errorf("8 MiB of zeros take %d bytes (%v)", st.Blocks*512, err)
	}
}

// TestTailsBeyondMemory: when no more tails fit in memory they get blocks.
func TestTailsBeyondMemory(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := NewWriter(f, Limits{})
	w.inlined = maxInlined - 1
	if err := w.AddLayer(t.Context(), "l", bytes.NewReader(layer(t, "f a 12", "f b 1"))); err != nil {
		t.Fatal(err)
	}
	st, err := w.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, st.Size)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	all := mustWalk(t, b)
	if all["/a"].inline || !all["/b"].inline || string(all["/a"].data) != "12" || string(all["/b"].data) != "1" {
		t.Errorf("a %+v, b %+v", all["/a"], all["/b"])
	}
}

// failing is a full disk.
type failing struct{ after int }

func (f *failing) WriteAt(p []byte, _ int64) (int, error) {
	if f.after--; f.after < 0 {
		return 0, unix.ENOSPC
	}
	return len(p), nil
}
func (f *failing) Truncate(int64) error { return nil }

func TestWriteErrorsAreNotTheTarsFault(t *testing.T) {
	in := layer(t, "f a "+strings.Repeat("x", 4<<20))
	for after := range 4 {
		w := NewWriter(&failing{after}, Limits{})
		err := w.AddLayer(t.Context(), "l", bytes.NewReader(in))
		if err == nil {
			_, err = w.Finish(t.Context())
		}
		if err == nil || errs.ClassOf(err) != errs.Unknown || !strings.Contains(err.Error(), unix.ENOSPC.Error()) {
			t.Errorf("after %d: %v (%s)", after, err, errs.ClassOf(err))
		}
	}
}

func TestCheck(t *testing.T) {
	b, err := image(t, Limits{}, layer(t, "f a 1"))
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func([]byte) []byte{
		"cut":     func(b []byte) []byte { return b[:len(b)-4096] },
		"short":   func(b []byte) []byte { return b[:100] },
		"no data": func(b []byte) []byte { return make([]byte, len(b)) },
		"flipped": func(b []byte) []byte { b[1024+41] ^= 1; return b },
	} {
		bad := f(slices.Clone(b))
		if err := Check(bytes.NewReader(bad), int64(len(bad))); !errs.Is(err, errs.DataLoss) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzTar(f *testing.F) {
	f.Add(layer(f, "d a", "f a/x 1", "l a/l x", "h a/h a/x", "p a/p", "c a/c"), layer(f, "f .wh.a ", "f a/y 2"))
	f.Add(layer(f, "f a/1 1", "l s a"), layer(f, "f s/.wh..wh..opq ", "d s", "f a/2 2"))
	f.Add(layer(f, "l a b", "l b a", "f a/x 1"), []byte{})
	f.Add(write(f, &tar.Header{Name: "x", Typeflag: tar.TypeReg, Size: 3000, Format: tar.FormatPAX, ModTime: time.Unix(1, 5),
		PAXRecords: map[string]string{"SCHILY.xattr.user.a": "1"}}), []byte("junk"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		img, err := image(t, Limits{Entries: 2000, Bytes: 16 << 20, Metadata: 1 << 20}, a, b)
		if err != nil {
			if errs.ClassOf(err) == errs.Unknown {
				t.Fatalf("no class: %v", err)
			}
			return
		}
		mustWalk(t, img)
	})
}
