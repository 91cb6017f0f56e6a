package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A stack comes up, an unchanged one is left alone, and down leaves nothing.
func TestHello(t *testing.T) {
	file, err := os.ReadFile("../../examples/hello/vzcompose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s := scenario(t, string(file))
	s.must("up", "-d")
	if got, want := s.states(), "client-1=running prepare-1=exited server-1=running worker-1=running worker-2=running"; got != want {
		t.Errorf("states %s, want %s", got, want)
	}
	before := s.instances()
	contains(t, "a second up", s.must("up", "-d").out, "nothing to do: 5 instances are as declared")
	for name, now := range s.instances() {
		if now.PID != before[name].PID || now.Boots != 1 {
			t.Errorf("%s was touched: shim %d, then %d; %d boots", name, before[name].PID, now.PID, now.Boots)
		}
	}
	s.eventually("they have written", func() bool {
		out := s.must("logs").out
		return strings.Contains(out, "prepare-1  | done") && strings.Contains(out, "worker-2   | I am worker-2") &&
			strings.Contains(out, "server: up as server-1")
	})
	if got := s.must("exec", "server", "hostname").out; got != "server-1\n" {
		t.Errorf("hostname %q", got)
	}
	s.must("down")
	if got := s.states(); got != "" {
		t.Errorf("after down: %s", got)
	}
	if _, err := os.Stat(filepath.Join(shared.home, "stacks", s.name)); !os.IsNotExist(err) {
		t.Errorf("the stack's folder stayed: %v", err)
	}
}

const pair = `
containers:
  keep: {image: busybox, cpus: 1, memory: 64MiB, command: [sleep, "3600"], stop_grace_period: 0s}
  change: {image: busybox, cpus: 1, memory: 64MiB, command: [sh, -c, "echo mark >> /mark; cat /mark; exec sleep 3600"], stop_grace_period: 0s}
`

// A changed field replaces its instance only, and the plan says which and how.
func TestChangeReplacesOneInstance(t *testing.T) {
	s := scenario(t, pair)
	s.must("up", "-d")
	wrote := func(boot, want string) { // what is started may not have come to writing yet
		s.eventually("boot "+boot+" writes", func() bool {
			return s.must("logs", "--no-log-prefix", "--boot", boot, "change").out == want
		})
	}
	wrote("1", "mark\n")
	before := s.instances()
	s.write(strings.Replace(pair, "change: {image: busybox, cpus: 1, memory: 64MiB", "change: {image: busybox, cpus: 1, memory: 96MiB", 1))
	contains(t, "plan", s.must("plan").out, "memory 64MiB → 96MiB", "change-1")
	if r := s.vz("plan", "--detailed-exitcode"); r.code != 2 {
		t.Errorf("plan --detailed-exitcode: status %d", r.code)
	}
	s.must("up", "-d")
	after := s.instances()
	if after["keep-1"].PID != before["keep-1"].PID {
		t.Error("keep-1 was replaced too")
	}
	if after["change-1"].PID == before["change-1"].PID || after["change-1"].Boots != 2 {
		t.Errorf("change-1 was not: %+v", after["change-1"])
	}
	if got := s.must("exec", "change", "cat", "/sys/fs/cgroup/memory.max").out; got != "100663296\n" {
		t.Errorf("memory.max %q", got)
	}
	wrote("2", "mark\nmark\n") // the writable layer is kept
}

// Three mistakes are three findings with their places, and nothing starts.
func TestMistakes(t *testing.T) {
	s := scenario(t, `containers:
  web:
    image: busybox
    restrat: always
    depends_on: [bd]
  db:
    image: busybox
    memory: much
`)
	r := s.vz("up", "-d")
	if r.code != 2 {
		t.Errorf("status %d", r.code)
	}
	contains(t, "stderr", r.err, "vzcompose.yaml:4:5: containers.web: unknown key \"restrat\"; did you mean \"restart\"?",
		"vzcompose.yaml:5:18:", "did you mean \"db\"?", "vzcompose.yaml:8:13:", "4 |     restrat: always")
	if _, err := os.Stat(filepath.Join(shared.home, "stacks", s.name)); !os.IsNotExist(err) {
		t.Errorf("something was made: %v", err)
	}
	s.write("containers: {}\n") // for the clean-up
}

const chain = `
defaults: {image: busybox, cpus: 1, memory: 64MiB, stop_grace_period: 0s}
containers:
  a: {command: [sleep, "3600"]}
  b: {command: [%s], depends_on: [a]}
  c: {command: [sleep, "3600"], depends_on: [b]}
  d: {command: [sleep, "3600"], depends_on: [c]}
  e: {command: [sleep, "3600"]}
`

// A failure skips what depends on it, with the cause; the rest comes up; the
// next up does what is missing and nothing else.
func TestChainWithAFailure(t *testing.T) {
	s := scenario(t, strings.Replace(chain, "%s", "/no/such/program", 1))
	r := s.vz("up", "-d")
	if r.code != 1 {
		t.Errorf("status %d", r.code)
	}
	contains(t, "summary", r.err, "2 started, 1 failed, 2 skipped", "because b-1 failed", "/no/such/program")
	if got := s.states(); !strings.Contains(got, "a-1=running") || !strings.Contains(got, "e-1=running") || !strings.Contains(got, "b-1=errored") {
		t.Errorf("states %s", got)
	}
	before := s.instances()
	s.write(strings.Replace(chain, "%s", `sleep, "3600"`, 1))
	s.must("up", "-d")
	if got, want := s.states(), "a-1=running b-1=running c-1=running d-1=running e-1=running"; got != want {
		t.Errorf("states %s", got)
	}
	after := s.instances()
	for _, name := range []string{"a-1", "e-1"} {
		if after[name].PID != before[name].PID {
			t.Errorf("%s was touched", name)
		}
	}
}

// The failure of a one-shot shows what it said last.
func TestFailedOneShotShowsItsOutput(t *testing.T) {
	s := scenario(t, `
defaults: {image: busybox, cpus: 1, memory: 64MiB, stop_grace_period: 0s}
containers:
  migrate: {command: [sh, -c, "echo table users is missing >&2; exit 3"]}
  web: {command: [sleep, "3600"], depends_on: {migrate: {condition: completed}}}
`)
	r := s.vz("up", "-d")
	if r.code != 1 {
		t.Errorf("status %d", r.code)
	}
	contains(t, "summary", r.err, "1 failed, 1 skipped", "exited with 3", "table users is missing")
}

// A named volume outlives down, and goes with down -v.
func TestVolume(t *testing.T) {
	s := scenario(t, `
containers:
  db:
    image: busybox
    cpus: 1
    memory: 64MiB
    command: [sh, -c, "date +%s%N >> /data/runs; cat /data/runs | wc -l; sync"]
    mounts: [{type: volume, source: data, destination: /data}]
volumes: {data: {size: 64MiB}}
`)
	count := func() string {
		s.must("up")
		out := s.must("logs", "--no-log-prefix", "--tail", "1").out
		return strings.TrimSpace(out)
	}
	if got := count(); got != "1" {
		t.Fatalf("first run counts %s", got)
	}
	s.must("down")
	if got := count(); got != "2" {
		t.Errorf("the volume did not outlive down: %s", got)
	}
	s.must("down", "-v")
	if got := count(); got != "1" {
		t.Errorf("the volume outlived down -v: %s", got)
	}
}
