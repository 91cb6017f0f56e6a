//go:build linux

package guest

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/wire"
)

// inRun has a /run of the container's own: its root may be read-only.
func inRun(s *specs.Spec) {
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=1777"}})
}

func TestStatsAndTop(t *testing.T) {
	b := newBench(t)
	if _, err := b.host.Stats(b.ctx()); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("without a container: %v", err)
	}
	b.sleeper(func(s *specs.Spec) {
		s.Process.User.UID = 1000
	})
	if _, err := b.host.Start(b.ctx(), agentproto.Start{ID: "other", Process: processSpec("sleep", "2000")}); err != nil {
		t.Fatal(err)
	}
	top, err := b.host.Top(b.ctx())
	if err != nil {
		t.Fatal(err)
	}
	if len(top.Processes) != 2 {
		t.Fatalf("%+v", top)
	}
	first, other := top.Processes[0], top.Processes[1]
	if first.PID != 1 || first.UID != 1000 || first.Command != "sleep 1000" || other.UID != 0 || other.Command != "sleep 2000" {
		t.Errorf("%+v", top)
	}
	for _, p := range top.Processes {
		if age := time.Since(p.Started); !strings.Contains("RSD", p.State) || p.PPID != 0 || age < -time.Second || age > time.Minute {
			t.Errorf("%+v started %s ago", p, age)
		}
	}
	st, err := b.host.Stats(b.ctx())
	if err != nil {
		t.Fatal(err)
	}
	if age := time.Since(st.At); age < 0 || age > time.Minute { // what else there is depends on this kernel's controllers
		t.Errorf("%+v", st)
	}
}

// tarOf is a tar of regular files.
func tarOf(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o640, Uid: 4242, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, text)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// read copies path out, and returns its files' names and what they hold.
func (b *bench) read(path string, follow bool) (map[string]string, error) {
	b.t.Helper()
	token := "read" + randomName()
	s := b.stream(token)
	failed := make(chan error, 1)
	go func() {
		err := b.host.Read(b.ctx(), agentproto.Read{Path: path, Follow: follow, Stream: token})
		if err != nil { // the stream may have been nobody's
			_ = s.Close()
		}
		failed <- err
	}()
	got := map[string]string{}
	r := tar.NewReader(struct{ io.Reader }{s})
	for {
		h, err := r.Next()
		if err != nil {
			_, _ = io.Copy(io.Discard, struct{ io.Reader }{s})
			_ = s.Close()
			break
		}
		text, _ := io.ReadAll(r)
		if h.Typeflag == tar.TypeSymlink {
			text = []byte("-> " + h.Linkname)
		}
		got[h.Name] = string(text)
	}
	return got, <-failed
}

// Files go in and out as the container sees them, its mounts included; a link out
// of the root stays in it.
func TestCopy(t *testing.T) {
	b := newBench(t)
	b.sleeper(inRun)
	write := func(to string, keep bool) error {
		token := "write" + randomName()
		s := b.stream(token)
		go func() {
			_, _ = s.Write(tarOf(t, map[string]string{"one": "1", "two": "22"}))
			_ = s.CloseWrite()
		}()
		return b.host.Write(b.ctx(), agentproto.Write{Path: to, KeepOwner: keep, Stream: token})
	}
	if err := write("/tmp", false); err != nil {
		t.Fatal(err)
	}
	r, err := b.exec(nil, sh("cat /tmp/one /tmp/two; stat -c ' %u %a' /tmp/one; ln -s one /tmp/link 2>/dev/null || /bin/busybox ln -s one /tmp/link; "+
		"/bin/busybox ln -s ../../../../tmp /tmp/up; /bin/busybox ln -s /tmp/loop /tmp/loop")...)
	if err != nil || r.out != "122 0 640\n" {
		t.Errorf("%+v, %v", r, err)
	}
	if err := write("/tmp/up", true); err != nil { // a directory by a link
		t.Error(err)
	}
	if r, err := b.exec(nil, sh("stat -c %u /tmp/one")...); err != nil || r.out != "4242\n" {
		t.Errorf("the owner that is kept: %+v, %v", r, err)
	}
	for path, want := range map[string]agentproto.FileInfo{
		"/":         {Name: "/", IsDir: true},
		"/tmp/one":  {Name: "one", Size: 1},
		"/tmp/link": {Name: "link", Size: 3, Link: "one"},
		"/tmp/up":   {Name: "up", Size: 15, Link: "../../../../tmp", IsDir: true},
		"/tmp/loop": {Name: "loop", Size: 9, Link: "/tmp/loop"},
	} {
		got, err := b.host.Stat(b.ctx(), agentproto.Stat{Path: path})
		got.Mode = 0
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", path, got, err)
		}
	}
	for _, x := range []struct {
		path   string
		follow bool
		want   map[string]string
	}{
		{"/tmp/one", false, map[string]string{"one": "1"}},
		{"/tmp/link", false, map[string]string{"link": "-> one"}},
		{"/tmp/link", true, map[string]string{"link": "1"}},
	} {
		got, err := b.read(x.path, x.follow)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(x.want) {
			t.Errorf("%s: %v, %v", x.path, got, err)
		}
	}
	if got, err := b.read("/tmp/up", true); err != nil || got["up/one"] != "1" {
		t.Errorf("a folder by a link: %v, %v", got, err)
	}
	// What is made up as it is read is not copied.
	if got, err := b.read("/proc", false); err != nil || len(got) > 1 {
		t.Errorf("/proc: %d files, %v", len(got), err)
	}
	for path, class := range map[string]errs.Class{"/tmp/none": errs.NotFound, "/tmp/one/below": errs.NotFound, "tmp": errs.InvalidArgument} {
		if _, err := b.read(path, false); !errs.Is(err, class) {
			t.Errorf("read %s: %v", path, err)
		}
		if _, err := b.host.Stat(b.ctx(), agentproto.Stat{Path: path}); !errs.Is(err, class) {
			t.Errorf("stat %s: %v", path, err)
		}
	}
	if _, err := b.read("/tmp/loop", true); err == nil {
		t.Error("a link to itself is followed")
	}
	if err := write("/tmp/one", false); !errs.Is(err, errs.NotFound) {
		t.Errorf("write below a file: %v", err)
	}
	if err := b.host.Read(b.ctx(), agentproto.Read{Path: "/tmp/one"}); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("without a stream: %v", err)
	}
}

// comesBack sends text on a stream and expects it back.
func comesBack(t *testing.T, c io.ReadWriter, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Errorf("%q comes back, %v", got, err)
	}
}

// echoAt serves at a socket beneath the container's root, which nobody in it has
// to do for the test.
func (b *bench) echoAt(path string) {
	b.t.Helper()
	l, err := net.Listen("unix", filepath.Join(b.root, path))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
}

// A server in the container is reached by a stream; one of the host by a socket in
// the container, for each connection to which the host is told a token.
func TestRelay(t *testing.T) {
	b := newBench(t)
	b.sleeper()
	b.echoAt("tmp/s")
	accepted := make(chan agentproto.Accepted, 2)
	host, err := agentproto.NewClient(b.ctx(), b.dial(), agentproto.Notices{Accepted: func(a agentproto.Accepted) { accepted <- a }})
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	out := agentproto.Relay{ID: "out", Direction: agentproto.OutOf, Path: "/tmp/s"}
	into := agentproto.Relay{ID: "into", Direction: agentproto.Into, Path: "/tmp/h", Mode: 0o620, UID: 1000}
	for _, r := range []agentproto.Relay{out, into} {
		if err := host.Relay(b.ctx(), r); err != nil {
			t.Fatal(err)
		}
		if err := host.Relay(b.ctx(), r); !errs.Is(err, errs.AlreadyExists) {
			t.Errorf("%s twice: %v", r.ID, err)
		}
	}
	comesBack(t, b.stream(agentproto.RelayToken("out")), "hello")
	if r, err := b.exec(nil, sh("stat -c '%u %a' /tmp/h")...); err != nil || r.out != "1000 620\n" {
		t.Errorf("the socket: %+v, %v", r, err)
	}
	c, err := net.Dial("unix", filepath.Join(b.root, "tmp/h"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s := b.stream((<-accepted).Token)
	go func() { _, _ = io.Copy(s, struct{ io.Reader }{s}) }() // the host's server
	comesBack(t, c, "hello")

	for name, r := range map[string]agentproto.Relay{
		"id":        {ID: "A", Direction: agentproto.OutOf, Path: "/tmp/s"},
		"path":      {ID: "a", Direction: agentproto.OutOf, Path: "tmp/s"},
		"mode":      {ID: "a", Direction: agentproto.Into, Path: "/tmp/x", Mode: 0o1777},
		"direction": {ID: "a", Direction: "around", Path: "/tmp/s"},
	} {
		if err := host.Relay(b.ctx(), r); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for id, path := range map[string]string{"nobody": "/tmp/none", "file": "/etc/passwd"} {
		if err := host.Relay(b.ctx(), agentproto.Relay{ID: id, Direction: agentproto.OutOf, Path: path}); err != nil {
			t.Fatal(err)
		}
		if _, err := b.stream(agentproto.RelayToken(id)).Read(make([]byte, 1)); !wire.Aborted(err) {
			t.Errorf("%s: %v", id, err)
		}
	}
	for range 2 {
		if err := host.Unrelay(b.ctx(), "into"); err != nil {
			t.Error(err)
		}
	}
	if _, err := net.Dial("unix", filepath.Join(b.root, "tmp/h")); err == nil {
		t.Error("the socket outlives its relay")
	}
}

// A port is found at whichever address the server has; a stream to one that nobody
// has is aborted with the reason.
func TestPort(t *testing.T) {
	b := newBench(t)
	if _, err := b.stream(agentproto.PortToken("tcp", 9)).Read(make([]byte, 1)); !wire.Aborted(err) || !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("without a container: %v", err)
	}
	b.sleeper()
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skipf("no IPv6: %v", err)
	}
	at := l.Addr().(*net.TCPAddr).Port
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	comesBack(t, b.stream(agentproto.PortToken("tcp", at)), "hello")
	_ = l.Close()
	if _, err := b.stream(agentproto.PortToken("tcp", at)).Read(make([]byte, 1)); !wire.Aborted(err) || !strings.Contains(err.Error(), fmt.Sprint(at)) {
		t.Errorf("nobody listens: %v", err)
	}
	// The end of the container is that of what leads to it.
	l, err = net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := b.stream(agentproto.PortToken("tcp", l.Addr().(*net.TCPAddr).Port))
	if _, err := l.Accept(); err != nil {
		t.Fatal(err)
	}
	if err := b.host.Signal(b.ctx(), agentproto.Signal{ID: agentproto.InitID, Signal: 9}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(make([]byte, 1)); err == nil {
		t.Error("something comes of a container that has ended")
	}
}

// A process with a terminal has it as its own, with the size that it is given.
func TestTerminal(t *testing.T) {
	b := newBench(t)
	b.sleeper()
	p := processSpec(sh("tty=$(readlink /proc/self/fd/0); read line; echo $tty got $line; read line; stty size 2>/dev/null || /bin/busybox stty size")...)
	p.Terminal, p.ConsoleSize = true, &specs.Box{Height: 20, Width: 70}
	in, out := b.stream("tin"), b.stream("tout")
	if _, err := b.host.Start(b.ctx(), agentproto.Start{ID: "t", Process: p, Stdin: "tin", Stdout: "tout"}); err != nil {
		t.Fatal(err)
	}
	if err := b.host.Resize(b.ctx(), agentproto.Resize{ID: "t", Rows: 33, Cols: 99}); err != nil {
		t.Fatal(err)
	}
	if err := b.host.Resize(b.ctx(), agentproto.Resize{ID: "none", Rows: 1, Cols: 1}); !errs.Is(err, errs.NotFound) {
		t.Errorf("of no process: %v", err)
	}
	if err := b.host.Resize(b.ctx(), agentproto.Resize{ID: agentproto.InitID, Rows: 1, Cols: 1}); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("of one without a terminal: %v", err)
	}
	if _, err := io.WriteString(in, "words\nmore\n"); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(struct{ io.Reader }{out})
	if err != nil && !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if got := string(text); !strings.Contains(got, "/dev/pts/") || !strings.Contains(got, "got words") || !strings.Contains(got, "33 99") {
		t.Errorf("it shows %q", got)
	}
	if e, err := b.host.Wait(b.ctx(), "t"); err != nil || e.Code != 0 {
		t.Errorf("%+v, %v", e, err)
	}
}

// letGo has the end of the held process told, and is done with its stage.
func (b *bench) letGo(h *held) {
	b.agent.follow(h.process)
	_ = h.stage.report.Close()
	_ = h.stage.socket.Close()
}

// A container that is held has all but its process, which runs with what it is
// told at the end.
func TestHeld(t *testing.T) {
	b := newBench(t)
	spec := containerSpec(sh(""), func(s *specs.Spec) { s.Hostname = "held" })
	out := b.collect("hout")
	if _, err := b.host.Start(b.ctx(), agentproto.Start{ID: agentproto.InitID, Spec: spec, Hold: true, Stdout: "hout"}); err != nil {
		t.Fatal(err)
	}
	if !b.agent.holds() {
		t.Fatal("nothing is held")
	}
	// The rest of Go sets the clock of this machine.
	h := b.agent.takeHeld()
	if err := h.stage.send(lastOrders{Hostname: "mine", Args: sh("hostname; echo $WORD $HOME"), Env: []string{"PATH=/bin", "WORD=told"}}); err != nil {
		t.Fatal(err)
	}
	if err := awaitReport(b.ctx(), h.stage.report); err != nil {
		t.Fatal(err)
	}
	b.letGo(h)
	if got := <-out; got != "mine\ntold /root\n" {
		t.Errorf("it says %q", got)
	}
	if e, err := b.host.Wait(b.ctx(), agentproto.InitID); err != nil || e.Code != 0 {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := b.host.Go(b.ctx(), agentproto.Go{Entropy: make([]byte, 64), Args: []string{"true"}}); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("a go for nothing: %v", err)
	}
}

// What cannot be executed fails the last orders, with its class.
func TestHeldThatCannotBeExecuted(t *testing.T) {
	b := newBench(t)
	if _, err := b.host.Start(b.ctx(), agentproto.Start{ID: agentproto.InitID, Spec: containerSpec(sh("")), Hold: true}); err != nil {
		t.Fatal(err)
	}
	h := b.agent.takeHeld()
	defer b.letGo(h)
	if err := h.stage.send(lastOrders{Args: []string{"foo"}, Env: []string{"PATH=/bin"}}); err != nil {
		t.Fatal(err)
	}
	wantClass(t, awaitReport(b.ctx(), h.stage.report), errs.NotFound, `"foo": executable file not found in PATH`)
}

// The log has the kernel's words and the agent's.
func TestLog(t *testing.T) {
	b := newBench(t)
	if _, err := b.run(agentproto.Start{ID: agentproto.InitID, Spec: containerSpec([]string{"foo"})}, nil); err == nil {
		t.Fatal("it runs")
	}
	l, err := b.host.Log(b.ctx())
	if err != nil || !strings.Contains(string(l.Agent), "start init: ") {
		t.Errorf("%s, %v", l.Agent, err)
	}
	if !slices.Contains(strings.Split(string(l.Agent), "\n"), "") {
		t.Error("its last line has no end")
	}
}
