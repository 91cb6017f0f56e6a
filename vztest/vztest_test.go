package vztest

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose"
	"github.com/vzcompose/vzcompose/internal/process"
	"github.com/vzcompose/vzcompose/internal/stack/stacktest"
)

// TestMain has machines in memory.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 {
		deps := process.Deps{Stdin: os.Stdin, Stderr: os.Stderr, LookupEnv: os.LookupEnv, Driver: stacktest.NewDriver}
		if status, ok := process.Run(os.Args[2], deps); ok {
			os.Exit(status)
		}
	}
	os.Exit(m.Run())
}

// recorder is a test whose failures are looked at.
type recorder struct {
	testing.TB
	failed   bool
	logged   []string
	cleanups []func()
}

func (r *recorder) Cleanup(f func())      { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Failed() bool          { return r.failed }
func (r *recorder) Log(args ...any)       { r.logged = append(r.logged, args[0].(string)) }
func (r *recorder) Errorf(string, ...any) { r.failed = true }

func stackOf(t testing.TB, home, text string) *Stack {
	file := filepath.Join(t.TempDir(), "stack.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return UpWith(t, Options{Home: vzcompose.Options{Home: home}, Load: vzcompose.LoadOptions{Files: []string{file}}})
}

const web = `
name: web
defaults: {image: base, pull: never, interfaces: []}
containers: {web: {}}
`

func TestUp(t *testing.T) {
	home := stacktest.Home(t)
	s := stackOf(t, home, web)
	if !regexp.MustCompile(`^testup-[a-z0-9]{8}$`).MatchString(s.Name()) {
		t.Errorf("it is called %q", s.Name())
	}
	if out := s.Exec("web", "echo", "hello"); out != "hello\n" {
		t.Errorf("got %q", out)
	}
}

// A stack is taken down when its test has ended, and what it wrote is logged where the
// test has failed.
func TestCleanup(t *testing.T) {
	home := stacktest.Home(t)
	r := &recorder{TB: t}
	s := stackOf(r, home, web)
	if len(r.cleanups) != 1 {
		t.Fatalf("%d cleanups", len(r.cleanups))
	}
	// An up does not wait for what a container writes.
	seen := errors.New("it is ready")
	if err := s.Logs(t.Context(), vzcompose.LogOptions{Follow: true}, func(vzcompose.Line) error { return seen }); !errors.Is(err, seen) {
		t.Fatal(err)
	}
	r.failed = true
	r.cleanups[0]()
	if len(r.logged) != 1 || !strings.Contains(r.logged[0], "web-1 | ready") {
		t.Errorf("logged %q", r.logged)
	}
	if all, err := s.Instances(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("left: %+v, %v", all, err)
	}
}

func TestStackName(t *testing.T) {
	for test, want := range map[string]string{"TestA": "testa-", "TestA/with_b": "testa-with-b-", strings.Repeat("x", 90): strings.Repeat("x", 40) + "-"} {
		if got := stackName(test); !strings.HasPrefix(got, want) || len(got) != len(want)+8 {
			t.Errorf("%s: got %s", test, got)
		}
	}
}
