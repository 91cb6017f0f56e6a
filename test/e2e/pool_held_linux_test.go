package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/engine"
	"github.com/vzcompose/vzcompose/internal/store"
)

// held reports whether the instance's machine waited with its container in it:
// then nothing was mounted after the instance came.
func (s *stack) held(h store.Home, instance string) bool {
	s.t.Helper()
	st := must(h.ReadState(s.name, instance))
	return st.Origin == "pooled" && !slices.ContainsFunc(st.Phases, func(p store.Phase) bool { return strings.HasPrefix(p.Name, "root mounted") })
}

const heldPoolFile = `
name: heldpool
defaults: {image: busybox, cpus: 1, memory: 64MiB, stop_signal: KILL}
containers:
  a:
    replicas: 2
    command: [sh, -c, "cat /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | hexdump -v -e '1/1 \"%02x\"'; echo; exec sleep 1000"]
    environment: {WHO: USER}
    secrets: [word]
  tty: {tty: true, command: [sleep, "1000"]}
secrets:
  word: {file: ./word}
`

const heldOneFile = `
containers:
  a: {image: busybox, cpus: 1, memory: 64MiB, command: [sleep, "1000"], stop_signal: KILL}
`

// Machines that wait with a container in them are the instances' own, each with
// what is only its own, and are like any other from then on.
func TestPoolHoldsContainers(t *testing.T) {
	s := scenario(t, heldPoolFile)
	_, h, e := poolIn(t, s)
	if err := os.WriteFile(filepath.Join(s.dir, "word"), []byte("a-secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := s.must("template", "prewarm", "--prepared", "2"); !strings.Contains(r.out, "tty: ") || !strings.Contains(r.out, "terminal") {
		t.Errorf("of what cannot be held nothing is said: %s", r)
	}
	if n := waiting(e); n != 4 {
		t.Fatalf("%d machines wait, want two of each container", n)
	}
	s.must("up", "-d")
	seen := map[string]string{}
	for _, i := range []string{"a-1", "a-2"} {
		if !s.held(h, i) {
			t.Errorf("%s is of another machine: %+v", i, must(h.ReadState(s.name, i)))
		}
		said := s.must("exec", i, "sh", "-c", "cat /run/secrets/word; echo; hostname; cat /etc/hosts; ip -o link show eth0; ip -o -4 a show eth0; tr '\\0' '\\n' </proc/1/environ; ls /; echo "+i+" >/mine").out
		for _, want := range []string{"a-secret\n" + i + "\n", "\t" + i + "\n", "WHO=USER\n"} {
			if !strings.Contains(said, want) {
				t.Errorf("%s has no %q: %s", i, want, said)
			}
		}
		if strings.Contains(said, "\nmine\n") {
			t.Errorf("%s has what another wrote: %s", i, said)
		}
		var logs []string
		s.eventually("its output", func() bool {
			logs = strings.Fields(s.must("logs", "--no-log-prefix", i).out)
			return len(logs) >= 2
		})
		for _, own := range append(logs[:2], addressOf(said), macOf(said)) {
			if seen[own] != "" || len(own) < 7 {
				t.Errorf("%s and %s both have %q", i, seen[own], own)
			}
			seen[own] = i
		}
	}
	if st := must(h.ReadState(s.name, "tty-1")); st.Origin != "pooled" || s.held(h, "tty-1") {
		t.Errorf("what can hold no container: %+v", st)
	}
	// The disk is the instance's from then on.
	s.must("restart", "a-1")
	if r := s.must("exec", "a-1", "cat", "/mine"); r.out != "a-1\n" {
		t.Errorf("after a restart: %s", r)
	}
	if s.held(h, "a-1") {
		t.Error("a container was held for an instance that has written to its disk")
	}
	s.must("down")
	if n := waiting(e); n != 0 {
		t.Errorf("%d machines wait after the last down", n)
	}
}

// A machine holds a container of one definition. Another has none of it; nor has
// anybody one that was killed.
func TestPoolHoldsNothingElse(t *testing.T) {
	file := "name: heldelse\n" + heldOneFile
	s := scenario(t, file)
	_, h, e := poolIn(t, s)
	s.must("template", "prewarm", "--prepared", "1")
	s.write(strings.Replace(file, "command:", "user: '1000', command:", 1))
	s.must("up", "-d")
	if s.held(h, "a-1") {
		t.Error("it has a machine in which another container was held")
	}
	if r := s.must("exec", "a-1", "id", "-u"); r.out != "1000\n" {
		t.Errorf("user: %s", r)
	}
	if n := waiting(e); n != 1 {
		t.Fatalf("%d machines wait", n)
	}
	s.must("rm", "-f", "-s", "a")
	s.write(file)
	name := must(e.Spares())[0].Name
	kill9(t, must(h.Pool().Owner(".spare", name)))
	s.eventually("the end of the spare", func() bool { return !must(h.Pool().Alive(".spare", name)) })
	s.must("up", "-d")
	if got := s.origin(h, "a-1"); got != "restored" {
		t.Errorf("the machine was %s", got)
	}
	s.must("down")
	// One whose disk is lost is of no use: another machine comes, and it is said.
	s.must("template", "prewarm", "--prepared", "1")
	if err := os.Remove(h.Pool().Writable(".spare", must(e.Spares())[0].Name)); err != nil {
		t.Fatal(err)
	}
	s.must("up", "-d")
	if st := must(h.ReadState(s.name, "a-1")); st.Origin != "restored" || len(st.Notes) != 1 || !strings.Contains(st.Notes[0], "of no use") {
		t.Errorf("after its disk was lost: %+v", st)
	}
	s.must("down")
	// What cannot be executed is told as ever, and the machine is gone.
	s.write(strings.Replace(file, "sleep,", "no-such-program,", 1))
	s.must("template", "prewarm", "--prepared", "1")
	if r := s.vz("up", "-d"); r.code == 0 || !strings.Contains(r.err+r.out, "no-such-program") {
		t.Errorf("up of what is not there: %s", r)
	}
	s.must("down")
}

// Machines that hold what nobody declares any more make room for those that hold
// what is declared.
func TestPoolMakesRoom(t *testing.T) {
	file := "name: heldroom\n" + heldOneFile
	s := scenario(t, file)
	_, h, e := poolIn(t, s)
	config := filepath.Join(h.Dir, "config.yaml")
	if err := os.WriteFile(config, []byte("pool: {memory: 450MiB}\n"), 0o600); err != nil { // two machines
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(config) })
	s.must("template", "prewarm", "--prepared", "1")
	oldest := must(e.Spares())[0].Name
	for _, user := range []string{"1000", "1001"} {
		s.write(strings.Replace(file, "command:", "user: '"+user+"', command:", 1))
		s.must("template", "prewarm", "--prepared", "1")
	}
	all := must(e.Spares())
	if len(all) != 2 || slices.ContainsFunc(all, func(one engine.Spare) bool { return one.Name == oldest }) {
		t.Errorf("of three machines, for two of which there is room, wait: %+v; the oldest was %s", all, oldest)
	}
	s.must("up", "-d")
	if !s.held(h, "a-1") {
		t.Errorf("a-1: %+v", must(h.ReadState(s.name, "a-1")))
	}
}

// Where the user wants it, an up has containers held for the next one. For one
// whose image is not there an ordinary machine waits.
func TestPoolIsKeptFilledWithContainers(t *testing.T) {
	s := scenario(t, strings.Replace(poolFile, "name: pool", "name: heldfill", 1)+"  b: {image: not-there, pull: never, cpus: 1, memory: 64MiB}\n")
	_, h, e := poolIn(t, s)
	config := filepath.Join(h.Dir, "config.yaml")
	if err := os.WriteFile(config, []byte("pool: {machines: 1, memory: 1GiB, prepared: true}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(config) })
	s.must("up", "-d", "a")
	s.eventually("two machines that are ready", func() bool {
		all := must(e.Spares())
		return len(all) == 2 && !slices.ContainsFunc(all, func(one engine.Spare) bool {
			_, err := os.Stat(h.Pool().Socket(".spare", one.Name))
			return err != nil
		})
	})
	s.must("up", "-d", "--scale", "a=2", "a")
	if !s.held(h, "a-2") {
		t.Errorf("a-2: %+v", must(h.ReadState(s.name, "a-2")))
	}
	s.must("down")
	s.eventually("an empty pool", func() bool { return waiting(e) == 0 })
}
