package e2e

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/vzcompose/vzcompose/internal/engine"
	"github.com/vzcompose/vzcompose/internal/image"
	"github.com/vzcompose/vzcompose/internal/kernel"
	"github.com/vzcompose/vzcompose/internal/store"
)

const poolFile = `
name: pool
containers:
  a:
    image: busybox
    cpus: 1
    memory: 64MiB
    command: [sh, -c, "echo hello from $$(hostname); cat /written; echo x >/written; exec sleep 1000"]
    stop_signal: KILL
`

// poolOf is a stack, and an engine to look at the pool with.
func poolOf(t *testing.T) (*stack, store.Home, *engine.Engine) {
	return poolIn(t, scenario(t, poolFile))
}

func poolIn(t *testing.T, s *stack) (*stack, store.Home, *engine.Engine) {
	warmOnly(t)
	h := must(store.Locate(os.LookupEnv))
	e := engine.New(engine.Options{Home: h, Images: must(image.Open(h.Images())), Kernels: must(kernel.Open(h.Kernels())),
		Shim: []string{shared.program, "shim"}, CPUs: runtime.NumCPU()})
	t.Cleanup(func() { // before the stack's own end, which empties it too
		if err := e.EmptyPool(t.Context()); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	return s, h, e
}

func waiting(e *engine.Engine) int { return len(must(e.Spares())) }

// Machines that wait become the next instances, and work like any other: nothing
// of a rehearsal or of a former instance is in them.
func TestPool(t *testing.T) {
	s, h, e := poolOf(t)
	s.must("template", "prewarm", "2")
	if n := waiting(e); n != 2 {
		t.Fatalf("%d machines wait", n)
	}
	s.must("up", "-d", "--scale", "a=2")
	if n := waiting(e); n != 0 {
		t.Errorf("%d machines wait after two were taken", n)
	}
	s.must("up", "-d", "--scale", "a=3")
	for name, want := range map[string]string{"a-1": "pooled", "a-2": "pooled", "a-3": "restored"} {
		if got := s.origin(h, name); got != want {
			t.Errorf("%s was %s, want %s", name, got, want)
		}
		s.eventually("its output", func() bool {
			out := s.must("logs", "--no-log-prefix", name).out
			return strings.Contains(out, "hello from "+name+"\n") && strings.Contains(out, "No such file")
		})
		if r := s.must("exec", name, "cat", "/written"); r.out != "x\n" {
			t.Errorf("exec: %s", r)
		}
	}
}

// A machine that waited and was killed is nobody's: the next one is restored,
// and what it left is gone.
func TestASpareThatIsKilled(t *testing.T) {
	s, h, e := poolOf(t)
	s.must("template", "prewarm", "1")
	name := must(e.Spares())[0].Name
	pid := must(h.Pool().Owner(".spare", name))
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.eventually("the end of the spare", func() bool { return !must(h.Pool().Alive(".spare", name)) })
	s.must("up", "-d")
	if got := s.origin(h, "a-1"); got != "restored" {
		t.Errorf("the machine was %s", got)
	}
	if n := waiting(e); n != 0 {
		t.Errorf("%d machines wait", n)
	}
	if left := must(filepath.Glob(filepath.Join(h.Pool().Stack(".spare"), "*"))); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// Where the user wants machines to wait, an up has the pool filled, and the down
// of the last stack empties it.
func TestPoolIsKeptFilled(t *testing.T) {
	s, h, e := poolOf(t)
	config := filepath.Join(h.Dir, "config.yaml")
	if err := os.WriteFile(config, []byte("pool: {machines: 1, memory: 1GiB}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(config) })
	s.must("up", "-d")
	s.eventually("a machine that waits", func() bool { return waiting(e) == 1 })
	s.must("down")
	s.eventually("an empty pool", func() bool { return waiting(e) == 0 })
}
