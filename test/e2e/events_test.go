package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"strings"
	"syscall"
	"testing"

	"github.com/vzcompose/vzcompose/internal/journal"
)

// What happens to a stack is told as it happens, also where the stack goes and
// comes again, and afterwards.
func TestEvents(t *testing.T) {
	s := scenario(t, `
defaults: {image: busybox, cpus: 1, memory: 64MiB, stop_grace_period: 0s}
containers:
  web: {command: [sleep, "36000"]}
  job: {command: [sh, -c, "exit 3"], mounts: ["data:/data"]}
volumes: {data: {size: 16MiB}}
`)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	follow := s.command(ctx, "events", "--json", "--since", "1h")
	out, err := follow.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	seen := bufio.NewScanner(out)
	sees := func(words string) journal.Entry {
		t.Helper()
		var all []string
		for seen.Scan() {
			var e journal.Entry
			if err := json.Unmarshal(seen.Bytes(), &e); err != nil {
				t.Fatal(err)
			}
			all = append(all, seen.Text())
			if words == e.Type+" "+e.Action+" "+e.Name {
				return e
			}
		}
		t.Fatalf("never %q, but\n%s", words, strings.Join(all, "\n"))
		return journal.Entry{}
	}
	s.must("up", "-d", "web")
	s.must("kill", "-s", "CONT", "web")
	sees("container kill web-1")
	s.must("up", "-d")
	sees("volume create data")
	sees("container create job-1")
	if e := sees("container die job-1"); e.Attributes["exit_code"] != "3" || e.Container != "job" {
		t.Errorf("%+v", e)
	}
	s.must("exec", "web", "true", "secret")
	if e := sees("container exec_start web-1"); e.Attributes["command"] != "true" {
		t.Errorf("%+v", e)
	}
	sees("container exec_die web-1")
	s.must("pause", "web")
	s.must("unpause", "web")
	sees("container pause web-1")
	sees("container unpause web-1")
	told := s.must("events", "--since", "1h", "--until", "0s", "job").out
	contains(t, "events", told, " container die job-1 (exit_code=3)")
	if strings.Contains(told, "web-1") {
		t.Errorf("of job alone:\n%s", told)
	}
	s.must("down", "-v")
	sees("container destroy web-1")
	s.must("up", "-d", "web")
	sees("container start web-1")
	if err := follow.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	for seen.Scan() {
	}
	if err := follow.Wait(); err == nil || follow.ProcessState.ExitCode() != 130 {
		t.Errorf("it ended with %v", err)
	}
}
