package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/vzcompose/vzcompose/internal/filelock"
	vzimage "github.com/vzcompose/vzcompose/internal/image"
	"github.com/vzcompose/vzcompose/internal/kernel/kerneltest"
	"github.com/vzcompose/vzcompose/internal/store"
)

// patience bounds every wait of a script for a fact.
const patience = 30 * time.Second

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"vzcompose": asVZCompose})
}

// TestScripts runs the scripts in testdata: command lines against machines in
// memory, with what they print, their exit statuses and what they leave behind.
//
// Beside testscript's own commands there are:
//
//	status N COMMAND…         the command's exit status is N
//	eventually RE COMMAND…    the command is repeated until its output matches
//	begin NAME COMMAND…       starts a command; NAME.out and NAME.err get its output
//	signal NAME SIGNAL        sends it a signal
//	ended NAME N              waits for its end, with status N
//	said FILE RE              waits until the file matches
//	hold POINT INSTANCE       has a machine wait at POINT (see newFake)
//	at POINT INSTANCE         waits until it is there
//	release POINT INSTANCE    lets it go on
//	tell FILE TEXT            writes HOME/fake/FILE
//	spoil                     damages the templates of machines with containers
//	killswitch STACK          kills the switch of a stack
//
// At its end a script must have left no shim behind.
func TestScripts(t *testing.T) {
	base := sync.OnceValues(func() (string, error) { return prepareHome(t.TempDir()) })
	testscript.Run(t, scripts("testdata", func(e *testscript.Env) error {
		from, err := base()
		if err != nil {
			return err
		}
		return setUpScript(e, from)
	}))
}

// scripts are those in dir.
func scripts(dir string, setUp func(*testscript.Env) error) testscript.Params {
	return testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setUp,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": cmdStatus, "eventually": cmdEventually, "begin": cmdBegin, "signal": cmdSignal, "ended": cmdEnded,
			"said": cmdSaid, "hold": cmdHold, "at": cmdAt, "release": cmdRelease, "tell": cmdTell, "spoil": cmdSpoil, "killswitch": cmdKillSwitch,
		},
	}
}

// prepareHome makes a home folder with a kernel, and images: base, checked, which
// is healthy when HOME/fake/well is told 0, and stores, with volumes.
func prepareHome(dir string) (string, error) {
	home := filepath.Join(dir, "home")
	image, tar, err := writeSources(dir)
	if err != nil {
		return "", err
	}
	for _, args := range [][]string{
		{"kernel", "import", image},
		{"image", "import", "--cmd", "serve", tar, "base"},
	} {
		cmd := exec.Command("vzcompose", args...)
		cmd.Env = append(os.Environ(), "VZCOMPOSE_HOME="+home)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("vzcompose %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	images, err := vzimage.Open(filepath.Join(home, "images"))
	if err != nil {
		return "", err
	}
	for name, cfg := range map[string]vzimage.Config{
		"checked": {Cmd: []string{"serve"}, Health: &vzimage.Health{Test: []string{"CMD", "until", "well"}, Interval: 50 * time.Millisecond, Timeout: time.Minute}},
		"stores":  {Cmd: []string{"serve"}, Volumes: []string{"/data", "/var/log"}},
	} {
		if _, err := images.Import(context.Background(), tar, name, cfg, nil); err != nil {
			return "", err
		}
	}
	return home, nil
}

// writeSources writes a kernel and a root filesystem, which is empty.
func writeSources(dir string) (image, tar string, err error) {
	image, tar = filepath.Join(dir, "Image"), filepath.Join(dir, "root.tar")
	return image, tar, errors.Join(os.WriteFile(image, kerneltest.Image(runtime.GOARCH, "6.1.0-1-test"), 0o600),
		os.WriteFile(tar, make([]byte, 1024), 0o600))
}

// script is what the commands of one script share.
type script struct {
	home    store.Home
	mu      sync.Mutex // guards the following
	running map[string]*exec.Cmd
}

type scriptKey struct{}

func setUpScript(e *testscript.Env, from string) error {
	dir := filepath.Join(e.WorkDir, ".home")
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		return err
	}
	e.Setenv("VZCOMPOSE_HOME", dir)
	e.Setenv("HOME", e.WorkDir)
	home, err := store.Locate(func(name string) (string, bool) {
		v := e.Getenv(name)
		return v, v != ""
	})
	if err != nil {
		return err
	}
	s := &script{home: home, running: map[string]*exec.Cmd{}}
	e.Values[scriptKey{}] = s
	t, ok := e.T().(interface{ Errorf(string, ...any) })
	if !ok {
		return errors.New("the script's T cannot fail")
	}
	e.Defer(func() {
		for _, name := range s.left() {
			t.Errorf("%s was left running", name)
		}
	})
	return nil
}

// left ends what a script left running, and names it.
func (s *script) left() (names []string) {
	s.mu.Lock()
	for name, cmd := range s.running {
		names = append(names, name)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	s.mu.Unlock()
	for _, home := range []store.Home{s.home, s.home.Pool()} {
		stacks, _ := filepath.Glob(filepath.Join(home.Stacks(), "*", "*"))
		for _, dir := range stacks {
			stack, name := filepath.Base(filepath.Dir(dir)), filepath.Base(dir)
			if alive, _ := home.Alive(stack, name); !alive {
				continue
			}
			names = append(names, "the shim of "+stack+"/"+name)
			if pid, err := home.Owner(stack, name); err == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
	return names
}

func scriptOf(ts *testscript.TestScript) *script { return ts.Value(scriptKey{}).(*script) }

func (s *script) fake(parts ...string) string {
	return filepath.Join(append([]string{s.home.Dir, "fake"}, parts...)...)
}

func wants(ts *testscript.TestScript, neg bool, args []string, least int, usage string) {
	if neg || len(args) < least {
		ts.Fatalf("usage: %s", usage)
	}
}

// statusOf returns the exit status that err stands for.
func statusOf(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}

func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	wants(ts, neg, args, 2, "status N COMMAND…")
	err := ts.Exec(args[1], args[2:]...)
	if got := strconv.Itoa(statusOf(err)); got != args[0] {
		ts.Fatalf("exit status %s, want %s (%v)", got, args[0], err)
	}
}

// wait blocks until is true, or fails the script with what was awaited.
func wait(ts *testscript.TestScript, what string, is func() bool) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if poll(ctx, is) != nil {
		ts.Fatalf("%s: not within %s", what, patience)
	}
}

func cmdEventually(ts *testscript.TestScript, neg bool, args []string) {
	wants(ts, neg, args, 2, "eventually RE COMMAND…")
	re, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	wait(ts, strings.Join(args, " "), func() bool {
		cmd := exec.Command(args[1], args[2:]...)
		cmd.Dir = ts.MkAbs(".")
		cmd.Env = environ(ts)
		out, _ := cmd.CombinedOutput()
		return re.Match(out)
	})
}

// environ is the environment of the script.
func environ(ts *testscript.TestScript) []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "VZCOMPOSE_HOME", "VZCOMPOSE_FILE", "VZCOMPOSE_NAME", "TERM", "GOCOVERDIR", "TESTSCRIPT_COVER_DIR"} {
		if v := ts.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

func cmdBegin(ts *testscript.TestScript, neg bool, args []string) {
	wants(ts, neg, args, 2, "begin NAME COMMAND…")
	s := scriptOf(ts)
	cmd := exec.Command(args[1], args[2:]...)
	cmd.Dir, cmd.Env = ts.MkAbs("."), environ(ts)
	out, err := os.Create(ts.MkAbs(args[0] + ".out"))
	ts.Check(err)
	defer out.Close() // the command has its own
	errOut, err := os.Create(ts.MkAbs(args[0] + ".err"))
	ts.Check(err)
	defer errOut.Close()
	cmd.Stdout, cmd.Stderr = out, errOut
	ts.Check(cmd.Start())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running[args[0]] = cmd
}

func (s *script) command(ts *testscript.TestScript, name string) *exec.Cmd {
	s.mu.Lock()
	defer s.mu.Unlock()
	cmd := s.running[name]
	if cmd == nil {
		ts.Fatalf("no command %s was begun", name)
	}
	return cmd
}

func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	wants(ts, neg, args, 2, "signal NAME INT|TERM|KILL")
	sig, ok := map[string]os.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}[args[1]]
	if !ok {
		ts.Fatalf("no signal %s", args[1])
	}
	ts.Check(scriptOf(ts).command(ts, args[0]).Process.Signal(sig))
}

func cmdEnded(ts *testscript.TestScript, neg bool, args []string) {
	wants(ts, neg, args, 2, "ended NAME N")
	s := scriptOf(ts)
	cmd := s.command(ts, args[0])
	late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	s.mu.Lock()
	delete(s.running, args[0])
	s.mu.Unlock()
	if !late.Stop() {
		ts.Fatalf("%s did not end within %s", args[0], patience)
	}
	if got := strconv.Itoa(statusOf(err)); got != args[1] {
		ts.Fatalf("%s ended with %s, want %s\n%s", args[0], got, args[1], ts.ReadFile(args[0]+".err"))
	}
}

func cmdSaid(ts *testscript.TestScript, neg bool, args []string) {
	wants(ts, neg, args, 2, "said FILE RE")
	re, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	wait(ts, args[0]+" says "+args[1], func() bool { return re.MatchString(ts.ReadFile(args[0])) })
}

func cmdHold(ts *testscript.TestScript, neg bool, args []string) {
	wants(ts, neg, args, 2, "hold POINT INSTANCE")
	write(ts, filepath.Join("hold", args[0]+"-"+args[1]), "")
}

func cmdAt(ts *testscript.TestScript, neg bool, args []string) {
	wants(ts, neg, args, 2, "at POINT INSTANCE")
	path := scriptOf(ts).fake("at", args[0]+"-"+args[1])
	wait(ts, strings.Join(args, " "), func() bool { return os.Remove(path) == nil })
}

func cmdRelease(ts *testscript.TestScript, neg bool, args []string) {
	wants(ts, neg, args, 2, "release POINT INSTANCE")
	ts.Check(os.Remove(scriptOf(ts).fake("hold", args[0]+"-"+args[1])))
}

func cmdTell(ts *testscript.TestScript, neg bool, args []string) {
	wants(ts, neg, args, 2, "tell FILE TEXT")
	write(ts, args[0], strings.Join(args[1:], " "))
}

// write puts text into a file that directs machines.
func write(ts *testscript.TestScript, name, text string) {
	path := scriptOf(ts).fake(name)
	ts.Check(os.MkdirAll(filepath.Dir(path), 0o700))
	ts.Check(os.WriteFile(path+".new", []byte(text), 0o600))
	ts.Check(os.Rename(path+".new", path))
}

func cmdSpoil(ts *testscript.TestScript, neg bool, args []string) {
	wants(ts, neg, args, 0, "spoil")
	all, err := filepath.Glob(filepath.Join(scriptOf(ts).home.Templates(), "*.fake"))
	ts.Check(err)
	spoilt := 0
	for _, path := range all {
		b, err := os.ReadFile(path)
		ts.Check(err)
		if bytes.Contains(b, []byte(`"held"`)) {
			ts.Check(os.WriteFile(path, b[:len(b)/2], 0o600))
			spoilt++
		}
	}
	if spoilt == 0 {
		ts.Fatalf("there is none")
	}
}

func cmdKillSwitch(ts *testscript.TestScript, neg bool, args []string) {
	wants(ts, neg, args, 1, "killswitch STACK")
	pid, err := filelock.Signed(scriptOf(ts).home.SwitchLock(args[0]))
	ts.Check(err)
	ts.Check(syscall.Kill(pid, syscall.SIGKILL))
}
