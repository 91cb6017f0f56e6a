//go:build linux

package guest

import (
	"runtime"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/seccomp"
)

// filterFrom is that of a profile's text, "" for the default.
func filterFrom(t *testing.T, text string, caps ...string) *agentproto.Filter {
	t.Helper()
	p, err := seccomp.Default(), error(nil)
	if text != "" {
		p, err = seccomp.Decode([]byte(text))
	}
	if err != nil {
		t.Fatal(err)
	}
	f, err := seccomp.Compile(p, seccomp.Target{Arch: runtime.GOARCH, Caps: caps})
	if err != nil {
		t.Fatal(err)
	}
	return &agentproto.Filter{Program: f.Program, Flags: f.Flags}
}

const showRights = "grep -E '^(Cap(Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t\\n'"

// The filter holds with and without the no-new-privileges bit, for root and for
// others, and the right that loading it takes is gone.
func TestFilter(t *testing.T) {
	b := newBench(t)
	start := func(want string, more ...func(*specs.Spec)) {
		t.Helper()
		s := agentproto.Start{ID: "init", Spec: containerSpec(sh(showRights), more...), Filter: filterFrom(t, "")}
		if out := b.must(0, s); out != want {
			t.Errorf("%s, want %s", out, want)
		}
	}
	noNew := func(s *specs.Spec) { s.Process.NoNewPrivileges = true }
	user := func(s *specs.Spec) { s.Process.User.UID = 1000 }
	ambient := func(s *specs.Spec) {
		c := s.Process.Capabilities
		c.Ambient, c.Inheritable = []string{"CAP_KILL"}, []string{"CAP_KILL"}
	}
	const none, chown, kill = "0000000000000000", "0000000000000001", "0000000000000020"
	start("CapPrm:" + none + "CapEff:" + none + "CapBnd:" + none + "CapAmb:" + none + "NoNewPrivs:0Seccomp:2")
	start("CapPrm:"+chown+"CapEff:"+chown+"CapBnd:"+chown+"CapAmb:"+none+"NoNewPrivs:0Seccomp:2", withCaps("CAP_CHOWN"))
	start("CapPrm:"+chown+"CapEff:"+chown+"CapBnd:"+chown+"CapAmb:"+none+"NoNewPrivs:1Seccomp:2", withCaps("CAP_CHOWN"), noNew)
	start("CapPrm:"+none+"CapEff:"+none+"CapBnd:"+chown+"CapAmb:"+none+"NoNewPrivs:0Seccomp:2", withCaps("CAP_CHOWN"), user)
	start("CapPrm:"+none+"CapEff:"+none+"CapBnd:"+chown+"CapAmb:"+none+"NoNewPrivs:1Seccomp:2", withCaps("CAP_CHOWN"), user, noNew)
	start("CapPrm:"+kill+"CapEff:"+kill+"CapBnd:"+kill+"CapAmb:"+kill+"NoNewPrivs:0Seccomp:2", withCaps("CAP_KILL"), ambient, user)
}

const seccompLine = "grep ^Seccomp: /proc/self/status"

func TestNoFilter(t *testing.T) {
	b := newBench(t)
	b.sleeper()
	if r, err := b.exec(nil, sh(seccompLine)...); err != nil || r.out != "Seccomp:\t0\n" {
		t.Errorf("without a filter: %+v %v", r, err)
	}
	for name, s := range map[string]agentproto.Start{
		"a further process with a filter": {ID: "other", Process: &specs.Process{Args: sh("true"), Cwd: "/"}, Filter: filterFrom(t, "")},
		"the container unfiltered":        {ID: "init", Spec: containerSpec(sh("true")), Unfiltered: true},
	} {
		if _, err := b.run(s, nil); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFilterOfFurtherProcesses(t *testing.T) {
	b := newBench(t)
	if _, err := b.agent.Start(t.Context(), agentproto.Start{ID: "init", Spec: containerSpec([]string{"sleep", "1000"}), Filter: filterFrom(t, "")}); err != nil {
		t.Fatal(err)
	}
	if r, err := b.exec(nil, sh(seccompLine+"; grep ^Seccomp: /proc/1/status; unshare -m true")...); err != nil ||
		!strings.HasPrefix(r.out, "Seccomp:\t2\nSeccomp:\t2\n") || r.exit.Code == 0 {
		t.Errorf("%+v %v", r, err)
	}
	if out := b.must(0, agentproto.Start{ID: "free", Process: &specs.Process{Args: sh(seccompLine), Cwd: "/"}, Unfiltered: true}); out != "Seccomp:\t0\n" {
		t.Errorf("unfiltered: %q", out)
	}
	_, err := b.exec(nil, "foo")
	wantClass(t, err, errs.NotFound, `"foo": executable file not found in PATH`)
}

// Whatever a profile refuses but execve: the process starts, and what is wrong
// with the command is said.
func TestNarrowFilters(t *testing.T) {
	b := newBench(t)
	writeFile(t, b.root+"/bin/nonsense", "\x01\x02", 0o755)
	for _, action := range []string{"SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"} {
		narrow := filterFrom(t, `{"defaultAction": "`+action+`", "syscalls": [{"names": ["execve", "exit_group"], "action": "SCMP_ACT_ALLOW"}]}`)
		for _, noNew := range []bool{false, true} {
			with := func(s *specs.Spec) { s.Process.NoNewPrivileges = noNew; s.Process.User.UID = 7 }
			_, err := b.run(agentproto.Start{ID: "init", Spec: containerSpec([]string{"true"}, with), Filter: narrow}, nil)
			if err != nil { // what became of it is the profile's doing
				t.Errorf("%s, %v: %v", action, noNew, err)
			}
			for _, c := range []struct {
				command string
				class   errs.Class
				text    string
			}{
				{"foo", errs.NotFound, `"foo": executable file not found in PATH`},
				{"/bin", errs.PermissionDenied, "is a directory"},
				{"/etc/passwd", errs.PermissionDenied, "permission denied"},
			} {
				_, err := b.run(agentproto.Start{ID: "init", Spec: containerSpec([]string{c.command}, with), Filter: narrow}, nil)
				wantClass(t, err, c.class, c.text)
			}
		}
	}
	_, err := b.run(agentproto.Start{ID: "init", Spec: containerSpec([]string{"nonsense"}), Filter: filterFrom(t, "")}, nil)
	wantClass(t, err, errs.InvalidArgument, "not an executable for this machine")
	_, err = b.run(agentproto.Start{ID: "init", Spec: containerSpec([]string{"true"}), Filter: &agentproto.Filter{Program: make([]byte, 16)}}, nil)
	wantClass(t, err, errs.InvalidArgument, "the kernel does not take its program")
}

func TestFilterBesideLimitsOfMemory(t *testing.T) {
	b := newBench(t)
	out := b.must(0, agentproto.Start{ID: "init", Filter: filterFrom(t, ""), Spec: containerSpec(sh("ulimit -v; "+showRights), func(s *specs.Spec) {
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_AS", Soft: 64 << 20, Hard: 64 << 20}}
	})})
	if !strings.HasPrefix(out, "65536\n") || !strings.HasSuffix(out, "Seccomp:2") {
		t.Errorf("%q", out)
	}
}

// An init has the filter with all its threads, and no more rights than before.
func TestFilterOfAnInit(t *testing.T) {
	b := newBench(t)
	const threads = "cat /proc/1/task/*/status | grep -E '^(CapEff|CapPrm|Seccomp):' | sort | uniq | tr -d '\\t\\n'; echo; " + showRights
	for _, c := range []struct {
		uid  uint32
		want string
	}{
		{0, "CapEff:0000000000000001"},
		{1000, "Seccomp:2"},
	} {
		out := b.must(0, agentproto.Start{ID: "init", Init: true, Filter: filterFrom(t, ""), Spec: containerSpec(sh(threads), withCaps("CAP_CHOWN"), func(s *specs.Spec) {
			s.Process.User.UID = c.uid
			s.Mounts = append(s.Mounts, specs.Mount{Type: "proc", Source: "proc", Destination: "/proc"})
		})})
		init, own, _ := strings.Cut(out, "\n")
		// With cgo, as under the race detector, other threads keep their rights (see
		// supervise).
		if !strings.Contains(init, c.want) || strings.Contains(init, "Seccomp:0") || strings.Contains(init, "0000200000") || !strings.HasSuffix(own, "Seccomp:2") {
			t.Errorf("user %d: %q", c.uid, out)
		}
	}
}

func TestParseFilter(t *testing.T) {
	for _, f := range []*agentproto.Filter{
		{}, {Program: make([]byte, 7)}, {Program: make([]byte, agentproto.MaxFilter+8)}, {Program: make([]byte, 8), Flags: 1}, {Program: make([]byte, 8), Flags: 8},
	} {
		if _, err := parseFilter(f); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%d bytes, flags %#x: %v", len(f.Program), f.Flags, err)
		}
	}
	for _, f := range []*agentproto.Filter{nil, {Program: make([]byte, 8)}, {Program: make([]byte, agentproto.MaxFilter), Flags: filterFlags}} {
		if _, err := parseFilter(f); err != nil {
			t.Error(err)
		}
	}
}
