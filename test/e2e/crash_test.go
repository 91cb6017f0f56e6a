package e2e

import (
	"context"
	"strings"
	"testing"
)

const three = `
defaults: {image: busybox, cpus: 1, memory: 64MiB, stop_grace_period: 0s, command: [sleep, "3600"]}
containers:
  a: {}
  b: {depends_on: [a]}
  c: {depends_on: [b]}
`

// kill -9 of the command while it brings up, of a shim, and of a machine: ps
// tells the truth each time, up heals it, and down leaves nothing.
func TestKilledProcesses(t *testing.T) {
	s := scenario(t, three)
	all := "a-1=running b-1=running c-1=running"

	cmd := s.command(context.Background(), "up", "-d")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.eventually("a-1 is on its way", func() bool { return strings.Contains(s.states(), "a-1=starting") })
	kill9(t, cmd.Process.Pid)
	_ = cmd.Wait() // it was killed
	s.eventually("a-1 comes up without the command", func() bool { return strings.Contains(s.states(), "a-1=running") })
	if got := s.states(); got != "a-1=running" && got != "a-1=running b-1=created c-1=created" {
		t.Errorf("after the command was killed: %s", got)
	}
	a := s.instances()["a-1"].PID
	s.must("up", "-d")
	if got := s.states(); got != all {
		t.Fatalf("not healed: %s", got)
	}
	if s.instances()["a-1"].PID != a {
		t.Error("a-1 was started again")
	}

	kill9(t, s.instances()["b-1"].PID)
	s.eventually("ps sees the lost shim", func() bool { return strings.Contains(s.states(), "b-1=errored") })
	contains(t, "cause", s.instances()["b-1"].Cause, "shim was lost")
	contains(t, "plan", s.must("plan").out, "shim was lost")
	s.must("up", "-d")
	if got := s.states(); got != all {
		t.Fatalf("not healed: %s", got)
	}

	kill9(t, s.qemuOf("c-1"))
	s.eventually("ps sees the lost machine", func() bool { return strings.Contains(s.states(), "c-1=errored") })
	contains(t, "cause", s.instances()["c-1"].Cause, "SIGKILL")
	s.must("up", "-d")
	if got := s.states(); got != all {
		t.Fatalf("not healed: %s", got)
	}
	s.must("down")
	if got := s.states(); got != "" {
		t.Errorf("after down: %s", got)
	}
}
