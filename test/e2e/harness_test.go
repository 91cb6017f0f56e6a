// Package e2e tests vzcompose as a user meets it: the program itself, real
// machines, real images. Each scenario has a stack of its own; all share a home
// folder, so that the kernel and the images are taken in once.
//
// It runs where VZCOMPOSE_E2E names the folder that `make deps` fills.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/state"
)

// patience is how long one command may take: machines are emulated, on busy
// hosts.
const patience = 4 * time.Minute

// env is what the scenarios share.
type env struct {
	cache, home, program, boots string
}

var shared env // set by TestMain, before any test

func TestMain(m *testing.M) {
	cache := os.Getenv("VZCOMPOSE_E2E")
	if cache == "" {
		os.Exit(m.Run()) // each test skips itself
	}
	os.Exit(run(m, cache))
}

func run(m *testing.M, cache string) int {
	program, err := filepath.Abs("../../bin/vzcompose")
	if err != nil {
		return fail(err)
	}
	shared = env{cache: cache, home: filepath.Join(cache, "e2e"), program: program, boots: filepath.Join(cache, "boots")}
	if err := prepare(); err != nil {
		return fail(err)
	}
	code := m.Run()
	if err := report(cache); err != nil {
		return fail(err)
	}
	b, _ := os.ReadFile(shared.boots) // none: no machine was booted
	fmt.Printf("%d machines were booted\n", bytes.Count(b, []byte("\n")))
	if err := leftovers(shared.home); err != nil {
		return fail(err)
	}
	return code
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, "e2e:", err)
	return 1
}

// prepare takes in the kernel and busybox, and has boots counted.
func prepare() error {
	if err := os.RemoveAll(shared.boots); err != nil {
		return err
	}
	if err := os.Setenv("VZCOMPOSE_HOME", shared.home); err != nil {
		return err
	}
	if err := countBoots(shared.cache, shared.boots); err != nil {
		return err
	}
	if out, _ := exec.Command(shared.program, "kernel", "ls", "-q").Output(); len(out) == 0 {
		if err := simple("kernel", "import", filepath.Join(shared.cache, "kernel.deb")); err != nil {
			return err
		}
	}
	return simple("image", "import", "--cmd", "sh", filepath.Join(shared.cache, "images", "busybox.tar"), "busybox")
}

func simple(args ...string) error {
	if out, err := exec.Command(shared.program, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("vzcompose %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// stack is one scenario's stack.
type stack struct {
	t    *testing.T
	name string
	dir  string
	// found: commands are run in the folder, and find the stack's files and its name.
	found bool
	user  *account // who runs the commands; nil: whoever runs the tests
}

// scenario makes a stack of the file; what is left of it at the end is taken
// down.
func scenario(t *testing.T, file string) *stack {
	t.Helper()
	if shared.cache == "" {
		t.Skip("VZCOMPOSE_E2E is not set: no machines")
	}
	s := &stack{t: t, name: strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name())), dir: t.TempDir()}
	s.write(file)
	s.cleanUp()
	return s
}

// project makes a stack of a folder of testdata. Commands run in a copy of it and find
// its files themselves; its .env has to name the stack as the folder is named.
func project(t *testing.T, name string) *stack {
	t.Helper()
	if shared.cache == "" {
		t.Skip("VZCOMPOSE_E2E is not set: no machines")
	}
	s := &stack{t: t, name: name, dir: t.TempDir(), found: true}
	if err := os.CopyFS(s.dir, os.DirFS(filepath.Join("testdata", name))); err != nil {
		t.Fatal(err)
	}
	s.cleanUp()
	return s
}

// cleanUp takes down what is left of the stack at the end.
func (s *stack) cleanUp() {
	t := s.t
	t.Cleanup(func() {
		if t.Failed() {
			s.vz("ps").dump(t)
			s.vz("logs", "--tail", "20").dump(t)
		}
		if r := s.vz("down", "-v", "-t", "0"); r.code != 0 {
			t.Errorf("down: %s", r)
		}
	})
}

func (s *stack) write(file string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, "vzcompose.yaml"), []byte(file), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// result is what a command did.
type result struct {
	args     []string
	code     int
	out, err string
}

func (r result) String() string {
	return fmt.Sprintf("vzcompose %s: status %d\n%s%s", strings.Join(r.args, " "), r.code, r.out, r.err)
}

func (r result) dump(t *testing.T) { t.Logf("%s", r) }

func (s *stack) command(ctx context.Context, args ...string) *exec.Cmd {
	if !s.found {
		args = append([]string{"-n", s.name, "-f", filepath.Join(s.dir, "vzcompose.yaml")}, args...)
	}
	program := shared.program
	if s.user != nil {
		program = s.user.program
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = s.dir
	s.user.run(cmd)
	return cmd
}

// vz runs a command to its end.
func (s *stack) vz(args ...string) result { return s.feed("", args...) }

func (s *stack) feed(stdin string, args ...string) result {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := s.command(ctx, args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	err := cmd.Run()
	r := result{args: args, out: out.String(), err: errOut.String()}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		r.code = exit.ExitCode()
	} else if err != nil {
		s.t.Fatalf("%s: %v", r, err)
	}
	return r
}

// must runs a command that has to succeed.
func (s *stack) must(args ...string) result {
	s.t.Helper()
	r := s.vz(args...)
	if r.code != 0 {
		s.t.Fatalf("%s", r)
	}
	return r
}

// instances answers what ps says.
func (s *stack) instances() map[string]shown {
	s.t.Helper()
	all := map[string]shown{}
	for line := range strings.Lines(s.must("ps", "--format", "json").out) {
		var i shown
		if err := json.Unmarshal([]byte(line), &i); err != nil {
			s.t.Fatalf("ps: %v: %s", err, line)
		}
		all[i.Name] = i
	}
	return all
}

// shown is an instance as JSON shows it: its state is the word of ps.
type shown struct {
	state.Instance
	State string `json:"state"`
}

// states answers name=state of every instance, sorted by name.
func (s *stack) states() string {
	s.t.Helper()
	var words []string
	for line := range strings.Lines(s.must("ps", "--format", "{{.Name}}={{.State}}").out) {
		words = append(words, strings.TrimSpace(line))
	}
	return strings.Join(words, " ")
}

// eventually waits until fn is true.
func (s *stack) eventually(what string, fn func() bool) {
	s.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(patience)
	for !fn() {
		select {
		case <-tick.C:
		case <-limit:
			s.t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// qemuOf answers the pid of an instance's machine.
func (s *stack) qemuOf(instance string) int {
	s.t.Helper()
	shim := s.instances()[instance].PID
	out, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", shim, shim))
	if err != nil {
		s.t.Fatal(err)
	}
	pids, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", shim))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, p := range pids {
		if b, err := os.ReadFile(p); err == nil {
			out = append(out, b...)
		}
	}
	for _, pid := range strings.Fields(string(out)) {
		// The shim may have started its stack's switch too.
		if name, err := os.ReadFile(filepath.Join("/proc", pid, "comm")); err == nil && strings.HasPrefix(string(name), "qemu") {
			return must(strconv.Atoi(pid))
		}
	}
	s.t.Fatalf("no machine below shim %d: %s", shim, out)
	return 0
}

func kill9(t *testing.T, pid int) {
	t.Helper()
	if pid <= 1 {
		t.Fatalf("no process %d", pid)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func contains(t *testing.T, where, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%s lacks %q:\n%s", where, w, text)
		}
	}
}
