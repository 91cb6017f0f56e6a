package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/filelock"
	"github.com/vzcompose/vzcompose/internal/store"
)

// A volume that several machines write to: filled by one, seen by all at once, with
// locks that hold between them and against the host.
func TestSeveralWriters(t *testing.T) {
	program := buildProgram(t, "locks")
	s := scenario(t, `
defaults: {image: busybox, cpus: 1, memory: 64MiB, stop_grace_period: 0s, command: [sleep, "36000"]}
containers:
  job: {mounts: ["data:/etc"], command: [sh, -c, "echo filled >/etc/job"], restart: "no"}
  one: {mounts: ["data:/data", "./bin:/bin2:ro"], depends_on: {job: {condition: service_completed_successfully}}}
  two: {mounts: ["data:/data", "./bin:/bin2:ro"], depends_on: {job: {condition: service_completed_successfully}}}
  reader: {mounts: ["data:/data:ro"], depends_on: {job: {condition: service_completed_successfully}}}
volumes: {data: {}}
`)
	host := filepath.Join(must(store.Locate(os.LookupEnv)).Volumes(s.name), "data.dir", "data")
	bin := filepath.Join(s.dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "locks"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	s.must("up", "-d")
	contains(t, "the kind", s.must("volume", "inspect", s.name+"/data").out, `"kind": "directory"`, "may write")
	// passwd is the image's, of what is filled where the job mounts it.
	s.sh("one", "cat /data/job; grep -c root: /data/passwd; echo first >/data/seen; ln -s seen /data/link; /bin2/locks map /data/seen").
		want(t, 0, "filled\n1\nno such device\n")
	// What one does the others see with their next call, in a file that is open too.
	s.sh("two", "exec 3</data/seen; cat /data/link; stat -c %s /data/seen; rm /data/link; echo second, and longer >>/data/seen; cat <&3").
		want(t, 0, "first\n6\nfirst\nsecond, and longer\n")
	s.sh("one", "stat -c %s /data/seen; ls /data/link 2>&1 | grep -c 'No such'").want(t, 0, "25\n1\n")
	s.sh("reader", "cat /data/seen; (echo x >/data/seen) 2>&1 | grep -c Read-only").want(t, 0, "first\nsecond, and longer\n1\n")

	const lines, each = 10000, 20
	for _, kind := range []string{"flock", "fcntl"} {
		began := time.Now()
		var both sync.WaitGroup
		for _, c := range []string{"one", "two"} {
			both.Go(func() {
				s.sh(c, fmt.Sprintf("/bin2/locks append %s /data/%s %s %d %d", kind, kind, c, lines, each)).want(t, 0, "")
			})
		}
		both.Wait()
		t.Logf("%s: %d lines of two machines in %s", kind, 2*lines, time.Since(began).Round(time.Millisecond))
		b, err := os.ReadFile(filepath.Join(host, kind))
		if err != nil {
			t.Fatal(err)
		}
		next := map[string]int{}
		for line := range strings.Lines(string(b)) {
			name, _, _ := strings.Cut(line, " ")
			if line != fmt.Sprintf("%s %d\n", name, next[name]) {
				t.Fatalf("%s: %q after %d lines of %s", kind, line, next[name], name)
			}
			next[name]++
		}
		if next["one"] != lines || next["two"] != lines || len(next) != 2 {
			t.Errorf("%s: %v", kind, next)
		}
	}

	// Who is killed frees its locks; another machine that waits gets them.
	s.must("exec", "-d", "one", "sh", "-c", "for k in flock fcntl; do /bin2/locks hold $k /data/lock.$k >/data/held.$k & done; wait")
	s.eventually("one has them", func() bool {
		flock, ferr := os.ReadFile(filepath.Join(host, "held.flock"))
		fcntl, err := os.ReadFile(filepath.Join(host, "held.fcntl"))
		return ferr == nil && err == nil && string(flock)+string(fcntl) == "held\nheld\n"
	})
	// The host's own view: filelock.Held asks by fcntl.
	if have, err := filelock.Held(filepath.Join(host, "lock.fcntl")); err != nil || !have {
		t.Errorf("the host sees no lock: %v, %v", have, err)
	}
	const busy = "resource temporarily unavailable\n"
	s.sh("two", "for k in flock fcntl; do /bin2/locks try $k /data/lock.$k; done").want(t, 0, busy+busy)
	// Who waits cannot be killed in its machine, but is when its container stops.
	s.must("exec", "-d", "two", "sh", "-c", "/bin2/locks take flock /data/lock.flock & "+
		"until grep -qs request_wait_answer /proc/$!/task/*/wchan; do :; done; echo waits >/data/waits; wait")
	s.eventually("two waits", func() bool {
		b, err := os.ReadFile(filepath.Join(host, "waits"))
		return err == nil && string(b) == "waits\n"
	})
	s.must("stop", "two")
	if two := s.instances()["two-1"]; strings.Contains(two.Cause, "lost") {
		t.Errorf("two-1 was stopped by the end of its machine: %s", two.Cause)
	}
	s.must("start", "two")
	var taken sync.WaitGroup
	for _, kind := range []string{"flock", "fcntl"} {
		taken.Go(func() { s.sh("two", "/bin2/locks take "+kind+" /data/lock."+kind).want(t, 0, "taken\n") })
	}
	kill9(t, s.qemuOf("one-1"))
	taken.Wait()
	s.must("down", "-v")
}
