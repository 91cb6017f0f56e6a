//go:build linux

package guest

import (
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

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
