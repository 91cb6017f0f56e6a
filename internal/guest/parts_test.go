//go:build linux

package guest

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
)

func testTime() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

func TestModules(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir+"/boot.list", "vsock.ko\nbad.ko\nblk.ko\n", 0o600)
	writeFile(t, dir+"/lazy.json", `{"virtiofs":["fuse.ko","virtiofs.ko"],"erofs":[]}`, 0o600)
	var loaded []string
	m := newModules(dir)
	m.load = func(p string) error {
		loaded = append(loaded, filepath.Base(p))
		if strings.HasSuffix(p, "bad.ko") {
			return errors.New("bad")
		}
		return nil
	}
	files, err := m.readLists()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.add(files); err == nil || !strings.Contains(err.Error(), "load module bad.ko: bad") {
		t.Error(err)
	}
	for _, n := range []string{"virtiofs", "erofs", "builtin", "virtiofs"} {
		if err := m.need(n); err != nil {
			t.Error(err)
		}
	}
	if want := strings.Fields("vsock.ko bad.ko blk.ko fuse.ko virtiofs.ko"); !reflect.DeepEqual(loaded, want) {
		t.Errorf("%v", loaded)
	}
	if err := m.failures(); err == nil || !strings.Contains(err.Error(), "bad.ko") {
		t.Error(err)
	}
	if files, err := newModules(t.TempDir()).readLists(); len(files) != 0 || err != nil {
		t.Error(files, err)
	}
}

// news is a device listener of a test: a read ends for each tell.
type news struct {
	c      chan error
	closed chan struct{}
	once   sync.Once
}

func newNews() *news { return &news{c: make(chan error), closed: make(chan struct{})} }

// tell ends a read. Where nobody listens any more it does nothing.
func (n *news) tell(err error) {
	select {
	case n.c <- err:
	case <-n.closed:
	}
}

func (n *news) Read([]byte) (int, error) {
	select {
	case err := <-n.c:
		return 1, err
	case <-n.closed:
		return 0, io.EOF
	}
}

func (n *news) Close() error { n.once.Do(func() { close(n.closed) }); return nil }

func TestFindDisks(t *testing.T) {
	sys := t.TempDir()
	add := func(dev, id string) {
		_ = os.Mkdir(filepath.Join(sys, dev), 0o700)
		writeFile(t, filepath.Join(sys, dev, "serial"), id, 0o600)
	}
	add("vda", "one")
	n := newNews()
	f := finder{sys: sys, listen: func() (io.ReadCloser, error) { return n, nil }}
	found := make(chan string, 2)
	done := make(chan error, 1)
	go func() {
		done <- f.find(context.Background(), map[string]bool{"one": true, "two": true}, func(id, dev string) { found <- id + "=" + dev })
	}()
	if s := <-found; s != "one=vda" {
		t.Error(s)
	}
	add("vdb", "two")
	n.tell(unix.ENOBUFS) // unless it was found between the look and the listening
	if s := <-found; s != "two=vdb" {
		t.Error(s)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestFindDisksSaysWhatIsThere(t *testing.T) {
	sys := t.TempDir()
	_ = os.Mkdir(sys+"/vda", 0o700)
	writeFile(t, sys+"/vda/serial", "other", 0o600)
	f := finder{sys: sys, listen: func() (io.ReadCloser, error) { return newNews(), nil }}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errDisksMissing)
	err := f.find(ctx, map[string]bool{"mine": true}, nil)
	wantClass(t, err, errs.DeadlineExceeded, `find disk "mine" within 20s (there are: vda "other")`)
}

func TestRing(t *testing.T) {
	r := newRing(100)
	for range 100 {
		r.printf("%s", "line")
	}
	if b := r.bytes(); len(b) != 100 || !strings.HasSuffix(string(b), "line\n") {
		t.Errorf("%d %q", len(b), b)
	}
}

// A connection that does not keep up is cut, and the others go on.
func TestNoticesCutTheSlow(t *testing.T) {
	n := newNotices()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stuck, cut := make(chan struct{}), make(chan struct{})
	n.subscribe(ctx, func(string, any) error { <-stuck; return errors.New("cut") }, func() {
		select {
		case <-cut:
		default:
			close(cut)
		}
	})
	got := make(chan string, 2*maxNotices)
	n.subscribe(ctx, func(_ string, b any) error { got <- b.(agentproto.Exit).ID; return nil }, func() { t.Error("cut the quick one") })
	for range maxNotices + 2 {
		n.publish(agentproto.NoticeExit, agentproto.Exit{ID: "x"})
		<-got
	}
	<-cut
	close(stuck)
}

// A hostile image leads no path out of its root.
func TestInRoot(t *testing.T) {
	top := t.TempDir()
	root := filepath.Join(top, "root")
	for _, d := range []string{"etc", "real"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{
		"abs": "/etc", "up": "../../../..", "dangling": "/var/deep/target", "loop": "loop", "file": "../outside", "proc": "/proc/self/root",
	} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	r := inRoot{fd}
	defer func() { _ = unix.Close(fd) }()
	for _, c := range []struct{ dir, real string }{
		{"/abs/x", "etc/x"}, {"/up/y/z", "y/z"}, {"/dangling/d", "var/deep/target/d"}, {"real/../../../w", "w"},
	} {
		fd, err := r.mkdirAll(c.dir, 0o755)
		if err != nil {
			t.Errorf("%s: %v", c.dir, err)
			continue
		}
		_ = unix.Close(fd)
		if st, err := os.Stat(filepath.Join(root, c.real)); err != nil || !st.IsDir() {
			t.Errorf("%s: %v", c.dir, err)
		}
	}
	if _, err := r.mkdirAll("/loop/x", 0o755); !errors.Is(err, unix.ELOOP) {
		t.Errorf("loop: %v", err)
	}
	if err := r.touch("/file"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(root, "outside")); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(top); len(left) != 1 {
		t.Errorf("something is outside: %v", left)
	}
	if !r.missing("/etc/none") || r.missing("/loop") {
		t.Error("missing")
	}
}

func TestReportNames(t *testing.T) {
	if err := parseReport(nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	wantClass(t, parseReport([]byte(`R{"class":"not found","message":"m"}`)), errs.NotFound, "m")
}
