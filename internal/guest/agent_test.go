//go:build linux

package guest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/wire"
)

func TestMain(m *testing.M) {
	if isStage {
		stage()
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// bench is an agent that runs real containers on this machine, and the host's
// side of it.
type bench struct {
	t     *testing.T
	agent *agent
	root  string
	sock  string
	host  *agentproto.Client
	exits chan agentproto.Exit
}

// newBench has the agent's spare stage wait. It skips where there is no right,
// no unified hierarchy or no busybox.
func newBench(t *testing.T) *bench {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("containers need root")
	}
	cg := unifiedCgroup(t)
	b := &bench{t: t, root: busyboxRoot(t), exits: make(chan agentproto.Exit, 1000)}
	a := newAgent(time.Now())
	a.root, a.cgroups, a.setup = b.root, cg, setupDone
	a.modules = newModules(t.TempDir())
	close(a.booted)
	b.agent = a
	ctx, cancel := context.WithCancel(context.Background())
	b.sock = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", b.sock)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go a.reaper.run(ctx)
	go a.reaper.tell(ctx)
	go func() {
		defer close(served)
		if err := a.serve(ctx, l, "test", func(net.Conn) bool { return true }); err != nil {
			t.Error(err)
		}
	}()
	kept := make(chan struct{})
	go func() { defer close(kept); a.keepSpare(a.spare) }()
	t.Cleanup(func() { b.tearDown(); <-kept; _ = l.Close(); <-served; cancel() })
	<-a.spare.ready
	b.host = b.connect(func(e agentproto.Exit) { b.exits <- e })
	return b
}

func (b *bench) connect(onExit func(agentproto.Exit)) *agentproto.Client {
	b.t.Helper()
	h, err := agentproto.NewClient(b.ctx(), b.dial(), agentproto.Notices{Exit: onExit})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = h.Close() })
	return h
}

func (b *bench) dial() net.Conn {
	b.t.Helper()
	c, err := net.Dial("unix", b.sock)
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

func (b *bench) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	b.t.Cleanup(cancel)
	return ctx
}

// tearDown ends the container and the spare stage, so that nothing of the test
// is left.
func (b *bench) tearDown() {
	if s := b.agent.spare.take(); s != nil {
		s.drop()
		<-s.child.reaped
	}
	b.agent.mu.Lock()
	c := b.agent.container
	b.agent.mu.Unlock()
	if c == nil {
		return
	}
	_ = c.cgroup.kill(unix.SIGKILL)
	<-c.process.done
	if err := c.cgroup.remove(b.ctx()); err != nil {
		b.t.Errorf("leave: %v", err)
	}
}

func unifiedCgroup(t *testing.T) string {
	t.Helper()
	for _, dir := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			root := filepath.Join(dir, "vzguest-"+randomName())
			if err := os.Mkdir(root, 0o755); err != nil {
				t.Skipf("no cgroup can be made: %v", err)
			}
			t.Cleanup(func() {
				if err := removeTree(root); err != nil {
					t.Errorf("leave: %v", err)
				}
			})
			return root
		}
	}
	t.Skip("no unified cgroup hierarchy is mounted")
	return ""
}

func randomName() string {
	var b [6]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// busybox is this machine's, or what make deps has put in place.
var busybox = sync.OnceValues(func() ([]byte, error) {
	if at, err := exec.LookPath("busybox"); err == nil {
		return os.ReadFile(at)
	}
	f, err := os.Open("../../.cache/images/busybox.tar")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err != nil {
			return nil, err
		}
		if path.Clean(h.Name) == "bin/busybox" && h.Typeflag == tar.TypeReg {
			return io.ReadAll(r)
		}
	}
})

// busyboxRoot makes a root filesystem of a static busybox.
func busyboxRoot(t *testing.T) string {
	t.Helper()
	b, err := busybox()
	if err != nil {
		t.Skipf("no busybox, neither on this machine nor from make deps: %v", err)
	}
	if bytes.Contains(b[:min(len(b), 4096)], []byte("/ld-linux")) {
		t.Skip("the busybox of this machine is not static")
	}
	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"etc/passwd":   "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1000::/home/bob:/bin/sh\nexotic:x:77:88::/exotic:\n",
		"etc/group":    "root:x:0:\nbob:x:1000:\nwheel:x:10:root,bob\naudio:x:29:bob\n",
		"bin/noexec":   "#!/bin/sh\n",
		"bin/nointerp": "#!/bin/nosuch\n",
	}
	for _, d := range []string{"bin", "etc", "proc", "dev", "tmp", "root"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for n, s := range files {
		writeFile(t, filepath.Join(root, n), s, 0o644)
	}
	writeFile(t, filepath.Join(root, "bin/nointerp"), files["bin/nointerp"], 0o755)
	writeFile(t, filepath.Join(root, "bin/busybox"), string(b), 0o755)
	for _, n := range strings.Fields("sh cat echo true false id pwd env sleep mount grep tr cut head ls stat umask hostname touch kill dd sha256sum seq wc mkdir chown ulimit sysctl readlink ip test yes nc") {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", n)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func writeFile(t *testing.T, name, s string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(name, []byte(s), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}

// container is a runtime-spec that runs args, changed by change.
func containerSpec(args []string, change ...func(*specs.Spec)) *specs.Spec {
	s := &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: agentproto.RootPath},
		Process: processSpec(args...),
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: "pid"}, {Type: "mount"}, {Type: "ipc"}, {Type: "uts"}, {Type: "cgroup"}},
		},
	}
	for _, c := range change {
		c(s)
	}
	return s
}

func processSpec(args ...string) *specs.Process {
	return &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}}
}

// sleeper starts a container that only lasts.
func (b *bench) sleeper(change ...func(*specs.Spec)) {
	b.t.Helper()
	if _, err := b.host.Start(b.ctx(), agentproto.Start{ID: "init", Spec: containerSpec([]string{"sleep", "1000"}, change...)}); err != nil {
		b.t.Fatal(err)
	}
}

type result struct {
	out, err string
	exit     agentproto.Exit
}

// run starts s with streams for its output and stdin, and waits for its end.
func (b *bench) run(s agentproto.Start, stdin io.Reader) (result, error) {
	b.t.Helper()
	id := s.ID + randomName()
	s.Stdout, s.Stderr = "out"+id, "err"+id
	out, eout := b.collect(s.Stdout), b.collect(s.Stderr)
	if stdin != nil {
		s.Stdin = "in" + id
		b.feed(s.Stdin, stdin)
	}
	if _, err := b.host.Start(b.ctx(), s); err != nil {
		return result{}, err
	}
	e, err := b.host.Wait(b.ctx(), s.ID)
	if err != nil {
		b.t.Fatal(err)
	}
	r := result{out: <-out, err: <-eout, exit: e}
	return r, b.host.Release(b.ctx(), s.ID)
}

func (b *bench) stream(token string) *wire.Stream {
	b.t.Helper()
	s, err := agentproto.OpenStream(b.ctx(), b.dial(), token)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = s.Close() })
	return s
}

// collect answers all of a stream, with "!" and the error where it broke.
func (b *bench) collect(token string) <-chan string {
	b.t.Helper()
	s := b.stream(token)
	got := make(chan string, 1)
	go func() {
		text, err := io.ReadAll(s)
		_ = s.Close()
		if err != nil {
			text = fmt.Appendf(text, "! %v", err)
		}
		got <- string(text)
	}()
	return got
}

func (b *bench) feed(token string, r io.Reader) {
	b.t.Helper()
	s := b.stream(token)
	go func() {
		_, _ = io.Copy(s, r) // the process may not want all of it
		_ = s.CloseWrite()
	}()
}

// must is run for what must start and end with code.
func (b *bench) must(code int, s agentproto.Start) string {
	b.t.Helper()
	r, err := b.run(s, nil)
	if err != nil {
		b.t.Fatalf("start: %v", err)
	}
	if r.exit.Code != code {
		b.t.Fatalf("exit %+v, want %d; stdout %q stderr %q", r.exit, code, r.out, r.err)
	}
	return r.out
}

func (b *bench) exec(change func(*agentproto.Start), args ...string) (result, error) {
	b.t.Helper()
	s := agentproto.Start{ID: "e" + randomName(), Process: processSpec(args...)}
	if change != nil {
		change(&s)
	}
	return b.run(s, nil)
}

func wantClass(t *testing.T, err error, c errs.Class, text string) {
	t.Helper()
	if !errs.Is(err, c) || !strings.Contains(err.Error(), text) {
		t.Errorf("%v (%s), want %q of class %s", err, errs.ClassOf(err), text, c)
	}
}
