//go:build linux

package guest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
)

// standIn takes the words of an OCI runtime, and does just enough: the container
// is a process in the right cgroup, without namespaces.
const standIn = `#!/bin/sh
echo "$@" >>/calls
[ "$1" = --version ] && { echo stand-in 1; exit; }
state=$2 log=$4 step=$7
shift 7
exec 3<&0
while [ $# -gt 1 ]; do
  case $1 in
    --bundle) bundle=$2; shift ;;
    --pid-file) pid=$2; shift ;;
    --process) process=$2; shift ;;
  esac
  shift
done
group=/sys/fs/cgroup/GROUP/container
case $step in
  create)
    [ -s $bundle/config.json ] && [ -d $bundle/rootfs/bin ] || exit 9
    mkdir $group/init
    { while [ ! -e $state/go ]; do sleep 0.01; done; echo hello; cat; exit 5; } <&3 &
    echo $! >$group/init/cgroup.procs
    echo $! >$pid ;;
  start) echo x >$state/go ;;
  exec)
    grep -q refuse $process && { echo '{"level":"error","msg":"it is refused"}' >$log; exit 1; }
    { sleep 0.2; echo exec; exit 6; } &
    echo $! >$group/init/cgroup.procs
    echo $! >$pid ;;
  delete) ;;
esac
`

func TestStandInRuntime(t *testing.T) {
	b := newBench(t)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) })
	b.agent.oci = filepath.Join(t.TempDir(), "oci")
	writeFile(t, filepath.Join(b.root, "bin/standin"), strings.ReplaceAll(standIn, "GROUP", filepath.Base(b.agent.cgroups)), 0o755)
	start := agentproto.Start{ID: "init", Runtime: "/bin/standin", User: "bob", Spec: containerSpec([]string{"anything"}, func(s *specs.Spec) {
		s.Process.Cwd = "/made/up"
	})}
	in, feed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan result, 1)
	go func() {
		r, err := b.run(start, in)
		if err != nil {
			t.Error(err)
		}
		ended <- r
	}()
	for {
		if c, err := b.agent.running(); err == nil && c.runtime != nil {
			break
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	r, err := b.exec(nil, "anything")
	if err != nil || r.out != "exec\n" || r.exit.Code != 6 {
		t.Errorf("a further process: %+v, %v", r, err)
	}
	_, err = b.exec(nil, "refuse")
	wantClass(t, err, errs.FailedPrecondition, "oci_runtime /bin/standin: exec: it is refused")
	_, err = b.exec(func(s *agentproto.Start) { s.User = "mallory" }, "anything")
	wantClass(t, err, errs.InvalidArgument, `no user "mallory"`)
	if st, err := b.agent.Stats(b.ctx(), agentproto.Empty{}); err != nil || st.CPU <= 0 {
		t.Errorf("statistics: %+v, %v", st, err)
	}
	if _, err := feed.WriteString("typed"); err != nil {
		t.Error(err)
	}
	_ = feed.Close()
	if r := <-ended; r.out != "hello\ntyped" || r.exit.Code != 5 {
		t.Errorf("it ended as %+v", r)
	}
	b.agent.mu.Lock()
	c := b.agent.container
	b.agent.mu.Unlock()
	if err := c.runtime.awaitRetired(b.ctx()); err != nil {
		t.Fatal(err)
	}
	calls, err := os.ReadFile(filepath.Join(b.root, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	var steps []string
	for line := range strings.Lines(string(calls)) {
		if f := strings.Fields(line); len(f) > 6 {
			steps = append(steps, f[6])
		}
	}
	if got := strings.Join(steps, " "); got != "create start exec exec delete" {
		t.Errorf("the steps were %s", got)
	}
	if _, err := os.Stat(b.agent.oci); err == nil {
		t.Error("its folder stays")
	}
	if _, err := os.Stat(filepath.Join(b.root, "made/up")); err != nil {
		t.Error(err)
	}
}

// A step that does not end is ended, with what it has started.
func TestRuntimeHangs(t *testing.T) {
	b := newBench(t)
	b.agent.oci = filepath.Join(t.TempDir(), "oci")
	writeFile(t, filepath.Join(b.root, "bin/slow"), "#!/bin/sh\nsleep 1000 &\nsleep 1000\n", 0o755)
	r, err := b.agent.newRuntime("/bin/slow")
	if err != nil {
		t.Fatal(err)
	}
	r.limit = 500 * time.Millisecond
	wantClass(t, r.check(b.ctx()), errs.DeadlineExceeded, "oci_runtime /bin/slow: --version: it took longer than 500ms")
	if all, _ := filepath.Glob(filepath.Join(b.agent.cgroups, "runtime-*")); len(all) > 0 {
		t.Errorf("cgroups are left: %q", all)
	}
}

// What a runtime that fails leaves is taken away, and the agent goes on.
func TestRuntimeFails(t *testing.T) {
	b := newBench(t)
	b.agent.oci = filepath.Join(t.TempDir(), "oci")
	for name, c := range map[string]struct {
		text  string
		class errs.Class
		want  string
	}{
		"absent":  {"", errs.NotFound, "oci_runtime /bin/absent: --version: \"/bin/absent\": no such file"},
		"mute":    {"#!/bin/sh\nexit 3\n", errs.Unknown, "oci_runtime /bin/mute: --version: it failed: status 3"},
		"stray":   {"#!/bin/sh\nwhile [ $# -gt 0 ]; do [ $1 = --pid-file ] && { sleep 1000 & echo $! >$2; }; shift; done\n", errs.NotFound, "oci_runtime /bin/stray: create: no orphan "},
		"broken":  {"#!/bin/sh\necho broken down >&2\nexit 1\n", errs.FailedPrecondition, "oci_runtime /bin/broken: --version: broken down"},
		"forget":  {"#!/bin/sh\n", errs.FailedPrecondition, "oci_runtime /bin/forget: create: it has left no pid file"},
		"foreign": {"#!/bin/sh\nwhile [ $# -gt 0 ]; do [ $1 = --pid-file ] && echo 2 >$2; shift; done\n", errs.NotFound, "oci_runtime /bin/foreign: create: no orphan 2"},
	} {
		if c.text != "" {
			writeFile(t, filepath.Join(b.root, "bin", name), c.text, 0o755)
		}
		_, err := b.run(agentproto.Start{ID: "init", Runtime: "/bin/" + name, Spec: containerSpec([]string{"true"})}, nil)
		wantClass(t, err, c.class, c.want)
		if _, err := os.Stat(b.agent.oci); err == nil {
			t.Errorf("%s: its folder stays", name)
		}
		if all, _ := filepath.Glob(filepath.Join(b.agent.cgroups, "*")); strings.Contains(strings.Join(all, " "), "/runtime-") {
			t.Errorf("%s: cgroups are left: %q", name, all)
		}
	}
	b.sleeper()
}
