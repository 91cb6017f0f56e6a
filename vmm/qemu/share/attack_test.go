//go:build linux

package share

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Operations of FUSE (include/uapi/linux/fuse.h).
const (
	opLookup, opForget, opGetattr, opSetattr, opReadlink, opSymlink = 1, 2, 3, 4, 5, 6
	opMknod, opMkdir, opUnlink, opRmdir, opRename, opLink           = 8, 9, 10, 11, 12, 13
	opOpen, opRead, opWrite, opRelease, opInit, opOpendir           = 14, 15, 16, 18, 26, 27
	opReaddir, opCreate                                             = 28, 35
)

const root = fuse.FUSE_ROOT_ID

// guest speaks FUSE to a share, as root in a machine may.
type guest struct {
	t     testing.TB
	fs    *FS
	proto *protocol
	uid   uint32 // who asks
	gid   uint32
}

func newGuest(t testing.TB, o Options) *guest {
	t.Helper()
	fs, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fs.Close)
	g := &guest{t: t, fs: fs, proto: newProtocol(fs)}
	if _, err := g.call(opInit, 0, words(uint32(7), uint32(38), uint32(1<<16), uint32(0xffffffff), make([]byte, 48))); err != nil {
		t.Fatalf("init: %v", err)
	}
	return g
}

// bothWays runs a test on a share whose owners are the host's, and on one that
// remembers its own.
func bothWays(t *testing.T, test func(t *testing.T, o Options)) {
	t.Run("owners of the host", func(t *testing.T) { test(t, Options{}) })
	t.Run("owners of its own", func(t *testing.T) { test(t, remembering(t)) })
}

// remembering is of shares that remember owners, whoever runs the test.
func remembering(t testing.TB) Options {
	return Options{Owners: filepath.Join(t.TempDir(), "owners"), squash: true}
}

// at are the options of a share of path.
func (o Options) at(path string) Options {
	o.Path = path
	return o
}

// words puts numbers, texts and bytes together; a text ends with a zero.
func words(all ...any) []byte {
	var b bytes.Buffer
	for _, v := range all {
		switch v := v.(type) {
		case string:
			b.WriteString(v + "\x00")
		case []byte:
			b.Write(v)
		default:
			_ = binary.Write(&b, binary.LittleEndian, v)
		}
	}
	return b.Bytes()
}

// call makes a request and answers what came back, or its error.
func (g *guest) call(op uint32, node uint64, payload []byte) ([]byte, error) {
	in := words(uint32(inHeader+len(payload)), op, uint64(77), node, g.uid, g.gid, uint32(1), uint32(0), payload)
	out := make([]byte, 128<<10)
	n := perform(g.proto, in, out, true)
	if n < outHeader {
		return nil, unix.EIO
	}
	if code := int32(binary.LittleEndian.Uint32(out[4:])); code != 0 {
		return nil, unix.Errno(-code)
	}
	return out[outHeader:n], nil
}

// lookup answers the node of a name.
func (g *guest) lookup(dir uint64, name string) (uint64, error) {
	b, err := g.call(opLookup, dir, words(name))
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

func (g *guest) mustLookup(dir uint64, name string) uint64 {
	g.t.Helper()
	n, err := g.lookup(dir, name)
	if err != nil {
		g.t.Fatalf("lookup %q: %v", name, err)
	}
	return n
}

// playground is a folder with a share in it, and things beside that nobody may
// touch.
func playground(t testing.TB) (share, outside string) {
	t.Helper()
	dir := t.TempDir()
	share, outside = filepath.Join(dir, "share"), filepath.Join(dir, "outside")
	for _, d := range []string{share, outside, filepath.Join(share, "sub")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for path, text := range map[string]string{filepath.Join(share, "file"): "inside", filepath.Join(outside, "secret"): "secret"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"up": "..", "abs": outside, "secret": "../outside/secret"} {
		if err := os.Symlink(to, filepath.Join(share, link)); err != nil {
			t.Fatal(err)
		}
	}
	return share, outside
}

// untouched fails if anything outside of the share has changed.
func untouched(t testing.TB, outside string) {
	t.Helper()
	all, err := os.ReadDir(outside)
	if err != nil || len(all) != 1 {
		t.Errorf("outside there is %v (%v)", all, err)
	}
	if b, err := os.ReadFile(filepath.Join(outside, "secret")); err != nil || string(b) != "secret" {
		t.Errorf("the secret is %q (%v)", b, err)
	}
	if up, err := os.ReadDir(filepath.Dir(outside)); err != nil || len(up) != 2 {
		t.Errorf("beside the share there is %v (%v)", up, err)
	}
}

// evil are names that lead out, or are none.
func evil(outside string) []string {
	return []string{"..", ".", "", "../outside", "../outside/secret", "sub/../../outside/secret", outside, outside + "/secret",
		"/etc/passwd", "up/outside/secret", "abs/secret", "sub/", "/", strings.Repeat("n", 300), strings.Repeat("../", 80) + "etc/passwd"}
}

func TestNamesDoNotLeadOut(t *testing.T) { bothWays(t, namesDoNotLeadOut) }

func namesDoNotLeadOut(t *testing.T, o Options) {
	dir, outside := playground(t)
	g := newGuest(t, o.at(dir))
	file := g.mustLookup(root, "file")
	sub := g.mustLookup(root, "sub")
	for _, name := range evil(outside) {
		for op, payload := range map[uint32][]byte{
			opLookup: words(name), opMkdir: words(uint32(0o755), uint32(0), name), opUnlink: words(name), opRmdir: words(name),
			opMknod: words(uint32(unix.S_IFREG|0o644), uint32(0), uint32(0), uint32(0), name), opSymlink: words(name, "x"),
			opCreate: words(uint32(unix.O_RDWR), uint32(0o644), uint32(0), uint32(0), name),
			opLink:   words(file, name), opRename: words(uint64(root), "file", name),
		} {
			if _, err := g.call(op, root, payload); err == nil {
				t.Errorf("operation %d took the name %q", op, name)
			}
		}
		if _, err := g.call(opRename, root, words(sub, name, "taken")); err == nil {
			t.Errorf("a rename took away %q", name)
		}
	}
	untouched(t, outside)
}

// A symbolic link is text: nothing is done by way of it.
func TestLinksAreNotFollowed(t *testing.T) { bothWays(t, linksAreNotFollowed) }

func linksAreNotFollowed(t *testing.T, o Options) {
	dir, outside := playground(t)
	g := newGuest(t, o.at(dir))
	for _, name := range []string{"up", "abs", "secret"} {
		n := g.mustLookup(root, name)
		b, err := g.call(opReadlink, n, nil)
		if want, _ := os.Readlink(filepath.Join(dir, name)); err != nil || string(b) != want {
			t.Errorf("%s says %q, %v", name, b, err)
		}
		for what, err := range map[string]error{
			"lookup":         second(g.lookup(n, "secret")),
			"open":           second(g.call(opOpen, n, words(uint32(unix.O_RDWR), uint32(0)))),
			"opendir":        second(g.call(opOpendir, n, words(uint32(0), uint32(0)))),
			"mkdir":          second(g.call(opMkdir, n, words(uint32(0o755), uint32(0), "made"))),
			"create":         second(g.call(opCreate, n, words(uint32(unix.O_RDWR), uint32(0o644), uint32(0), uint32(0), "made"))),
			"chmod":          second(g.call(opSetattr, n, setattr(fuse.FATTR_MODE, 0, 0o777))),
			"truncate":       second(g.call(opSetattr, n, setattr(fuse.FATTR_SIZE, 0, 0))),
			"create over it": second(g.call(opCreate, root, words(uint32(unix.O_RDWR|unix.O_TRUNC), uint32(0o644), uint32(0), uint32(0), name))),
		} {
			if err == nil {
				t.Errorf("%s by way of %s", what, name)
			}
		}
	}
	untouched(t, outside)
}

func second[T any](_ T, err error) error { return err }

// setattr is a fuse_setattr_in.
func setattr(valid uint32, size uint64, mode uint32) []byte {
	return words(valid, uint32(0), uint64(0), size, uint64(0), uint64(0), uint64(0), uint64(0), uint32(0), uint32(0), uint32(0), mode, uint32(0), uint32(0), uint32(0), uint32(0))
}

// What is swapped for a link under a node's name changes nothing of the node.
func TestSwappedUnderANode(t *testing.T) { bothWays(t, swappedUnderANode) }

func swappedUnderANode(t *testing.T, o Options) {
	dir, outside := playground(t)
	g := newGuest(t, o.at(dir))
	sub, file := g.mustLookup(root, "sub"), g.mustLookup(root, "file")
	for _, name := range []string{"sub", "file"} {
		if err := os.Rename(filepath.Join(dir, name), filepath.Join(dir, name+".moved")); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(dir, "sub")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(outside, "secret"), filepath.Join(dir, "file")); err != nil {
		t.Fatal(err)
	}
	if _, err := g.lookup(sub, "secret"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("the secret is seen by the old node: %v", err)
	}
	if _, err := g.call(opMkdir, sub, words(uint32(0o755), uint32(0), "made")); err != nil {
		t.Errorf("the old node is of no use: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "sub.moved", "made")); err != nil {
		t.Error(err)
	}
	if _, err := g.call(opSetattr, file, setattr(fuse.FATTR_SIZE, 0, 0)); err != nil {
		t.Error(err)
	}
	if _, err := g.lookup(g.mustLookup(root, "sub"), "secret"); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("the secret is seen by the link: %v", err)
	}
	untouched(t, outside)
}

func TestReadOnlyRefusesEverything(t *testing.T) { bothWays(t, readOnlyRefusesEverything) }

func readOnlyRefusesEverything(t *testing.T, o Options) {
	dir, outside := playground(t)
	o.ReadOnly = true
	g := newGuest(t, o.at(dir))
	file, sub := g.mustLookup(root, "file"), g.mustLookup(root, "sub")
	b, err := g.call(opOpen, file, words(uint32(unix.O_RDONLY), uint32(0)))
	if err != nil {
		t.Fatal(err)
	}
	fh := binary.LittleEndian.Uint64(b)
	for what, err := range map[string]error{
		"mkdir":     second(g.call(opMkdir, root, words(uint32(0o755), uint32(0), "made"))),
		"mknod":     second(g.call(opMknod, root, words(uint32(unix.S_IFREG|0o644), uint32(0), uint32(0), uint32(0), "made"))),
		"create":    second(g.call(opCreate, root, words(uint32(unix.O_RDWR), uint32(0o644), uint32(0), uint32(0), "made"))),
		"create it": second(g.call(opCreate, root, words(uint32(unix.O_RDWR), uint32(0o644), uint32(0), uint32(0), "file"))),
		"symlink":   second(g.call(opSymlink, root, words("to", "made"))),
		"link":      second(g.call(opLink, root, words(file, "made"))),
		"unlink":    second(g.call(opUnlink, root, words("file"))),
		"rmdir":     second(g.call(opRmdir, root, words("sub"))),
		"rename":    second(g.call(opRename, root, words(uint64(sub), "file", "moved"))),
		"chmod":     second(g.call(opSetattr, file, setattr(fuse.FATTR_MODE, 0, 0o777))),
		"truncate":  second(g.call(opSetattr, file, setattr(fuse.FATTR_SIZE, 0, 0))),
		"open rw":   second(g.call(opOpen, file, words(uint32(unix.O_RDWR), uint32(0)))),
		"open wo":   second(g.call(opOpen, file, words(uint32(unix.O_WRONLY), uint32(0)))),
		"open 3":    second(g.call(opOpen, file, words(uint32(3), uint32(0)))),
		"trunc":     second(g.call(opOpen, file, words(uint32(unix.O_RDONLY|unix.O_TRUNC), uint32(0)))),
		"write":     second(g.call(opWrite, file, words(fh, uint64(0), uint32(1), uint32(0), uint64(0), uint32(0), uint32(0), []byte("x")))),
	} {
		if !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(b) != "inside" {
		t.Errorf("%q %v", b, err)
	}
	untouched(t, outside)
}

// Devices are not made, what is no file or directory is not opened, and nobody's
// identity is lent.
func TestSpecialFiles(t *testing.T) { bothWays(t, specialFiles) }

func specialFiles(t *testing.T, o Options) {
	dir, _ := playground(t)
	g := newGuest(t, o.at(dir))
	for _, kind := range []uint32{unix.S_IFBLK, unix.S_IFCHR, unix.S_IFDIR, unix.S_IFLNK, 0xf000} {
		if _, err := g.call(opMknod, root, words(kind|0o666, uint32(0x103), uint32(0), uint32(0), "device")); err == nil {
			fi, err := os.Lstat(filepath.Join(dir, "device"))
			if device := kind == unix.S_IFBLK || kind == unix.S_IFCHR; !device || o.Owners == "" || err != nil || !fi.Mode().IsRegular() {
				t.Errorf("a node of kind %o was made: %v %v", kind, fi, err)
			}
			for _, flags := range []uint32{unix.O_RDONLY, unix.O_RDWR} {
				if _, err := g.call(opOpen, g.mustLookup(root, "device"), words(flags, uint32(0))); err == nil {
					t.Error("a device was opened")
				}
			}
			if _, err := g.call(opUnlink, root, words("device")); err != nil {
				t.Error(err)
			}
		}
	}
	if _, err := g.call(opMknod, root, words(uint32(unix.S_IFIFO|0o666), uint32(0), uint32(0), uint32(0), "pipe")); err != nil {
		t.Fatal(err)
	}
	pipe := g.mustLookup(root, "pipe")
	for _, flags := range []uint32{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR} {
		if _, err := g.call(opOpen, pipe, words(flags, uint32(0))); err == nil {
			t.Error("a pipe of the host was opened")
		}
		if _, err := g.call(opCreate, root, words(flags, uint32(0o644), uint32(0), uint32(0), "pipe")); err == nil {
			t.Error("a pipe of the host was opened by making it")
		}
	}
	if _, err := g.call(opCreate, root, words(uint32(unix.O_RDWR), uint32(0o6755), uint32(0), uint32(0), "lent")); err != nil {
		t.Fatal(err)
	}
	if _, err := g.call(opSetattr, g.mustLookup(root, "lent"), setattr(fuse.FATTR_MODE, 0, 0o7755)); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(filepath.Join(dir, "lent")); err != nil || fi.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0 {
		t.Errorf("%v %v", fi.Mode(), err)
	}
}

// Of a file that is shared alone nothing else is seen, made or moved.
func TestOneFile(t *testing.T) { bothWays(t, oneFile) }

func oneFile(t *testing.T, o Options) {
	dir, outside := playground(t)
	g := newGuest(t, o.at(filepath.Join(dir, "file")))
	file := g.mustLookup(root, "file")
	for _, name := range append(evil(outside), "sub", "secret", "abs") {
		if _, err := g.lookup(root, name); err == nil {
			t.Errorf("%q is seen", name)
		}
	}
	b, err := g.call(opOpendir, root, words(uint32(0), uint32(0)))
	if err != nil {
		t.Fatal(err)
	}
	list, err := g.call(opReaddir, root, words(binary.LittleEndian.Uint64(b), uint64(0), uint32(4096), uint32(0), uint64(0), uint32(0), uint32(0)))
	if err != nil || !bytes.Contains(list, []byte("file")) || bytes.Contains(list, []byte("secret")) || bytes.Contains(list, []byte("sub")) {
		t.Errorf("the folder lists %q, %v", list, err)
	}
	for what, err := range map[string]error{
		"mkdir":  second(g.call(opMkdir, root, words(uint32(0o755), uint32(0), "made"))),
		"create": second(g.call(opCreate, root, words(uint32(unix.O_RDWR), uint32(0o644), uint32(0), uint32(0), "made"))),
		"unlink": second(g.call(opUnlink, root, words("file"))),
		"rename": second(g.call(opRename, root, words(uint64(root), "file", "moved"))),
		"link":   second(g.call(opLink, root, words(file, "made"))),
		"chmod":  second(g.call(opSetattr, root, setattr(fuse.FATTR_MODE, 0, 0o777))),
	} {
		if err == nil {
			t.Error(what)
		}
	}
	if b, err = g.call(opOpen, file, words(uint32(unix.O_RDWR), uint32(0))); err != nil {
		t.Fatal(err)
	}
	if _, err := g.call(opWrite, file, words(binary.LittleEndian.Uint64(b), uint64(0), uint32(3), uint32(0), uint64(0), uint32(0), uint32(0), []byte("new"))); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(b) != "newide" {
		t.Errorf("%q %v", b, err)
	}
}

// What stands under the name of a file that is shared alone is the file, for who
// has mounted it too: an editor that writes a new one and renames it is followed.
func TestOneFileIsFoundByItsName(t *testing.T) { bothWays(t, oneFileIsFoundByItsName) }

func oneFileIsFoundByItsName(t *testing.T, o Options) {
	dir, outside := playground(t)
	path := filepath.Join(dir, "file")
	g := newGuest(t, o.at(path))
	file := g.mustLookup(root, "file")
	open := func() uint64 {
		t.Helper()
		b, err := g.call(opOpen, file, words(uint32(unix.O_RDWR), uint32(0)))
		if err != nil {
			t.Fatal(err)
		}
		return binary.LittleEndian.Uint64(b)
	}
	write := func(fh uint64, text string) {
		t.Helper()
		if _, err := g.call(opWrite, file, words(fh, uint64(0), uint32(len(text)), uint32(0), uint64(0), uint32(0), uint32(0), []byte(text))); err != nil {
			t.Fatal(err)
		}
	}
	is := func(want string) {
		t.Helper()
		if b, err := os.ReadFile(path); err != nil || string(b) != want {
			t.Errorf("the host has %q %v, want %q", b, err, want)
		}
	}
	old := open()
	for i, text := range []string{"edited once", "edited twice"} {
		if err := os.WriteFile(path+"~", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+"~", path); err != nil {
			t.Fatal(err)
		}
		attr, err := g.call(opGetattr, file, words(uint32(0), uint32(0), uint64(0)))
		if err != nil || binary.LittleEndian.Uint64(attr[24:]) != uint64(len(text)) {
			t.Errorf("%d: the size of the new file: %v", i, err)
		}
		fh := open()
		got, err := g.call(opRead, file, words(fh, uint64(0), uint32(100), uint32(0), uint64(0), uint32(0), uint32(0)))
		if err != nil || string(got) != text {
			t.Errorf("%d: read %q %v", i, got, err)
		}
		write(fh, "E")
		is("E" + text[1:])
	}
	write(old, "gone") // who had it open has the old one, as on any Linux
	is("Edited twice")
	if again := g.mustLookup(root, "file"); again != file {
		t.Errorf("node %d became %d", file, again)
	}
	if _, err := g.call(opSetattr, file, setattr(fuse.FATTR_SIZE, 3, 0)); err != nil {
		t.Error(err)
	}
	is("Edi")
	for what, put := range map[string]func() error{
		"nothing":  func() error { return nil },
		"a link":   func() error { return os.Symlink(filepath.Join(outside, "secret"), path) },
		"a folder": func() error { return os.Mkdir(path, 0o700) },
		"a pipe":   func() error { return unix.Mkfifo(path, 0o600) },
	} {
		_ = os.Remove(path)
		if err := put(); err != nil {
			t.Fatal(err)
		}
		for _, op := range []uint32{opGetattr, opOpen, opSetattr} {
			payload := words(uint32(0), uint32(0), uint64(0))
			if op == opSetattr {
				payload = setattr(fuse.FATTR_MODE, 0, 0o777)
			}
			if _, err := g.call(op, file, payload); err != unix.ENOENT {
				t.Errorf("%s in its place: operation %d: %v", what, op, err)
			}
		}
	}
	_ = os.Remove(path)
	if err := os.WriteFile(path, []byte("back"), 0o600); err != nil {
		t.Fatal(err)
	}
	write(open(), "B")
	is("Back")
	untouched(t, outside)
	if n := len(g.fs.nodes); n != 2 {
		t.Errorf("%d nodes are held", n)
	}
}

// Requests that are torn, too large or about nothing are refused, and what there
// may be at a time is bounded.
func TestTornAndHugeRequests(t *testing.T) { bothWays(t, tornAndHugeRequests) }

func tornAndHugeRequests(t *testing.T, o Options) {
	dir, outside := playground(t)
	g := newGuest(t, o.at(dir))
	out := make([]byte, 64<<10)
	whole := words(uint32(inHeader+7), uint32(opLookup), uint64(77), uint64(root), uint32(0), uint32(0), uint32(1), uint32(0), "../../")
	for n := range whole {
		perform(g.proto, whole[:n], out, true)
	}
	for _, claimed := range []uint32{0, 1, 39, 41, 1 << 20, 0xffffffff} {
		b := bytes.Clone(whole)
		binary.LittleEndian.PutUint32(b, claimed)
		perform(g.proto, b, out, true)
	}
	if n := perform(g.proto, whole, out, false); n != outHeader {
		t.Errorf("a request that does not fit is answered with %d bytes", n)
	}
	for op := range uint32(60) {
		for _, node := range []uint64{0, 2, 99, 1<<64 - 1} {
			perform(g.proto, words(uint32(inHeader), op, uint64(1), node, uint64(0), uint64(0)), out[:outHeader], true)
		}
	}
	if _, err := g.call(opRead, root, words(uint64(99), uint64(0), uint32(1<<30), uint32(0), uint64(0), uint32(0), uint32(0))); err == nil {
		t.Error("a handle that is none was read from")
	}
	g.fs.limits.nodes = len(g.fs.nodes) + 1
	g.mustLookup(root, "file")
	if _, err := g.lookup(root, "sub"); !errors.Is(err, unix.ENFILE) {
		t.Errorf("over the limit of nodes: %v", err)
	}
	file := g.mustLookup(root, "file") // it is known
	if _, err := g.call(opForget, file, words(uint64(2))); err != nil && !errors.Is(err, unix.EIO) {
		t.Error(err)
	}
	g.mustLookup(root, "sub")
	untouched(t, outside)
}

// FuzzRequest sends a hostile request to a share that has some nodes and handles.
func FuzzRequest(f *testing.F) {
	f.Add(uint32(opLookup), uint64(root), words("../outside/secret"), false)
	f.Add(uint32(opCreate), uint64(root), words(uint32(unix.O_RDWR), uint32(0o644), uint32(0), uint32(0), "../made"), false)
	f.Add(uint32(opRename), uint64(root), words(uint64(2), "file", "../x"), false)
	f.Add(uint32(opWrite), uint64(2), words(uint64(1), uint64(1)<<63, uint32(9), uint32(0), uint64(0), uint32(0), uint32(0), []byte("x")), true)
	f.Add(uint32(opSetattr), uint64(3), setattr(fuse.FATTR_SIZE, 1<<40, 0), false)
	f.Add(uint32(opSetattr), uint64(2), chown(999, 1<<32-1), false)
	f.Add(uint32(opSetattr), uint64(2), setattr(fuse.FATTR_MODE, 0, 0o177777), false)
	f.Add(uint32(opMknod), uint64(root), words(uint32(unix.S_IFBLK|0o666), uint32(0x103), uint32(0), uint32(0), "disk"), false)
	f.Add(uint32(opSymlink), uint64(root), words("link", "../outside"), false)
	for _, op := range []uint32{opGetlk, opSetlk, opSetlkw} {
		f.Add(op, uint64(2), lk(1, 9, 0, toEnd, unix.F_WRLCK, 0), false)
		f.Add(op, uint64(2), lk(1, 9, 5, 4, unix.F_RDLCK, fuse.FUSE_LK_FLOCK), true)
	}
	f.Fuzz(func(t *testing.T, op uint32, node uint64, payload []byte, readOnly bool) {
		for _, o := range []Options{{}, remembering(t)} {
			dir, outside := playground(t)
			o.ReadOnly = readOnly
			g := newGuest(t, o.at(dir))
			file := g.mustLookup(root, "file")
			g.mustLookup(root, "sub")
			fh := g.mustOpen(file, unix.O_RDONLY)
			_ = g.lock(opSetlk, lk(fh, 1, 3, 5, unix.F_RDLCK, 0))
			g.fs.locks.pause() // nobody would unlock what a request waits for
			_, _ = g.call(op, node, payload)
			untouched(t, outside)
		}
	})
}
