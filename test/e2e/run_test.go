package e2e

import (
	"os"
	"strings"
	"testing"
)

// One more instance of a container, for one command: with what it depends on,
// with our streams and its status, and gone afterwards where that is asked for.
func TestRun(t *testing.T) {
	s := scenario(t, `
defaults: {image: busybox, cpus: 1, memory: 64MiB, stop_grace_period: 0s}
containers:
  db: {command: [sleep, "36000"], mounts: ["data:/data"]}
  web:
    command: [sleep, "36000"]
    environment: {A: declared, B: declared}
    depends_on: [db]
    restart: always
    replicas: 2
  off: {command: [sh, -c, "exit 7"], sockets: [{direction: out_of, source: /s, destination: ./s}]}
volumes: {data: {size: 16MiB}}
`)
	r := s.feed("three\nlines\nhere\n", "run", "--rm", "-e", "A=$given", "-w", "/tmp", "-u", "nobody", "web", "sh", "-c", "echo $A $B $(pwd) $(id -un); wc -l; echo err >&2; exit 5")
	r.want(t, 5, "$given declared /tmp nobody\n3\n")
	contains(t, "what it said on stderr", r.err, "err\n")
	if got := s.states(); got != "db-1=running" {
		t.Errorf("after it: %s", got)
	}
	// A disk that another has is refused before anything begins.
	r = s.vz("run", "--rm", "db", "true")
	contains(t, "run on a volume in use", r.err, `volume "data", which db-run-`, "is in use by db-1", "vzcompose stop db-1")
	if strings.Contains(r.err, "qemu") || strings.Contains(r.err, "create") {
		t.Errorf("it began: %s", r)
	}
	// Nothing that it says is missed, however soon it ends.
	for range 3 {
		s.vz("run", "--rm", "--no-deps", "web", "echo", "hello").want(t, 0, "hello\n")
	}
	// Without a command, what is declared; and it stays where nobody says --rm.
	if r := s.vz("run", "--instance", "kept", "off"); r.code != 7 {
		t.Errorf("%s", r)
	}
	s.must("up", "-d", "web")
	name := strings.TrimSpace(s.must("run", "-d", "web").out)
	if !strings.HasPrefix(name, "web-run-") {
		t.Errorf("it is called %q", name)
	}
	if got, want := s.states(), "db-1=running kept=exited web-1=running web-2=running "+name+"=running"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	s.must("exec", "web", "true")
	if r := s.must("up", "-d", "web"); !strings.Contains(r.err+r.out, "nothing to do") && strings.Contains(r.err, name) {
		t.Errorf("up takes the one-off for its own: %s", r)
	}
	s.must("stop", name)
	s.must("start")
	if e := s.instances()[name]; e.State != "exited" {
		t.Errorf("start brought %s back: %s", name, e.State)
	}
	for _, wrong := range [][]string{{"run"}, {"run", "nobody"}, {"run", "-e", "=x", "web"}, {"run", "-v", "a:b:c:d", "web"}, {"run", "--instance", "kept", "web"}} {
		if r := s.vz(wrong...); r.code != 2 {
			t.Errorf("%s", r)
		}
	}
	if r := s.vz("run", "--rm", "--no-deps", "web", "no-such-program"); r.code != 127 || !strings.Contains(r.err, "no-such-program") {
		t.Errorf("%s", r)
	}
	s.must("down")
	if got := s.states(); got != "" {
		t.Errorf("after down: %s", got)
	}
	if _, err := os.Stat(s.dir + "/s"); err == nil {
		t.Error("a one-off made the container's socket")
	}
}

func TestRunHasATerminal(t *testing.T) {
	s := scenario(t, `
defaults: {image: busybox, cpus: 1, memory: 64MiB, stop_grace_period: 0s}
containers:
  sh: {command: [sh]}
`)
	p := s.sit(t, "run", "--rm", "sh")
	p.types("tty; stty size; echo $TERM $((6*7))\n")
	p.sees("/dev/pts/0\r\n")
	p.sees("xterm 42\r\n")
	p.types("sh -c 'echo $((6*6)); exec sleep 100'\n")
	p.sees("36\r\n") // from here on the terminal is that process's
	p.types("\x03")
	p.types("exit 9\n")
	if got := p.status(); got != 9 {
		t.Errorf("status %d", got)
	}
	if got := s.states(); got != "" {
		t.Errorf("after it: %s", got)
	}
	p = s.sit(t, "run", "--instance", "left", "sh")
	p.types("echo $((6*7))\n")
	p.sees("42\r\n")
	p.types("\x10\x11") // the detach keys
	if got := p.status(); got != 0 {
		t.Errorf("status %d", got)
	}
	if got := s.states(); got != "left=running" {
		t.Errorf("after it: %s", got)
	}
}
