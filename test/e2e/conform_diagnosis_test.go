package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/journal"
)

const diagnoses = `
defaults: {image: busybox, cpus: 1, memory: 64MiB, stop_grace_period: 0s}
containers:
  panics:
    privileged: true
    command: [sh, -c, "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger; sleep 36000"]
  eats: {command: [tail, /dev/zero], memory: 32MiB}
  fills: {command: [dd, if=/dev/zero, of=/big, bs=64k], writable_layer: {size: 16MiB}}
  fails: {command: ["false"]}
`

// diagnosis is how an end is told, everywhere.
type diagnosis struct {
	ps, event, wait string
	up              string // to the one who waits for its work
	json            func(shown) bool
}

const panicked = "kernel panic: sysrq triggered crash (the machine was lost: its kernel panicked or reset itself)"

func diagnosed() map[string]diagnosis {
	return map[string]diagnosis{
		"panics": {
			ps: "errored: " + panicked, event: "container fail panics-1 (cause=" + panicked + ")", wait: "panics-1: " + panicked, up: panicked,
			json: func(i shown) bool {
				return i.State == "errored" && i.Exit == nil && i.Cause == panicked
			},
		},
		"eats": {
			ps: "exited (137, out of memory)", event: "container die eats-1 (cause=out of memory, exit_code=137, signal=SIGKILL)",
			wait: "eats-1 exited with 137: out of memory", up: "exited with 137: out of memory",
			json: func(i shown) bool { return i.Exit != nil && i.Exit.OOM && !i.Exit.Full && i.Exit.Code == 137 },
		},
		"fills": {
			ps: "exited (1, writable layer is full)", event: "container die fills-1 (cause=its writable layer is full, exit_code=1)",
			wait: "fills-1 exited with 1: its writable layer is full", up: "exited with 1: its writable layer is full",
			json: func(i shown) bool { return i.Exit != nil && i.Exit.Full && !i.Exit.OOM && i.Exit.Code == 1 },
		},
		"fails": {
			ps: "exited (1) ", event: "container die fails-1 (exit_code=1)\n", wait: "fails-1 exited with 1\n", up: "exited with 1\n",
			json: func(i shown) bool { return i.Exit != nil && !i.Exit.Full && !i.Exit.OOM && i.Exit.Code == 1 },
		},
	}
}

// How an instance ended is told apart wherever it is told: by ps, wait, events,
// inspect, and up.
func TestConformDiagnosis(t *testing.T) {
	s := scenario(t, diagnoses)
	s.must("up", "-d")
	for _, x := range []struct {
		line       int
		what, name string
	}{
		{47, "a guest kernel panic is reported as such, with its text", "panics"},
		{17, "an out-of-memory kill is reported as such", "eats"},
		{17, "a full writable layer is reported as such", "fills"},
		{17, "a failure without such a reason is given none", "fails"},
	} {
		behave(t, x.line, x.what, func(t *testing.T) { s.diagnose(t, x.name, diagnosed()[x.name]) })
	}
	t.Run("of a dependency", func(t *testing.T) {
		s.must("down")
		s.write(diagnoses + `  after:
    depends_on: {panics: {condition: completed}, eats: {condition: completed}, fills: {condition: completed}, fails: {condition: completed}}
`)
		r := s.vz("up", "-d")
		if r.code != 1 || !strings.Contains(r.err, "4 failed, 1 skipped") {
			t.Errorf("%s", r)
		}
		for name, d := range diagnosed() {
			contains(t, "up", r.err, "await completed container/"+name+"-1: "+d.up)
		}
	})
}

// diagnose checks how the end of a container's only instance is told.
func (s *stack) diagnose(t *testing.T, name string, want diagnosis) {
	t.Helper()
	r := s.vz("wait", name)
	contains(t, "wait", r.out+r.err, want.wait)
	if r.code == 0 {
		t.Errorf("%s", r)
	}
	contains(t, "ps", s.must("ps", name).out, want.ps)
	if i := s.instances()[name+"-1"]; !want.json(i) {
		t.Errorf("ps --format json: %+v, exit %+v", i, i.Exit)
	}
	var seen shown
	if err := json.Unmarshal([]byte(s.must("inspect", name).out), &seen); err != nil || !want.json(seen) {
		t.Errorf("inspect: %+v, %v", seen, err)
	}
	contains(t, "events", s.must("events", "--since", "1h", "--until", "0s", name).out, want.event)
	told := false
	for line := range strings.Lines(s.must("events", "--since", "1h", "--until", "0s", "--json", name).out) {
		var e journal.Entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		cause := e.Attributes["cause"]
		told = told || (e.Action == "die" || e.Action == "fail") && (cause == "" || strings.Contains(want.event, "cause="+cause))
	}
	if !told {
		t.Errorf("events --json does not tell")
	}
}
