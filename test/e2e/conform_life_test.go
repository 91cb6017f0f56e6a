package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/store"
)

// The life of instances: lines 3, 17, 26, 27, 42, 44, 50.
func TestConformLife(t *testing.T) {
	s := scenario(t, `
defaults: {image: busybox, cpus: 1, memory: 64MiB, stop_grace_period: 0s}
containers:
  one: {command: [sleep, "36000"]}
  two: {command: [sleep, "36000"], mounts: [{type: volume, source: data, destination: /data}]}
  polite: {command: [sh, -c, "trap 'echo asked; exit 3' USR1; echo ready; while :; do sleep 0.1; done"], stop_signal: SIGUSR1, stop_grace_period: 30s}
  deaf: {command: [sh, -c, "trap '' TERM; echo ready; while :; do sleep 0.1; done"], stop_grace_period: 300ms}
volumes: {data: {size: 64MiB}}
`)
	behave(t, 42, "create, start, stop, start again; the writable layer stays", func(t *testing.T) {
		s.must("create", "one")
		s.must("stop", "one") // it has not run: fine
		if got := s.states(); got != "one-1=created" {
			t.Errorf("created: %s", got)
		}
		s.must("start", "one")
		s.must("exec", "one", "sh", "-c", "echo kept >/mark")
		s.must("stop", "one")
		s.must("stop", "one")
		s.must("start", "one")
		if got := s.says(t, "one", "cat /mark"); got != "kept" {
			t.Errorf("after another start the file has %q", got)
		}
		s.must("restart", "one")
		if got := s.says(t, "one", "cat /mark"); got != "kept" {
			t.Errorf("after a restart the file has %q", got)
		}
		if i := s.instances()["one-1"]; i.Boots != 3 {
			t.Errorf("%d boots", i.Boots)
		}
	})
	s.must("up", "-d")
	behave(t, 26, "two containers of an image do not see each other's writes", func(t *testing.T) {
		before := s.says(t, "two", "sha256sum /etc/passwd; ls /")
		s.must("exec", "one", "sh", "-c", "echo x >>/etc/passwd; rm /bin/vi; mkdir /own")
		if after := s.says(t, "two", "sha256sum /etc/passwd; ls /"); after != before {
			t.Errorf("before %q, after %q", before, after)
		}
	})
	behave(t, 44, "the stop signal, its time, and SIGKILL", func(t *testing.T) {
		for _, c := range []string{"polite", "deaf"} {
			s.eventually(c+" is ready", func() bool { return strings.Contains(s.must("logs", c).out, "ready") })
		}
		s.must("stop", "polite", "deaf")
		all := s.instances()
		if e := all["polite-1"].Exit; e == nil || e.Code != 3 || !strings.Contains(s.must("logs", "polite").out, "asked") {
			t.Errorf("polite: %+v", e)
		}
		if e := all["deaf-1"].Exit; e == nil || e.Code != 137 || e.Signal != "SIGKILL" {
			t.Errorf("deaf: %+v", e)
		}
	})
	behave(t, 27, "a volume survives down and up, and goes with down -v", func(t *testing.T) {
		s.must("exec", "two", "sh", "-c", "echo kept >/data/f")
		s.must("down")
		s.must("up", "-d", "two")
		if got := s.says(t, "two", "cat /data/f"); got != "kept" {
			t.Errorf("after down and up it has %q", got)
		}
		s.must("down", "-v")
		s.must("up", "-d", "two")
		if got := s.says(t, "two", "ls /data | grep -v lost+found | wc -l"); got != "0" {
			t.Errorf("after down -v there are %s files", got)
		}
	})
}

func TestConformEnds(t *testing.T) {
	s := scenario(t, `
defaults: {image: busybox, cpus: 1, memory: 64MiB, stop_grace_period: 0s}
containers:
  hog: {command: [tail, /dev/zero], memory: 32MiB}
  often: {command: [sh, -c, "exit 9"], restart: "on-failure:2"}
  ever: {command: [sleep, "36000"], restart: always}
`)
	s.must("up", "-d", "hog", "often", "ever")
	behave(t, 17, "over the memory limit: killed, and said so", func(t *testing.T) {
		s.vz("wait", "hog")
		if e := s.instances()["hog-1"].Exit; e == nil || !e.OOM || e.Code != 137 {
			t.Errorf("it ended as %+v", e)
		}
		contains(t, "ps", s.must("ps").out, "out of memory")
	})
	behave(t, 50, "restart policies, with back-off", func(t *testing.T) {
		if r := s.vz("wait", "often"); r.code != 9 {
			t.Errorf("%s", r)
		}
		if i := s.instances()["often-1"]; i.Restarts != 2 || i.Boots != 3 {
			t.Errorf("restarted %d times, %d boots", i.Restarts, i.Boots)
		}
		before := s.instances()["ever-1"]
		s.must("kill", "ever")
		s.eventually("it runs again", func() bool {
			i := s.instances()["ever-1"]
			return i.Boots > before.Boots && i.State == "running"
		})
		s.must("stop", "ever")
		if got := s.instances()["ever-1"].State; got != "exited" {
			t.Errorf("stopped, it is %s", got)
		}
	})
}

func TestConformNotThere(t *testing.T) {
	s := scenario(t, `
containers:
  ghost: {image: busybox, cpus: 1, memory: 64MiB, command: [no-such-program]}
`)
	behave(t, 3, "an unknown executable: the start fails and names it, and nothing runs", func(t *testing.T) {
		r := s.vz("up", "-d")
		if r.code != 1 || !strings.Contains(r.err, "no-such-program") {
			t.Errorf("%s", r)
		}
		i := s.instances()["ghost-1"]
		if i.State != "errored" {
			t.Errorf("it is %s", i.State)
		}
		// The end of a shim is its lock's: the process has nothing left to do then,
		// but the kernel may take a moment more to take it away.
		if alive, err := (store.Home{Dir: shared.home}).Alive(s.name, "ghost-1"); err != nil || alive {
			t.Errorf("its shim is there %s later: %v", time.Since(i.Finished), err)
		}
	})
}
