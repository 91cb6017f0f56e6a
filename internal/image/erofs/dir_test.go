package erofs

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// hostTree makes a folder with a bit of everything.
func hostTree(t *testing.T) string {
	t.Helper()
	unix.Umask(0o022)
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := time.Unix(1600000000, 42)
	must(os.MkdirAll(filepath.Join(dir, "a/b"), 0o755))
	must(os.WriteFile(filepath.Join(dir, "a/x"), []byte("1"), 0o640))
	must(os.WriteFile(filepath.Join(dir, "a/big"), bytes.Repeat([]byte("b"), 10000), 0o600))
	must(os.Link(filepath.Join(dir, "a/x"), filepath.Join(dir, "a/y")))
	must(os.Symlink("/etc/passwd", filepath.Join(dir, "a/out")))
	must(os.Symlink("../..", filepath.Join(dir, "a/up")))
	must(unix.Mkfifo(filepath.Join(dir, "a/fifo"), 0o600))
	must(os.Chtimes(filepath.Join(dir, "a/x"), at, at))
	return dir
}

func folderImage(t *testing.T, f Folder) ([]byte, error) {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "img"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	w := NewWriter(file, Limits{})
	if err := w.AddFolder(t.Context(), f, nil); err != nil {
		return nil, err
	}
	st, err := w.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return io.ReadAll(io.NewSectionReader(file, 0, st.Size))
}

func TestFolder(t *testing.T) {
	dir := hostTree(t)
	if err := unix.Setxattr(filepath.Join(dir, "a/x"), "user.a", []byte("v"), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
		t.Log("no user attributes here:", err)
	}
	owner := OwnerAsRoot(uint32(os.Getuid()), uint32(os.Getgid()))
	b, err := folderImage(t, Folder{Path: dir, Owner: owner})
	if err != nil {
		t.Fatal(err)
	}
	all := mustWalk(t, b)
	want := []string{"d / 755", "d /a 755", "d /a/b 755", "f /a/big 600 10000 bytes", "p /a/fifo 600",
		"l /a/out 777 -> /etc/passwd", "l /a/up 777 -> ../..", `f /a/x 640 "1" links=2`, `f /a/y 640 "1" links=2`}
	if got := lines(all); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if x := all["/a/x"]; x.uid != 0 || x.gid != 0 || x.mtime != 1600000000 || x.mtimeNS != 42 {
		t.Errorf("x is %+v", x)
	}
	fsck(t, b)
}

func TestFolderDigest(t *testing.T) {
	dir := hostTree(t)
	f := Folder{Path: dir}
	first, size, err := f.Digest(t.Context())
	if err != nil || size != 10001 {
		t.Fatalf("%d bytes, %v", size, err)
	}
	x := filepath.Join(dir, "a/x")
	at := time.Unix(1600000001, 0)
	seen := map[string]string{first: "first"}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"mode", func() error { return os.Chmod(x, 0o644) }},
		{"time", func() error { return os.Chtimes(x, at, at) }},
		{"size", func() error { return errors.Join(os.WriteFile(x, []byte("22"), 0o644), os.Chtimes(x, at, at)) }},
		{"new", func() error { return os.WriteFile(filepath.Join(dir, "z"), nil, 0o644) }},
		{"rename", func() error { return os.Rename(filepath.Join(dir, "z"), filepath.Join(dir, "zz")) }},
		{"target", func() error {
			p := filepath.Join(dir, "a/out")
			return errors.Join(os.Remove(p), os.Symlink("/etc/passwx", p))
		}},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		got, _, err := f.Digest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		again, _, _ := f.Digest(t.Context())
		if was, ok := seen[got]; ok || again != got {
			t.Errorf("after %s the digest is that of %s", step.name, was)
		}
		seen[got] = step.name
	}
}

func TestFolderRefusals(t *testing.T) {
	socket := func(dir string) {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
	}
	for name, c := range map[string]struct {
		do    func(dir string)
		class errs.Class
		text  string
	}{
		"socket":   {socket, errs.InvalidArgument, "/s: a socket"},
		"whiteout": {func(dir string) { os.WriteFile(filepath.Join(dir, ".wh.x"), nil, 0o600) }, errs.InvalidArgument, "whiteouts"},
		"missing":  {func(dir string) { os.Remove(dir) }, errs.NotFound, "open folder"},
		"file":     {func(dir string) { os.Remove(dir); os.WriteFile(dir, nil, 0o600) }, errs.Unknown, "open folder"},
	} {
		dir := filepath.Join(t.TempDir(), "d")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		c.do(dir)
		if _, err := folderImage(t, Folder{Path: dir}); err == nil || errs.ClassOf(err) != c.class || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v (%s)", name, err, errs.ClassOf(err))
		}
	}
	if os.Getuid() == 0 {
		t.Log("root reads everything: an unreadable file is not tried")
		return
	}
	dir := hostTree(t)
	os.Chmod(filepath.Join(dir, "a/big"), 0)
	if _, err := folderImage(t, Folder{Path: dir}); !errs.Is(err, errs.PermissionDenied) || errs.HintOf(err) == "" {
		t.Errorf("unreadable: %v", err)
	}
}

// TestFolderChangesUnderway: what is not the file that was listed is not read.
func TestFolderChangesUnderway(t *testing.T) {
	for name, change := range map[string]func(p string) error{
		"link":    func(p string) error { return errors.Join(os.Remove(p), os.Symlink("/etc/passwd", p)) },
		"gone":    os.Remove,
		"longer":  func(p string) error { return os.WriteFile(p, []byte("longer"), 0o600) },
		"fifo":    func(p string) error { return errors.Join(os.Remove(p), unix.Mkfifo(p, 0o600)) },
		"another": func(p string) error { return errors.Join(os.Rename(p, p+".old"), os.WriteFile(p, []byte("1"), 0o600)) },
	} {
		dir := t.TempDir()
		p := filepath.Join(dir, "x")
		if err := os.WriteFile(p, []byte("1"), 0o600); err != nil {
			t.Fatal(err)
		}
		err := Folder{Path: dir}.walk(t.Context(), func(e *hostEntry) error {
			if e.path != "x" {
				return nil
			}
			if err := change(p); err != nil {
				t.Fatal(err)
			}
			return NewWriter(&failing{9}, Limits{}).addHostContent(t.Context(), e)
		})
		if !errs.Is(err, errs.FailedPrecondition) || !strings.Contains(err.Error(), "changed while") {
			t.Errorf("%s: %v (%s)", name, err, errs.ClassOf(err))
		}
	}
}
