package store

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/filelock"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/spec"
)

// lockEnv makes the test binary a process that takes the lock of that path,
// says so and waits for its end.
const lockEnv = "STORE_TEST_LOCK"

func TestMain(m *testing.M) {
	if path := os.Getenv(lockEnv); path != "" {
		if _, err := filelock.Try(path); err != nil {
			os.Exit(1)
		}
		_, _ = os.Stdout.WriteString("locked\n")
		_, _ = os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func home(t *testing.T) Home {
	t.Helper()
	h := Home{Dir: t.TempDir(), Runtime: filepath.Join(t.TempDir(), "run")}
	if err := os.MkdirAll(h.Instance("shop", "web-1"), 0o700); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestRecordsAreReadAsTheyWereWritten(t *testing.T) {
	h := home(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if err := h.WriteStack(Stack{Name: "shop", Dir: "/d", Files: []string{"/d/f"}, Created: at}); err != nil {
		t.Fatal(err)
	}
	if err := h.WriteInstance(Instance{Stack: "shop", Name: "web-1", Container: "web", Memory: 5, Created: at}); err != nil {
		t.Fatal(err)
	}
	if err := h.WriteState("shop", "web-1", State{State: lifecycle.Stopped, Exit: &state.Exit{Code: 3}, Boots: 2}); err != nil {
		t.Fatal(err)
	}
	if s, err := h.ReadStack("shop"); err != nil || s.Version != Version || s.Dir != "/d" || len(s.Files) != 1 || !s.Created.Equal(at) {
		t.Errorf("stack: %+v, %v", s, err)
	}
	if i, err := h.ReadInstance("shop", "web-1"); err != nil || i.Version != Version || i.Container != "web" || i.Memory != 5 {
		t.Errorf("instance: %+v, %v", i, err)
	}
	if s, err := h.ReadState("shop", "web-1"); err != nil || s.State != lifecycle.Stopped || s.Exit.Code != 3 || s.Boots != 2 {
		t.Errorf("state: %+v, %v", s, err)
	}
}

func TestWhatCannotBeReadIsReportedAndKept(t *testing.T) {
	for text, want := range map[string]errs.Class{
		"":                                errs.DataLoss,
		"{":                               errs.DataLoss,
		"[]":                              errs.DataLoss,
		`{"version":1}junk`:               errs.DataLoss,
		`{"version":1,"state":"dancing"}`: errs.DataLoss,
		`{"version":2,"state":"stopped"}`: errs.Unsupported,
		`{}`:                              errs.Unsupported,
		`{"version":1,"cause":"` + strings.Repeat("x", maxRecord) + `"}`: errs.DataLoss,
	} {
		h := home(t)
		path := filepath.Join(h.Instance("shop", "web-1"), "state.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := h.ReadState("shop", "web-1"); !errs.Is(err, want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%.40q: got %.200v (%s), want %s", text, err, errs.ClassOf(err), want)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != text {
			t.Errorf("%.40q is now %.40q, %v", text, b, err)
		}
	}
}

// No instance is called as a file beside its folder.
func TestFilesOfAStackAreNoInstances(t *testing.T) {
	h := home(t)
	for _, path := range []string{h.StackRecord("s"), h.stackLock("s"), h.Journal("s"), h.Journal("s") + ".1", h.NetworkRecord("s"),
		h.Leases("s"), h.SwitchLock("s"), h.SwitchLog("s"), h.StackRecord("s") + ".damaged", removed(h.Instance("s", "web-1"))} {
		for _, name := range []string{filepath.Base(path), strings.ToUpper(filepath.Base(path))} {
			if spec.ValidInstanceName(name) {
				t.Errorf("an instance may be called %s", name)
			}
		}
	}
	for _, name := range []string{"web-1", "lock-1", "stack", "Events", "my.switch.log"} {
		if !spec.ValidInstanceName(name) {
			t.Errorf("no instance may be called %s", name)
		}
	}
}

func TestHalfMadeInstance(t *testing.T) {
	h := home(t)
	if _, err := h.ReadInstance("shop", "web-1"); !errs.Is(err, errs.NotFound) {
		t.Errorf("its record: %v", err)
	}
	if s, err := h.ReadState("shop", "web-1"); err != nil || s.State != lifecycle.Initialized {
		t.Errorf("its state: %+v, %v", s, err)
	}
	if names, err := h.ListInstances("shop"); err != nil || !slices.Equal(names, []string{"web-1"}) {
		t.Errorf("listed: %q, %v", names, err)
	}
	if err := h.RemoveStack("shop", false); err != nil {
		t.Error(err)
	}
	if names, err := h.ListStacks(); err != nil || !slices.Equal(names, []string{"shop"}) {
		t.Errorf("a stack with an instance went away: %q, %v", names, err)
	}
	for range 2 { // gone is gone
		if err := h.RemoveInstance("shop", "web-1"); err != nil {
			t.Error(err)
		}
	}
	if err := h.RemoveStack("shop", false); err != nil {
		t.Error(err)
	}
	if names, err := h.ListStacks(); err != nil || len(names) > 0 {
		t.Errorf("listed: %q, %v", names, err)
	}
	if names, err := (Home{Dir: "/nowhere"}).ListStacks(); err != nil || names != nil {
		t.Errorf("of no home: %q, %v", names, err)
	}
}

func TestAskingTakesNothing(t *testing.T) {
	h := home(t)
	if alive, err := h.Alive("shop", "web-1"); alive || err != nil {
		t.Errorf("without a file: %v, %v", alive, err)
	}
	l, err := h.LockInstance("shop", "web-1")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if alive, err := h.Alive("shop", "web-1"); !alive || err != nil {
			t.Errorf("held: %v, %v", alive, err)
		}
	}
	if _, err := h.LockInstance("shop", "web-1"); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("a second lock: %v", err)
	}
	l.Release()
	if alive, err := h.Alive("shop", "web-1"); alive || err != nil {
		t.Errorf("released: %v, %v", alive, err)
	}
	if l, err = h.LockInstance("shop", "web-1"); err != nil {
		t.Fatalf("after asking: %v", err)
	}
	l.Release()
}

func TestLockEndsWithItsProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), lockEnv+"="+path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "locked\n" {
		t.Errorf("the child said %q, %v", line, err)
	}
	if held, err := filelock.Held(path); !held || err != nil {
		t.Errorf("while it lives: %v, %v", held, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	if held, err := filelock.Held(path); held || err != nil {
		t.Errorf("after its end: %v, %v", held, err)
	}
}

func TestLockOfAStackIsWaitedFor(t *testing.T) {
	h := home(t)
	l, err := h.LockStack(t.Context(), "shop", func() { t.Error("nobody has it") })
	if err != nil {
		t.Fatal(err)
	}
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	if _, err := h.LockStack(ctx, "shop", func() { cancel(why) }); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	second, err := h.LockStack(t.Context(), "shop", l.Release)
	if err != nil {
		t.Fatal(err)
	}
	second.Release()
}

func TestLocate(t *testing.T) {
	dir := t.TempDir()
	env := func(kv ...string) func(string) (string, bool) {
		return func(name string) (string, bool) {
			for i := 0; i < len(kv); i += 2 {
				if kv[i] == name {
					return kv[i+1], true
				}
			}
			return "", false
		}
	}
	a, err := Locate(env("VZCOMPOSE_HOME", dir+"/a", "XDG_RUNTIME_DIR", "/run/user/7"))
	if err != nil || a.Dir != dir+"/a" || filepath.Dir(a.Runtime) != "/run/user/7" {
		t.Errorf("got %+v, %v", a, err)
	}
	if fi, err := os.Stat(a.Dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("the folder: %v, %v", fi, err)
	}
	b, err := Locate(env("VZCOMPOSE_HOME", dir+"/b", "XDG_RUNTIME_DIR", strings.Repeat("/long", 30)))
	if err != nil || filepath.Dir(b.Runtime) != "/tmp" || filepath.Base(a.Runtime) == filepath.Base(b.Runtime) {
		t.Errorf("got %+v beside %+v, %v", b, a, err)
	}
	if n := len(a.Socket(strings.Repeat("s", 200), strings.Repeat("i", 200))); n > 103 {
		t.Errorf("a socket's path has %d bytes", n)
	}
	if c, err := Locate(env("HOME", dir)); err != nil || !strings.HasPrefix(c.Dir, dir) {
		t.Errorf("got %+v, %v", c, err)
	}
	if c, err := Locate(env("VZCOMPOSE_HOME", dir, "XDG_RUNTIME_DIR", "here")); err != nil || !filepath.IsAbs(c.Runtime) {
		t.Errorf("a relative runtime folder: %+v, %v", c, err)
	}
	if _, err := Locate(env()); !errs.Is(err, errs.FailedPrecondition) || errs.HintOf(err) == "" {
		t.Errorf("got %v", err)
	}
}

func TestRuntimeFolderIsOursAlone(t *testing.T) {
	for name, x := range map[string]struct {
		make func(path string) error
		ok   bool
	}{
		"none":     {func(string) error { return nil }, true},
		"ours":     {func(p string) error { return os.Mkdir(p, 0o700) }, true},
		"readable": {func(p string) error { return errors.Join(os.Mkdir(p, 0o700), os.Chmod(p, 0o755)) }, false},
		"a file":   {func(p string) error { return os.WriteFile(p, nil, 0o600) }, false},
		"symlink":  {func(p string) error { return errors.Join(os.Mkdir(p+"x", 0o700), os.Symlink(p+"x", p)) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := Home{Runtime: filepath.Join(t.TempDir(), "run")}
			if err := x.make(h.Runtime); err != nil {
				t.Fatal(err)
			}
			if err := h.MakeRuntime(); (err == nil) != x.ok || err != nil && (!errs.Is(err, errs.PermissionDenied) || errs.HintOf(err) == "") {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("somebody else's", func(t *testing.T) {
		if os.Getuid() != 0 {
			if err := (Home{Runtime: "/"}).MakeRuntime(); !errs.Is(err, errs.PermissionDenied) {
				t.Errorf("got %v", err)
			}
			return
		}
		h := Home{Runtime: filepath.Join(t.TempDir(), "run")}
		if err := errors.Join(os.Mkdir(h.Runtime, 0o700), os.Chown(h.Runtime, 12345, -1)); err != nil {
			t.Skip(err)
		}
		if err := h.MakeRuntime(); !errs.Is(err, errs.PermissionDenied) {
			t.Errorf("got %v", err)
		}
	})
}

// Who waits for the lock of a stack that is removed meanwhile gets one that counts.
func TestLockOfAStackThatIsRemoved(t *testing.T) {
	h := home(t)
	if err := h.RemoveInstance("shop", "web-1"); err != nil {
		t.Fatal(err)
	}
	l, err := h.LockStack(t.Context(), "shop", nil)
	if err != nil {
		t.Fatal(err)
	}
	removed := make(chan error, 1)
	second, err := h.LockStack(t.Context(), "shop", func() {
		removed <- h.RemoveStack("shop", false)
		l.Release()
	})
	if err := errors.Join(err, <-removed); err != nil {
		t.Fatal(err)
	}
	if held, err := filelock.Held(h.stackLock("shop")); !held || err != nil {
		t.Errorf("the lock that is found: %v, %v", held, err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	if _, err := h.LockStack(ctx, "shop", func() { cancel(why) }); !errors.Is(err, why) {
		t.Errorf("a third: %v", err)
	}
	second.Release()
}

// Many who take a stack's lock and remove its folder under it: one at a time, and
// none fails.
func TestStacksAreLockedAndRemovedAtOnce(t *testing.T) {
	h := home(t)
	if err := h.RemoveInstance("shop", "web-1"); err != nil {
		t.Fatal(err)
	}
	var inside atomic.Int32
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 50 {
				l, err := h.LockStack(t.Context(), "shop", nil)
				if err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d hold it", n)
				}
				if err := h.MakeInstance("shop", "web-1"); err != nil {
					t.Error(err)
				}
				if err := h.RemoveInstance("shop", "web-1"); err != nil {
					t.Error(err)
				}
				inside.Add(-1) // from the removal on it is another's turn
				if err := h.RemoveStack("shop", false); err != nil {
					t.Error(err)
				}
				l.Release()
			}
		})
	}
	all.Wait()
	if left, err := os.ReadDir(h.Stacks()); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A shim that comes to life while its instance is removed either keeps the removal
// away or finds no folder: it never lives in one that is gone.
func TestInstancesAreLockedAndRemovedAtOnce(t *testing.T) {
	h := home(t)
	for range 200 {
		if err := os.MkdirAll(h.Instance("shop", "web-1"), 0o700); err != nil {
			t.Fatal(err)
		}
		var both sync.WaitGroup
		both.Go(func() {
			l, err := h.LockInstance("shop", "web-1")
			if err != nil {
				if !errs.Is(err, errs.NotFound) && !errs.Is(err, errs.FailedPrecondition) {
					t.Error(err)
				}
				return
			}
			defer l.Release()
			if alive, err := h.Alive("shop", "web-1"); !alive || err != nil {
				t.Errorf("it has a lock that nobody finds: %v, %v", alive, err)
			}
		})
		both.Go(func() {
			if err := h.RemoveInstance("shop", "web-1"); err != nil && !errs.Is(err, errs.FailedPrecondition) {
				t.Error(err)
			}
		})
		both.Wait()
	}
}

func TestALiveInstanceIsNotRemoved(t *testing.T) {
	h := home(t)
	l, err := h.LockInstance("shop", "web-1")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.RemoveInstance("shop", "web-1"); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("got %v", err)
	}
	if err := h.DropInstance("shop", "web-1"); err != nil { // by who holds the lock
		t.Error(err)
	}
	l.Release()
	if left, err := os.ReadDir(h.Stack("shop")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// What an interrupted removal left is neither an instance nor in the way.
func TestInterruptedRemoval(t *testing.T) {
	h := home(t)
	trash := removed(h.Instance("shop", "web-1"))
	if err := os.MkdirAll(filepath.Join(trash, "log"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(removed(h.Stack("shop")), "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if names, err := h.ListInstances("shop"); err != nil || !slices.Equal(names, []string{"web-1"}) {
		t.Errorf("instances: %q, %v", names, err)
	}
	if names, err := h.ListStacks(); err != nil || !slices.Equal(names, []string{"shop"}) {
		t.Errorf("stacks: %q, %v", names, err)
	}
	for range 2 {
		if err := h.RemoveInstance("shop", "web-1"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(trash); !os.IsNotExist(err) {
		t.Errorf("what was left: %v", err)
	}
	if err := h.RemoveStack("shop", false); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(h.Stacks()); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
