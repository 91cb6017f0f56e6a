package e2e

import (
	"bufio"
	"context"
	"strings"
	"syscall"
	"testing"
)

const quick = "defaults: {image: busybox, cpus: 1, memory: 64MiB, stop_grace_period: 0s}\n"

// Ctrl-C of an attached up stops the containers that it means, found running or
// not, each in its own way. What else there is to up's ends, the scripts of
// internal/cli have.
func TestUpInterrupted(t *testing.T) {
	s := scenario(t, quick+`
containers:
  before: {command: [sleep, "36000"]}
  web: {command: [sh, -c, "trap 'echo asked; exit 0' TERM; echo serving; while :; do sleep 0.1; done"], stop_grace_period: 60s}
`)
	s.must("up", "-d", "before")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := s.command(ctx, "up", "--abort-on-container-failure", "--attach", "web")
	out := bufio.NewScanner(must(cmd.StdoutPipe()))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for out.Scan() && !strings.Contains(out.Text(), "serving") {
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	asked := false
	for out.Scan() {
		asked = asked || strings.Contains(out.Text(), "asked")
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 130 || !asked {
		t.Errorf("up ended with %v; what was written on the way out was shown: %v", err, asked)
	}
	if got := s.states(); got != "before-1=exited web-1=exited" {
		t.Errorf("after up: %s", got)
	}
	if e := s.instances()["web-1"].Exit; e == nil || e.Code != 0 || !e.Requested {
		t.Errorf("it ended as %+v", e)
	}
}
