// Package vztest brings a stack up for a Go test and takes it down when the test has
// ended.
//
//	func TestMain(m *testing.M) { vztest.Main(m) }
//
//	func TestHits(t *testing.T) {
//		stack := vztest.Up(t, "vzcompose.yaml")
//		answer, err := http.Get("http://" + stack.Port("web", 80) + "/hits")
//		…
//	}
//
// Every Up has a stack of its own, under a name that is in use nowhere else: tests run
// side by side. Publish ports without a number for the host ("80", not "8080:80"), and
// ask Port for what was chosen.
package vztest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose"
)

// Main runs the tests of a package, and exits. It is for TestMain: the test's executable
// is also what looks after its machines.
func Main(m *testing.M) {
	vzcompose.RunHelper()
	os.Exit(m.Run())
}

// Options of UpWith. The zero value is what Up has.
type Options struct {
	Home vzcompose.Options
	Load vzcompose.LoadOptions // Name is chosen where it is empty
	Up   vzcompose.UpOptions   // Wait is set
	// Limit bounds how long the stack may take to come up; 0: 10 minutes, for images may
	// have to be fetched.
	Limit time.Duration
	// KeepVolumes leaves named volumes behind.
	KeepVolumes bool
}

// Stack is a stack that is up. Its methods fail the test where they cannot do what they
// are asked for.
type Stack struct {
	*vzcompose.Stack
	t testing.TB
}

// Up brings up the stack that a file declares, and waits until it runs, or is healthy
// where it has checks. When the test has ended the stack is taken down with its volumes.
// A test that has failed logs what the containers wrote.
func Up(t testing.TB, file string) *Stack {
	t.Helper()
	return UpWith(t, Options{Load: vzcompose.LoadOptions{Files: []string{file}}})
}

// UpWith is Up with options.
func UpWith(t testing.TB, o Options) *Stack {
	t.Helper()
	if o.Load.Name == "" {
		o.Load.Name = stackName(t.Name())
	}
	if o.Limit == 0 {
		o.Limit = 10 * time.Minute
	}
	if o.Up.Observer.Note == nil {
		o.Up.Observer.Note = func(text string) { t.Log(text) }
	}
	o.Up.Wait = true
	home, err := vzcompose.Open(o.Home)
	if err != nil {
		fatal(t, err)
	}
	stack, err := home.Load(o.Load)
	if err != nil {
		fatal(t, err)
	}
	s := &Stack{Stack: stack, t: t}
	t.Cleanup(func() { s.down(o) }) // also of what a failed up leaves
	ctx, cancel := context.WithTimeoutCause(t.Context(), o.Limit, errors.New("the stack was not up within "+o.Limit.String()))
	defer cancel()
	if err := stack.Up(ctx, o.Up); err != nil {
		fatal(t, err)
	}
	return s
}

// fatal fails a test with an error and what can be done about it.
func fatal(t testing.TB, err error) {
	t.Helper()
	if hint := vzcompose.HintOf(err); hint != "" {
		t.Fatalf("%v\nhint: %s", err, hint)
	}
	t.Fatal(err)
}

// stackName returns a name for the stack of a test that no other stack has.
func stackName(test string) string {
	words := strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(test), "-"), "-")
	return strings.Trim(words[:min(len(words), 40)], "-") + "-" + strings.ToLower(rand.Text()[:8])
}

// downLimit bounds what is done after a test: its context has ended then.
const downLimit = 5 * time.Minute

func (s *Stack) down(o Options) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), downLimit, errors.New("the stack was not down within "+downLimit.String()))
	defer cancel()
	if s.t.Failed() {
		s.t.Log(s.output(ctx))
	}
	if err := s.Down(ctx, vzcompose.DownOptions{Volumes: !o.KeepVolumes}); err != nil {
		s.t.Errorf("take stack %s down: %v", s.Name(), err)
	}
}

// output returns what the containers wrote, a line each.
func (s *Stack) output(ctx context.Context) string {
	var b strings.Builder
	b.WriteString("output of the containers:")
	err := s.Logs(ctx, vzcompose.LogOptions{}, func(l vzcompose.Line) error {
		b.WriteString("\n" + l.Time.Format("15:04:05.000 ") + l.Instance + " | " + l.Text)
		return nil
	})
	if err != nil {
		b.WriteString("\n" + err.Error())
	}
	return b.String()
}

// Port returns where a TCP port of a container is found on the host: "127.0.0.1:8080".
func (s *Stack) Port(container string, port int) string {
	s.t.Helper()
	address, err := s.Stack.Port(s.t.Context(), container, port)
	if err != nil {
		fatal(s.t, err)
	}
	return address
}

// Exec runs a command in a container and returns its standard output. A command that
// exits with another status than 0 fails the test, with what it wrote.
func (s *Stack) Exec(container string, args ...string) string {
	s.t.Helper()
	var out, errOut bytes.Buffer
	code, err := s.Stack.Exec(s.t.Context(), container, vzcompose.Command{Args: args, Stdout: &out, Stderr: &errOut})
	if err != nil {
		fatal(s.t, err)
	}
	if code != 0 {
		s.t.Fatalf("%s in %s exited with %d\n%s%s", strings.Join(args, " "), container, code, &out, &errOut)
	}
	return out.String()
}
