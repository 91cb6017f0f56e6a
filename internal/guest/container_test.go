//go:build linux

package guest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
)

func TestContainerRuns(t *testing.T) {
	b := newBench(t)
	r, err := b.run(agentproto.Start{ID: "init", Spec: containerSpec([]string{"sh", "-c", "echo hi; echo no >&2; exit 42"})}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.out != "hi\n" || r.err != "no\n" || r.exit.Code != 42 {
		t.Errorf("%+v", r)
	}
	if e := <-b.exits; e.ID != "init" || e.Code != 42 {
		t.Errorf("notice %+v", e)
	}
}

func TestContainerIsApart(t *testing.T) {
	b := newBench(t)
	script := `echo $$; hostname; ls /; cat /proc/self/cgroup; grep -c . /proc/self/mountinfo; ls -l /dev`
	out := b.must(0, agentproto.Start{ID: "init", Spec: containerSpec([]string{"sh", "-c", script}, func(s *specs.Spec) {
		s.Hostname = "apart"
	})})
	lines := strings.Split(out, "\n")
	if lines[0] != "1" || lines[1] != "apart" || !strings.Contains(out, "0::/\n") {
		t.Errorf("%s", out)
	}
	for _, want := range []string{"ptmx -> pts/ptmx", "fd -> /proc/self/fd", "null", "tty"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
}

func TestStartErrors(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct {
		args  []string
		user  string
		class errs.Class
		text  string
	}{
		{[]string{"foo"}, "", errs.NotFound, `"foo": executable file not found in PATH`},
		{[]string{"/bin/foo"}, "", errs.NotFound, `"/bin/foo": no such file`},
		{[]string{"noexec"}, "", errs.PermissionDenied, `"noexec": permission denied`},
		{[]string{"/bin"}, "", errs.PermissionDenied, `is a directory`},
		{[]string{"nointerp"}, "", errs.NotFound, "interpreter"},
		{[]string{"true"}, "nobody-here", errs.InvalidArgument, `no user "nobody-here"`},
	} {
		_, err := b.run(agentproto.Start{ID: "init", Spec: containerSpec(c.args), User: c.user}, nil)
		wantClass(t, err, c.class, c.text)
	}
	b.sleeper() // nothing of them is left in its way
	_, err := b.exec(nil, "foo")
	wantClass(t, err, errs.NotFound, `"foo": executable file not found in PATH`)
}

func TestExec(t *testing.T) {
	b := newBench(t)
	b.sleeper(func(s *specs.Spec) { s.Hostname = "inside" })
	r, err := b.exec(nil, "sh", "-c", "hostname; grep ^0:: /proc/self/cgroup; ls /proc | grep -c '^1$'; readlink /proc/1/ns/mnt; readlink /proc/self/ns/mnt; exit 3")
	if err != nil {
		t.Fatal(err)
	}
	l := strings.Split(r.out, "\n")
	if r.exit.Code != 3 || l[0] != "inside" || l[1] != "0::/" || l[2] != "1" || l[3] != l[4] {
		t.Errorf("%+v", r)
	}
}

func sh(script string) []string { return []string{"sh", "-c", script} }

func withCaps(names ...string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: names, Effective: names, Permitted: names}
	}
}

func TestCapabilities(t *testing.T) {
	b := newBench(t)
	const show = "grep -E 'Cap(Prm|Bnd|Amb)|NoNewPrivs' /proc/self/status | tr -d '\\t\\n'"
	start := func(want string, s *specs.Spec) {
		t.Helper()
		if out := b.must(0, agentproto.Start{ID: "init", Spec: s}); out != want {
			t.Errorf("%s, want %s", out, want)
		}
	}
	start("CapPrm:0000000000000000CapBnd:0000000000000000CapAmb:0000000000000000NoNewPrivs:0", containerSpec(sh(show)))
	start("CapPrm:0000000000000001CapBnd:0000000000000001CapAmb:0000000000000000NoNewPrivs:1",
		containerSpec(sh(show), withCaps("CAP_CHOWN"), func(s *specs.Spec) { s.Process.NoNewPrivileges = true }))
	start("CapPrm:0000000000000020CapBnd:0000000000000021CapAmb:0000000000000020NoNewPrivs:0",
		containerSpec(sh(show), withCaps("CAP_CHOWN", "CAP_KILL"), func(s *specs.Spec) {
			c := s.Process.Capabilities
			c.Ambient, c.Inheritable = []string{"CAP_KILL"}, []string{"CAP_KILL"}
			s.Process.User.UID = 1000
		}))
	b.sleeper(withCaps("CAP_KILL"))
	r, err := b.exec(nil, sh(show)...)
	if err != nil || !strings.HasPrefix(r.out, "CapPrm:0000000000000020") {
		t.Errorf("exec does not inherit the container's: %+v %v", r, err)
	}
}

func TestUsers(t *testing.T) {
	b := newBench(t)
	b.sleeper()
	const show = "id -u; id -g; id -G; echo $HOME; echo out >/dev/stdout"
	for user, want := range map[string]string{
		"":         "0 0 0 /root out ",
		"bob":      "1000 1000 1000 10 29 /home/bob out ",
		"1000:29":  "1000 29 29 /home/bob out ",
		"4242":     "4242 0 0 / out ",
		"bob:root": "1000 0 0 /home/bob out ",
	} {
		r, err := b.exec(func(s *agentproto.Start) { s.User = user }, sh(show)...)
		if got := strings.ReplaceAll(r.out, "\n", " "); err != nil || got != want {
			t.Errorf("%q: %q %+v %v, want %q", user, got, r, err, want)
		}
	}
	r, err := b.exec(func(s *agentproto.Start) { s.Process.Env = append(s.Process.Env, "HOME=/given") }, sh("echo $HOME")...)
	if err != nil || r.out != "/given\n" {
		t.Errorf("%+v %v", r, err)
	}
}

func TestWorkingDirectory(t *testing.T) {
	b := newBench(t)
	b.sleeper(func(s *specs.Spec) { s.Process.Cwd = "/made/for/init" })
	cwd := func(dir string) func(*agentproto.Start) {
		return func(s *agentproto.Start) { s.Process.Cwd = dir }
	}
	for dir, want := range map[string]string{"/made/for/init": "/made/for/init\n", "/tmp/../etc": "/etc\n"} {
		r, err := b.exec(cwd(dir), "pwd")
		if err != nil || r.out != want {
			t.Errorf("%s: %+v %v", dir, r, err)
		}
	}
	if _, err := b.exec(cwd("/made/for/exec"), "pwd"); !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), "no directory /made/for/exec") {
		t.Errorf("a directory that is not there: %v", err)
	}
	if r, err := b.exec(cwd("/"), "ls", "/made/for"); err != nil || r.out != "init\n" {
		t.Errorf("it was made all the same: %+v, %v", r, err)
	}
	for fd := range 12 { // no descriptor of ours leads out
		if r, err := b.exec(cwd("/proc/self/fd/"+string(rune('0'+fd))), "pwd"); err == nil {
			t.Errorf("descriptor %d leads to %q", fd, r.out)
		}
	}
	_, err := b.exec(cwd("/etc/passwd"), "pwd")
	wantClass(t, err, errs.ClassOf(err), "working directory")
}

func TestMountsInForce(t *testing.T) {
	b := newBench(t)
	src := t.TempDir()
	writeFile(t, filepath.Join(src, "file"), "content\n", 0o644)
	b.agent.places["volume:vol"] = src
	script := `cat /vol/file; cat /one; echo x > /vol/new && echo wrote
echo x 2>&1 > /ro/new; echo x 2>&1 > /rootfs-file
ls /proc/acpi 2>/dev/null | wc -l; cat /proc/kcore | wc -c; echo x 2>&1 > /proc/sys/kernel/hostname
grep ' /ro ' /proc/mounts | cut -d' ' -f4 | cut -d, -f1-3; stat -c %a /mode; ls /`
	out := b.must(0, agentproto.Start{ID: "init", Spec: containerSpec(sh(script), func(s *specs.Spec) {
		s.Root.Readonly = true
		s.Mounts = append(s.Mounts,
			specs.Mount{Destination: "/vol", Type: "bind", Source: "volume:vol", Options: []string{"rbind"}},
			specs.Mount{Destination: "/one", Source: src + "/file", Options: []string{"bind", "ro"}},
			specs.Mount{Destination: "/ro", Source: src, Options: []string{"bind", "ro", "nosuid", "nodev"}},
			specs.Mount{Destination: "/mode", Type: "tmpfs", Options: []string{"mode=1750", "size=4k"}})
		s.Linux.MaskedPaths = []string{"/proc/acpi", "/proc/kcore", "/proc/scsi", "/nowhere"}
		s.Linux.ReadonlyPaths = []string{"/proc/sys", "/nowhere"}
	})})
	for _, want := range []string{"content\ncontent\nwrote\n", "/ro/new: Read-only", "/rootfs-file: Read-only", "\n0\n0\n",
		"hostname: Read-only", "\nro,nosuid,nodev\n1750\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	if _, err := os.Stat(filepath.Join(src, "new")); err != nil {
		t.Error(err)
	}
}

// A symlink in the image leads a mount nowhere but into the root.
func TestMountOnHostileSymlink(t *testing.T) {
	b := newBench(t)
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(b.root, "evil")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../../../../../.."+outside, filepath.Join(b.root, "evil2")); err != nil {
		t.Fatal(err)
	}
	b.must(0, agentproto.Start{ID: "init", Spec: containerSpec(sh("echo x > /evil/in && echo x > /evil2/sub/in"), func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/evil2/sub", Type: "tmpfs"}, specs.Mount{Destination: "/evil", Type: "tmpfs"})
		s.Mounts[len(s.Mounts)-1], s.Mounts[len(s.Mounts)-2] = s.Mounts[len(s.Mounts)-2], s.Mounts[len(s.Mounts)-1]
	})})
	if left, _ := os.ReadDir(outside); len(left) != 0 {
		t.Errorf("written outside: %v", left)
	}
	if _, err := os.Stat(filepath.Join(b.root, outside)); err != nil {
		t.Errorf("not made inside: %v", err)
	}
}

func TestFailedMountNamesItself(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct {
		m     specs.Mount
		class errs.Class
		text  string
	}{
		{specs.Mount{Destination: "/x", Type: "nosuchfs"}, errs.Unsupported, "mount /x"},
		{specs.Mount{Destination: "/x", Source: "/no/such/source", Options: []string{"bind"}}, errs.NotFound, "mount /x"},
		{specs.Mount{Destination: "/etc/passwd/x", Type: "tmpfs"}, errs.FailedPrecondition, "mount /etc/passwd/x"},
	} {
		_, err := b.run(agentproto.Start{ID: "init", Spec: containerSpec(sh("true"), func(s *specs.Spec) { s.Mounts = append(s.Mounts, c.m) })}, nil)
		wantClass(t, err, c.class, c.text)
	}
}

func TestSysctlsAndNames(t *testing.T) {
	b := newBench(t)
	out := b.must(0, agentproto.Start{ID: "init", Spec: containerSpec(sh("cat /proc/sys/kernel/msgmax /proc/sys/kernel/shm_rmid_forced /proc/sys/kernel/domainname; umask"),
		func(s *specs.Spec) {
			s.Linux.Sysctl = map[string]string{"kernel.msgmax": "4096", "kernel/shm_rmid_forced": "1"}
			s.Domainname = "dom"
			um := uint32(0o077)
			s.Process.User.Umask = &um
		})})
	if out != "4096\n1\ndom\n0077\n" {
		t.Errorf("%q", out)
	}
	_, err := b.run(agentproto.Start{ID: "init", Spec: containerSpec(sh("true"), func(s *specs.Spec) {
		s.Linux.Sysctl = map[string]string{"no.such": "1"}
	})}, nil)
	wantClass(t, err, errs.InvalidArgument, "no/such")
}

func TestRlimits(t *testing.T) {
	b := newBench(t)
	limits := func(p *specs.Process) {
		p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}, {Type: "RLIMIT_CORE", Soft: 0, Hard: 0}, {Type: "RLIMIT_AS", Soft: 100 << 20, Hard: 100 << 20}}
	}
	b.sleeper(func(s *specs.Spec) { limits(s.Process) })
	r, err := b.exec(nil, sh("ulimit -n; ulimit -Hn; ulimit -c; ulimit -v")...)
	if err != nil || r.out != "100\n200\n0\n102400\n" {
		t.Errorf("exec does not inherit the container's: %+v %v", r, err)
	}
	r, err = b.exec(func(s *agentproto.Start) {
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 50, Hard: 60}}
	}, sh("ulimit -n")...)
	if err != nil || r.out != "50\n" {
		t.Errorf("%+v %v", r, err)
	}
}

func TestSignals(t *testing.T) {
	b := newBench(t)
	ctx := b.ctx()
	b.sleeper()
	_, err := b.host.Start(ctx, agentproto.Start{ID: "e", Process: processSpec("sleep", "1000")})
	if err != nil {
		t.Fatal(err)
	}
	wantClass(t, b.host.Signal(ctx, agentproto.Signal{ID: "nobody", Signal: 15}), errs.NotFound, "nobody")
	wantClass(t, b.host.Signal(ctx, agentproto.Signal{ID: "e", Signal: 65}), errs.InvalidArgument, "65")
	wantClass(t, b.host.Release(ctx, "e"), errs.FailedPrecondition, "has not ended")
	if err := b.host.Signal(ctx, agentproto.Signal{ID: "e", Signal: 15}); err != nil {
		t.Fatal(err)
	}
	if e, err := b.host.Wait(ctx, "e"); err != nil || e.Code != 143 || e.Signal != 15 || e.OOM {
		t.Errorf("%+v %v", e, err)
	}
	wantClass(t, b.host.Signal(ctx, agentproto.Signal{ID: "e", Signal: 15}), errs.FailedPrecondition, "has ended")
	if e, err := b.host.Wait(ctx, "e"); err != nil || e.Code != 143 {
		t.Errorf("a second wait: %+v %v", e, err)
	}
	for range 2 {
		if err := b.host.Release(ctx, "e"); err != nil {
			t.Error(err)
		}
	}
	_, err = b.host.Wait(ctx, "e")
	wantClass(t, err, errs.NotFound, "e")
	if err := b.host.Signal(ctx, agentproto.Signal{ID: "init", Signal: 9, All: true}); err != nil {
		t.Fatal(err)
	}
	if e, err := b.host.Wait(ctx, "init"); err != nil || e.Code != 137 {
		t.Errorf("%+v %v", e, err)
	}
	_, err = b.exec(nil, "true")
	wantClass(t, err, errs.FailedPrecondition, "does not run")
}

// With the container everything in it ends, and it can be started again.
func TestContainerEndsAsAWhole(t *testing.T) {
	b := newBench(t)
	ctx := b.ctx()
	b.sleeper()
	out := b.collect("o")
	if _, err := b.host.Start(ctx, agentproto.Start{ID: "e", Process: processSpec(sh("sleep 1000 & sleep 1000")...), Stdout: "o"}); err != nil {
		t.Fatal(err)
	}
	_, err := b.host.Start(ctx, agentproto.Start{ID: "init", Spec: containerSpec(sh("true"))})
	wantClass(t, err, errs.AlreadyExists, "init")
	if err := b.host.Signal(ctx, agentproto.Signal{ID: "init", Signal: 9}); err != nil {
		t.Fatal(err)
	}
	first, second := <-b.exits, <-b.exits
	if first.ID != "e" || second.ID != "init" { // the kernel's order: a pid namespace ends before its init is gone
		t.Errorf("%v %v", first, second)
	}
	if s := <-out; s != "" {
		t.Errorf("%q", s)
	}
	if err := b.host.Release(ctx, "init"); err != nil {
		t.Fatal(err)
	}
	b.must(5, agentproto.Start{ID: "init", Spec: containerSpec(sh("exit 5"))})
}

// The end of a process is never told before the answer to its start, nor lost.
func TestShortLived(t *testing.T) {
	b := newBench(t)
	b.sleeper()
	for range 20 {
		if r, err := b.exec(nil, "true"); err != nil || r.exit.Code != 0 {
			t.Fatalf("%+v %v", r, err)
		}
		<-b.exits
	}
	if n := len(b.agent.procs.byID); n != 1 {
		t.Errorf("%d processes are kept", n)
	}
	if n := len(b.agent.streams.ends); n != 0 {
		t.Errorf("%d streams are kept", n)
	}
}

func TestStartChecksItsCaller(t *testing.T) {
	b := newBench(t)
	ctx := b.ctx()
	for name, s := range map[string]agentproto.Start{
		"neither":        {ID: "init"},
		"both":           {ID: "init", Spec: containerSpec(sh("true")), Process: processSpec("true")},
		"spec elsewhere": {ID: "x", Spec: containerSpec(sh("true"))},
		"process init":   {ID: "init", Process: processSpec("true")},
		"id":             {ID: "A/b", Process: processSpec("true")},
	} {
		_, err := b.host.Start(ctx, s)
		if !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b.agent.setup = setupNone
	_, err := b.host.Start(ctx, agentproto.Start{ID: "init", Spec: containerSpec(sh("true"))})
	wantClass(t, err, errs.FailedPrecondition, "not set up")
	b.agent.setup = setupDone
	_, err = b.host.Setup(ctx, agentproto.Setup{Hostname: "h", Time: testTime(), Entropy: make([]byte, 32), Root: agentproto.Root{Lower: "l"}})
	wantClass(t, err, errs.FailedPrecondition, "set up before")
}

func TestOnlyItsOwnDescriptors(t *testing.T) {
	b := newBench(t)
	const show = "ls /proc/self/fd | tr '\\n' ' '"
	want := "0 1 2 3 " // the last is ls's own
	if out := b.must(0, agentproto.Start{ID: "init", Spec: containerSpec(sh(show))}); out != want {
		t.Errorf("%q", out)
	}
	b.sleeper()
	if r, err := b.exec(nil, sh(show)...); err != nil || r.out != want {
		t.Errorf("%+v %v", r, err)
	}
}

// A container that has put itself into a cgroup below its own still takes
// processes.
func TestExecFollowsNestedCgroup(t *testing.T) {
	b := newBench(t)
	b.sleeper()
	c := b.agent.container
	sub := filepath.Join(c.cgroup.dir, "below")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := (&cgroup{sub}).write(setting{"cgroup.procs", strconv.Itoa(c.process.child.pid)}); err != nil {
		t.Fatal(err)
	}
	r, err := b.exec(nil, sh("grep ^0:: /proc/self/cgroup")...)
	if err != nil || r.out != "0::/below\n" {
		t.Errorf("%+v %v", r, err)
	}
}

func TestPowerOff(t *testing.T) {
	b := newBench(t)
	ctx := b.ctx()
	off := make(chan struct{})
	b.agent.off = func() { close(off) }
	b.sleeper()
	if _, err := b.host.Start(ctx, agentproto.Start{ID: "e", Process: processSpec(sh("sleep 1000 & sleep 1000")...)}); err != nil {
		t.Fatal(err)
	}
	if err := b.host.PowerOff(ctx); err != nil {
		t.Fatal(err)
	}
	<-off
	for range 2 {
		if e := <-b.exits; e.Code != 137 {
			t.Errorf("%+v", e)
		}
	}
	_, err := b.host.Start(ctx, agentproto.Start{ID: "init", Spec: containerSpec(sh("true"))})
	wantClass(t, err, errs.FailedPrecondition, "going off")
}

// A caller that goes away takes its half-made start along.
func TestCancelledStart(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(b.ctx())
	b.agent.modules.lazy = map[string][]string{"slow": {"slow.ko"}}
	b.agent.modules.load = func(string) error { cancel(); return nil }
	_, err := b.host.Start(ctx, agentproto.Start{ID: "init", Spec: containerSpec(sh("true"), func(s *specs.Spec) {
		s.Mounts = append([]specs.Mount{{Destination: "/x", Type: "slow"}}, s.Mounts...)
	})})
	wantClass(t, err, errs.Canceled, "")
	b.agent.procs.mu.Lock()
	defer b.agent.procs.mu.Unlock()
	for len(b.agent.procs.byID) != 0 { // the agent is at it
		b.agent.procs.mu.Unlock()
		runtime.Gosched()
		b.agent.procs.mu.Lock()
	}
}

// An init of ours stands before the process: line 15 of docs/conformance.md.
func TestInit(t *testing.T) {
	b := newBench(t)
	start := func(script string, more ...func(*specs.Spec)) agentproto.Start {
		return agentproto.Start{ID: "init", Spec: containerSpec(sh(script), more...), Init: true}
	}
	if out := b.must(42, start("echo $PPID; exit 42")); out != "1\n" {
		t.Errorf("%q", out)
	}
	b.must(128+9, start("kill -9 $$"))
	// Signals reach the process, from outside and from within.
	b.must(3, start("trap 'exit 3' TERM; kill -TERM 1; while :; do sleep 0.05; done"))
	// Whoever loses its parent is reaped.
	out := b.must(0, start(`for i in 1 2 3; do (sh -c 'exit 0' &) ; done
for i in $(seq 200); do n=$(grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l); [ $n = 0 ] && break; sleep 0.05; done; echo $n`))
	if out != "0\n" {
		t.Errorf("%q zombies", out)
	}
	// All of it is who the process is, and nothing of the agent is left open.
	out = b.must(0, start("cat /proc/1/status | grep -E '^(Uid|Gid|CapEff)' | tr -d '\\n'; ls /proc/self/fd | wc -l", func(s *specs.Spec) {
		s.Process.User = specs.User{UID: 1000, GID: 1000}
		withCaps()(s)
	}))
	if !strings.Contains(out, "Uid:\t1000\t1000\t1000\t1000Gid:\t1000\t1000\t1000\t1000CapEff:\t0000000000000000") {
		t.Errorf("%q", out)
	}
	s := start("true")
	s.Spec.Process.Args = []string{"no-such"}
	_, err := b.run(s, nil)
	wantClass(t, err, errs.NotFound, `"no-such": executable file not found in PATH`)
	// Limits of memory hold for the process, and do not starve us.
	out = b.must(0, start("ulimit -v", func(s *specs.Spec) {
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_AS", Soft: 64 << 20, Hard: 64 << 20}}
	}))
	if out != "65536\n" {
		t.Errorf("%q", out)
	}
	_, err = b.run(agentproto.Start{ID: "other", Process: &specs.Process{Args: sh("true"), Cwd: "/"}, Init: true}, nil)
	if err == nil {
		t.Error("a further process has an init")
	}
}

func TestGroups(t *testing.T) {
	b := newBench(t)
	writeFile(t, filepath.Join(b.root, "etc/group"), "root:x:0:\ndisk:x:6:\nvideo:x:44:\n", 0o644)
	s := agentproto.Start{ID: "init", Spec: containerSpec(sh("id -G")), User: "1000:44", Groups: []string{"disk", "77", "video", "disk"}}
	if out := b.must(0, s); out != "44 6 77\n" {
		t.Errorf("%q", out)
	}
	s.Groups = []string{"nobody-here"}
	_, err := b.run(s, nil)
	wantClass(t, err, errs.InvalidArgument, `no group "nobody-here"`)
}

func TestCopyUp(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "new")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(from, "d/e"), 0o750))
	writeFile(t, filepath.Join(from, "d/file"), "text", 0o640)
	must(os.Link(filepath.Join(from, "d/file"), filepath.Join(from, "same")))
	must(os.Symlink("/etc/passwd", filepath.Join(from, "link")))
	must(unix.Mkfifo(filepath.Join(from, "fifo"), 0o600))
	must(os.Chown(filepath.Join(from, "d"), 5, 6))
	must(unix.Chmod(filepath.Join(from, "d/file"), 0o4755))
	must(unix.Lsetxattr(filepath.Join(from, "d/file"), "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	must(os.Chtimes(from, time.Unix(1000, 0), time.Unix(2000, 0)))
	c := copier{ctx: t.Context(), linked: map[inode]string{}}
	must(c.tree(from, to))
	list := func(dir string) string {
		out, err := exec.Command("sh", "-c", "cd "+dir+" && find . -printf '%P %y %m %U:%G %l %n %T@\\n' | sort").Output()
		must(err)
		return string(out)
	}
	if got, want := list(to), list(from); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	var a, b unix.Stat_t
	must(unix.Stat(filepath.Join(to, "same"), &a))
	must(unix.Stat(filepath.Join(to, "d/file"), &b))
	if a.Ino != b.Ino || a.Mode&0o7777 != 0o4755 {
		t.Errorf("%+v %+v", a, b)
	}
	got := make([]byte, 64)
	if n, err := unix.Lgetxattr(filepath.Join(to, "same"), "security.capability", got); err != nil || n != 20 {
		t.Errorf("attribute of %d bytes: %v", n, err)
	}
}
