package e2e

import (
	"bufio"
	"context"
	"strings"
	"syscall"
	"testing"
)

const quick = "defaults: {image: busybox, cpus: 1, memory: 64MiB, stop_grace_period: 0s}\n"

// up --wait comes back when all run and are healthy, and fails where one is not.
func TestUpWait(t *testing.T) {
	s := scenario(t, quick+`
containers:
  web: {command: [sh, -c, "sleep 1; touch /ready; exec sleep 36000"], healthcheck: {test: "test -e /ready", interval: 100ms, timeout: 10s, retries: 100}}
  job: {command: ["true"]}
  after: {command: [sleep, "36000"], depends_on: {job: {condition: completed}}}
`)
	s.must("up", "--wait")
	if got := s.instances(); got["web-1"].Health != "healthy" || s.states() != "after-1=started job-1=stopped web-1=started" {
		t.Errorf("%+v", got)
	}
	s.must("up", "--wait", "web") // nothing to do: the same
	s.must("down")
	s.write(quick + `
containers:
  sick: {command: [sleep, "36000"], healthcheck: {test: "echo cannot >&2; false", interval: 100ms, timeout: 10s, retries: 2}}
  slow: {command: [sleep, "36000"], healthcheck: {test: "false", interval: 1s, timeout: 10s, retries: 1000}}
  gone: {command: [sh, -c, "exit 3"]}
  fine: {command: [sleep, "36000"]}
`)
	r := s.vz("up", "--wait", "--wait-timeout", "10")
	if r.code != 1 || strings.Contains(r.err, "fine-1: ") {
		t.Errorf("%s", r)
	}
	contains(t, "up --wait", r.err, "sick-1: it is unhealthy:", "cannot", "slow-1: it is neither running nor healthy within 10s", "gone-1: exited with 3")
	for _, wrong := range [][]string{{"--wait", "--no-start"}, {"--wait-timeout", "3"}, {"--wait", "--exit-code-from", "gone"}, {"-d", "--attach", "fine"},
		{"--attach", "nobody"}, {"--abort-on-container-exit", "--abort-on-container-failure"}} {
		if r := s.vz(append([]string{"up"}, wrong...)...); r.code != 2 {
			t.Errorf("%s", r)
		}
	}
}

// An attached up ends with the instance that it is told to look at, and stops the
// rest.
func TestUpAborts(t *testing.T) {
	s := scenario(t, quick+`
containers:
  db: {command: [sh, -c, "trap 'echo asked; exit 0' TERM; echo serving; while :; do sleep 0.1; done"], stop_grace_period: 60s}
  prepare: {command: ["true"]}
  tests: {command: [sh, -c, "echo testing; exit 7"], depends_on: {db: {}, prepare: {condition: completed}}}
  quiet: {command: [sh, -c, "echo noise; exec sleep 36000"]}
`)
	r := s.vz("up", "--exit-code-from", "tests", "--no-attach", "quiet")
	if r.code != 7 || strings.Contains(r.out, "noise") {
		t.Errorf("%s", r)
	}
	contains(t, "output", r.out, "testing", "serving")
	contains(t, "what is told", r.err, "tests-1 has ended: the stack is stopped")
	if got, want := s.states(), "db-1=stopped prepare-1=stopped quiet-1=stopped tests-1=stopped"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	s.must("down")
	if r := s.vz("up", "--abort-on-container-exit", "--attach", "tests", "tests"); r.code != 7 || strings.Contains(r.out, "serving") {
		t.Errorf("%s", r)
	}
	s.must("down")
	s.write(quick + `
containers:
  db: {command: [sleep, "36000"]}
  well: {command: ["true"]}
  bad: {command: [sh, -c, "exit 5"], depends_on: {well: {condition: completed}}}
  after: {command: ["true"], depends_on: {bad: {condition: completed}}}
`)
	if r := s.vz("up", "--abort-on-container-failure"); r.code != 1 || s.states() != "after-1=initialized bad-1=stopped db-1=stopped well-1=stopped" {
		t.Errorf("%s\n%s", r, s.states())
	}
	if r := s.vz("up", "--abort-on-container-failure", "bad", "db"); r.code != 5 || strings.Contains(s.states(), "started") {
		t.Errorf("%s\n%s", r, s.states())
	}
	if r := s.vz("up", "--abort-on-container-failure", "well"); r.code != 0 {
		t.Errorf("%s", r)
	}
}

// Whoever interrupts an attached up stops what it has started, and nothing else.
func TestUpInterrupted(t *testing.T) {
	s := scenario(t, quick+`
containers:
  before: {command: [sleep, "36000"]}
  web: {command: [sh, -c, "trap 'echo asked; exit 0' TERM; echo serving; while :; do sleep 0.1; done"], stop_grace_period: 60s}
`)
	s.must("up", "-d", "before")
	for _, more := range [][]string{nil, {"--abort-on-container-failure", "--attach", "web"}} {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		cmd := s.command(ctx, append([]string{"up"}, more...)...)
		out := bufio.NewScanner(must(cmd.StdoutPipe()))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for out.Scan() && !strings.Contains(out.Text(), "serving") {
		}
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		for out.Scan() {
		}
		if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 130 {
			t.Errorf("up %v ended with %v", more, err)
		}
		if got := s.states(); got != "before-1=started web-1=stopped" {
			t.Errorf("after up %v: %s", more, got)
		}
		if e := s.instances()["web-1"].Exit; e == nil || e.Code != 0 || !e.Requested {
			t.Errorf("it ended as %+v", e)
		}
	}
}
