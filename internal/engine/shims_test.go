package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/planner"
	"github.com/vzcompose/vzcompose/spec"
)

// web is the one instance of these tests.
var web = planner.Target{Container: "web", Instance: "web-1", Index: 1}

// newShop makes the stack with web-1, whose process has args; its shims are of
// the kind.
func newShop(t *testing.T, kind string, o Options, args ...string) *Stack {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o.Shim = []string{exe, asShim, kind}
	s := newStack(t, o)
	file := func(path string) string {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	s.from = map[string]*bootFiles{"": {kernel: file(filepath.Join(s.o.Home.Dir, "kernel")), initramfs: file(filepath.Join(s.o.Home.Dir, "initramfs"))}}
	declare(t, s, store.Instance{Container: "web", Name: "web-1", Index: 1, CPUs: 1, Memory: 64 << 20,
		Root: file(filepath.Join(s.o.Home.Dir, "root")), StopSignal: agentproto.SIGTERM, StopTimeout: time.Minute,
		Runtime: &specs.Spec{Hostname: "web-1", Root: &specs.Root{Path: agentproto.RootPath},
			Process: &specs.Process{Args: args, Cwd: "/"}}}, nil)
	file(s.o.Home.Writable(s.Name, "web-1"))
	t.Cleanup(func() { // before the folders go
		if alive, _ := s.o.Home.Alive(s.Name, "web-1"); !alive {
			return
		}
		if pid, err := s.o.Home.Owner(s.Name, "web-1"); err == nil && pid != os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if err := s.awaitGone(context.Background(), "web-1"); err != nil {
			t.Error(err)
		}
	})
	return s
}

// run carries out an operation on web-1.
func run(t *testing.T, s *Stack, op planner.Op) error {
	t.Helper()
	return s.Run(t.Context(), planner.Step{Op: op}, func(event.Progress) {})
}

// must is run that may not fail.
func must(t *testing.T, s *Stack, op planner.Op) {
	t.Helper()
	if err := run(t, s, op); err != nil {
		t.Fatalf("%s: %v", op.Verb(), err)
	}
}

func completed() planner.Await {
	return planner.Await{Target: web, Condition: spec.ConditionCompleted}
}

func TestStartStopRemove(t *testing.T) {
	s := newShop(t, orderly, Options{}, "sleep", "infinity")
	var mu sync.Mutex // guards phases
	var phases []string
	err := s.Run(t.Context(), planner.Step{Op: planner.Start{Target: web}}, func(p event.Progress) {
		mu.Lock()
		defer mu.Unlock()
		phases = append(phases, p.Phase)
	})
	if err != nil {
		t.Fatal(err)
	}
	i := observed(t, s, "web-1")
	if i.State != lifecycle.Started || i.Boots != 1 || i.PID == os.Getpid() || i.PID == 0 || i.Started.IsZero() {
		t.Errorf("started: %+v", i)
	}
	mu.Lock()
	if slices.Contains(phases, "") {
		t.Errorf("phases without a name: %q", phases)
	}
	mu.Unlock()
	if err := run(t, s, planner.Remove{Target: web}); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("what runs was removed: %v", err)
	}
	must(t, s, planner.Start{Target: web}) // joins: it runs
	if again := observed(t, s, "web-1"); again.PID != i.PID || again.Boots != 1 {
		t.Errorf("another shim was started: %+v", again)
	}
	must(t, s, planner.Stop{Target: web})
	i = observed(t, s, "web-1")
	if i.State != lifecycle.Stopped || i.Exit == nil || !i.Exit.Requested || i.Exit.Signal != "SIGTERM" {
		t.Errorf("stopped: %+v, %+v", i, i.Exit)
	}
	must(t, s, planner.Stop{Target: web}) // nothing to do
	must(t, s, planner.Start{Target: web})
	if i := observed(t, s, "web-1"); i.State != lifecycle.Started || i.Boots != 2 {
		t.Errorf("started again: %+v", i)
	}
	must(t, s, planner.Stop{Target: web})
	must(t, s, planner.Remove{Target: web})
	if w, err := s.Observe(t.Context(), nil); err != nil || len(w.Instances) != 0 {
		t.Errorf("removed: %+v, %v", w, err)
	}
	must(t, s, planner.Remove{Target: web})
}

func TestManyStartsAreOne(t *testing.T) {
	s := newShop(t, orderly, Options{}, "sleep", "infinity")
	must(t, s, planner.Start{Target: web})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := run(t, s, planner.Start{Target: web}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for range 4 {
		wg.Go(func() {
			if err := run(t, s, planner.Stop{Target: web}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if i := observed(t, s, "web-1"); i.State != lifecycle.Stopped || i.Boots != 1 {
		t.Errorf("got %+v", i)
	}
}

func TestGraceOfTheStack(t *testing.T) {
	s := newShop(t, orderly, Options{}, "stubborn")
	must(t, s, planner.Start{Target: web})
	s.Grace = new(time.Duration)
	must(t, s, planner.Stop{Target: web})
	if i := observed(t, s, "web-1"); i.State != lifecycle.Stopped || i.Exit == nil || i.Exit.Signal != "SIGKILL" {
		t.Errorf("got %+v, %+v", i, i.Exit)
	}
}

func TestAwaitCompleted(t *testing.T) {
	for name, x := range map[string]struct {
		args []string
		want string // in the error; "": none
	}{
		"done":   {[]string{"true"}, ""},
		"exit 3": {[]string{"exit", "3"}, "exited with 3"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShop(t, orderly, Options{}, x.args...)
			if err := run(t, s, completed()); !errs.Is(err, errs.FailedPrecondition) || !strings.Contains(err.Error(), "it has not run") {
				t.Errorf("before its start: %v", err)
			}
			must(t, s, planner.Start{Target: web})
			for range 2 { // while it runs, or of its record
				err := run(t, s, completed())
				if x.want == "" && err != nil || x.want != "" && (!errs.Is(err, errs.FailedPrecondition) || !strings.Contains(err.Error(), x.want)) {
					t.Errorf("got %v", err)
				}
			}
			if st, err := s.AwaitEnd(t.Context(), "web-1"); err != nil || st.State != lifecycle.Stopped || st.Exit == nil {
				t.Errorf("its end: %+v, %v", st, err)
			}
		})
	}
}

func TestAwaitOfARunningOne(t *testing.T) {
	s := newShop(t, orderly, Options{}, "sleep", "infinity")
	must(t, s, planner.Start{Target: web})
	got := make(chan error, 1)
	go func() { got <- s.await(t.Context(), completed(), func(event.Progress) {}) }()
	must(t, s, planner.Stop{Target: web})
	if err := <-got; err == nil || !strings.Contains(err.Error(), "SIGTERM") {
		t.Errorf("got %v", err)
	}
	must(t, s, planner.Start{Target: web})
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() { got <- s.await(ctx, completed(), func(event.Progress) {}) }()
	enough := errors.New("enough")
	cancel(enough)
	if err := <-got; !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
	if err := run(t, s, planner.Await{Target: web, Condition: "polished"}); !errs.Is(err, errs.Unsupported) {
		t.Errorf("an unknown condition: %v", err)
	}
}

func TestStartThatFails(t *testing.T) {
	s := newShop(t, orderly, Options{}, "/bin/nothing")
	err := run(t, s, planner.Start{Target: web})
	var start *StartError
	if !errs.Is(err, errs.Unavailable) || !errors.As(err, &start) || start.Class != errs.NotFound || !strings.Contains(err.Error(), `"/bin/nothing"`) {
		t.Errorf("got %v", err)
	}
	if err := s.awaitGone(t.Context(), "web-1"); err != nil {
		t.Fatal(err)
	}
	if i := observed(t, s, "web-1"); i.State != lifecycle.Errored || !strings.Contains(i.Cause, "/bin/nothing") {
		t.Errorf("got %+v", i)
	}
	if err := run(t, s, completed()); !errs.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "/bin/nothing") {
		t.Errorf("awaited: %v", err)
	}
	must(t, s, planner.Remove{Target: web})
}

func TestShimThatDoesNotComeUp(t *testing.T) {
	for kind, x := range map[string]struct {
		o    Options
		want string
	}{
		speechful: {Options{}, "no accelerator on this host"},
		wordless:  {Options{}, "without a word"},
		unready:   {Options{SpawnLimit: 500 * time.Millisecond}, "await the shim's readiness: not done within 500ms"},
	} {
		t.Run(kind, func(t *testing.T) {
			s := newShop(t, kind, x.o, "sleep", "infinity")
			err := run(t, s, planner.Start{Target: web})
			if err == nil || !strings.Contains(err.Error(), "start its shim") || !strings.Contains(err.Error(), x.want) {
				t.Errorf("got %v", err)
			}
			if alive, err := s.o.Home.Alive(s.Name, "web-1"); alive || err != nil {
				t.Errorf("its lock is held: %v, %v", alive, err)
			}
			must(t, s, planner.Remove{Target: web})
		})
	}
	t.Run("no such executable", func(t *testing.T) {
		s := newShop(t, orderly, Options{}, "true")
		s.o.Shim = []string{"/nonexistent/shim"}
		if err := run(t, s, planner.Start{Target: web}); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %v", err)
		}
	})
}

// A start that is given up takes back what it began.
func TestStartGivenUp(t *testing.T) {
	s := newShop(t, endless, Options{}, "sleep", "infinity")
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	err := s.start(ctx, "web-1", func(event.Progress) { cancel(enough) })
	if !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
	if i := observed(t, s, "web-1"); i.State != lifecycle.Stopped || i.Exit != nil {
		t.Errorf("got %+v", i)
	}
}

func TestStartLimit(t *testing.T) {
	s := newShop(t, endless, Options{StartLimit: 300 * time.Millisecond}, "sleep", "infinity")
	err := run(t, s, planner.Start{Target: web})
	if !errs.Is(err, errs.DeadlineExceeded) || !strings.Contains(err.Error(), "start the instance: not done within 300ms") {
		t.Errorf("got %v", err)
	}
	must(t, s, planner.Stop{Target: web})
}

// killed is the end of a shim by SIGKILL.
func killed(t *testing.T, s *Stack, i state.Instance) {
	t.Helper()
	if err := syscall.Kill(i.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := s.awaitGone(t.Context(), "web-1"); err != nil {
		t.Fatal(err)
	}
}

func TestShimKilled(t *testing.T) {
	s := newShop(t, orderly, Options{}, "sleep", "infinity")
	must(t, s, planner.Start{Target: web})
	waits := make(chan error, 1)
	go func() { waits <- s.await(t.Context(), completed(), func(event.Progress) {}) }()
	killed(t, s, observed(t, s, "web-1"))
	if err := <-waits; !errs.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), lostShim) {
		t.Errorf("who waited: %v", err)
	}
	if i := observed(t, s, "web-1"); i.State != lifecycle.Errored || i.Cause != lostShim {
		t.Errorf("got %+v", i)
	}
	if _, err := s.Dial(t.Context(), "web-1"); !errs.Is(err, errs.NotFound) {
		t.Errorf("dialled: %v", err)
	}
	must(t, s, planner.Stop{Target: web})
	must(t, s, planner.Start{Target: web}) // over the dead one's socket
	i := observed(t, s, "web-1")
	if i.State != lifecycle.Started || i.Boots != 2 || i.Cause != "" {
		t.Errorf("started again: %+v", i)
	}
	killed(t, s, i)
	must(t, s, planner.Remove{Target: web})
	if _, err := os.Lstat(s.o.Home.Socket(s.Name, "web-1")); !os.IsNotExist(err) {
		t.Errorf("the dead one's socket is there: %v", err)
	}
}

func TestHungShimIsKilled(t *testing.T) {
	s := newShop(t, hung, Options{StopLimit: 200 * time.Millisecond}, "sleep", "infinity")
	must(t, s, planner.Start{Target: web})
	if i := observed(t, s, "web-1"); i.State != lifecycle.Started {
		t.Fatalf("got %+v", i)
	}
	s.Grace = new(time.Duration)
	must(t, s, planner.Stop{Target: web})
	if i := observed(t, s, "web-1"); i.State != lifecycle.Errored || i.Cause != lostShim {
		t.Errorf("got %+v", i)
	}
	must(t, s, planner.Remove{Target: web})
}

// What the caller has in its environment is not for a process that outlives it.
func TestShimHasNoneOfTheCallersSecrets(t *testing.T) {
	t.Setenv("DEPLOY_TOKEN", "hunter2")
	s := newShop(t, orderly, Options{}, "sleep", "infinity")
	must(t, s, planner.Start{Target: web})
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", observed(t, s, "web-1").PID))
	if os.IsNotExist(err) {
		t.Skip("no /proc")
	}
	if err != nil || strings.Contains(string(env), "hunter2") || !strings.Contains(string(env), "PATH=") {
		t.Errorf("it has %q, %v", env, err)
	}
	must(t, s, planner.Stop{Target: web})
}

// A shim of another version is seen as its record says. It cannot be asked for
// anything, and the error says what to do; stop ends it.
func TestShimOfAnotherVersion(t *testing.T) {
	s := newShop(t, foreign, Options{}, "sleep", "infinity")
	if err := run(t, s, planner.Start{Target: web}); !errs.Is(err, errs.Unsupported) || !strings.Contains(errs.HintOf(err), "restart") {
		t.Errorf("got %v (%s)", err, errs.HintOf(err))
	}
	if i := observed(t, s, "web-1"); i.State != lifecycle.Started {
		t.Errorf("got %+v", i)
	}
	must(t, s, planner.Stop{Target: web})
	must(t, s, planner.Remove{Target: web})
}

// A shim whose socket is gone, as a cleaner of temporary files leaves it, is sent a
// signal: it stops its instance in order.
func TestStopWithoutASocket(t *testing.T) {
	s := newShop(t, orderly, Options{SpawnLimit: 5 * time.Second}, "sleep", "infinity")
	must(t, s, planner.Start{Target: web})
	if err := os.Remove(s.o.Home.Socket(s.Name, "web-1")); err != nil {
		t.Fatal(err)
	}
	if i := observed(t, s, "web-1"); i.State != lifecycle.Started {
		t.Errorf("got %+v", i)
	}
	write(t, s, "web-1", "config.json", "{")
	s.o.SpawnLimit = time.Second // until it counts as out of reach
	must(t, s, planner.Stop{Target: web})
	if st, err := s.o.Home.ReadState(s.Name, "web-1"); err != nil || st.State != lifecycle.Stopped || st.Exit == nil || st.Exit.Signal != "SIGTERM" {
		t.Errorf("got %+v, %v", st, err)
	}
}
