package vzcompose

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/stack/stacktest"
)

func TestMain(m *testing.M) {
	runHelper(stacktest.NewDriver)
	os.Exit(m.Run())
}

// loaded returns a stack of its own home folder.
func loaded(t *testing.T, text string) *Stack {
	t.Helper()
	home, err := Open(Options{Home: stacktest.Home(t)})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "stack.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := home.Load(LoadOptions{Files: []string{file}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Down(context.WithoutCancel(t.Context()), DownOptions{Volumes: true, Grace: new(time.Duration)}); err != nil {
			t.Error(err)
		}
	})
	return s
}

const shop = `
name: shop
defaults: {image: base, pull: never, interfaces: []}
containers:
  db: {}
  web: {depends_on: [db]}
`

func TestUpAndDown(t *testing.T) {
	s := loaded(t, shop)
	plan, err := s.Plan(t.Context(), UpOptions{})
	if err != nil || len(plan.Steps) == 0 || !strings.Contains(plan.String(), "web-1") {
		t.Fatalf("got %v, %v", plan, err)
	}
	var steps []string
	o := UpOptions{Wait: true, Observer: Observer{Step: func(n Step) {
		if n.Status == "done" {
			steps = append(steps, n.Operation+" "+n.Subject)
		}
	}}}
	began := time.Now()
	if err := s.Up(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if db, web := slices.Index(steps, "start container/db-1"), slices.Index(steps, "start container/web-1"); db < 0 || web < db {
		t.Errorf("the steps were %q", steps)
	}
	all, err := s.Instances(t.Context())
	if err != nil || len(all) != 2 || all[1].Name != "web-1" || all[1].State != Running {
		t.Fatalf("got %+v, %v", all, err)
	}
	if plan, err := s.Plan(t.Context(), UpOptions{}); err != nil || len(plan.Steps) != 0 {
		t.Errorf("what is up is to be changed: %v, %v", plan, err)
	}
	var out bytes.Buffer
	if code, err := s.Exec(t.Context(), "web", Command{Args: []string{"echo", "hello"}, Stdout: &out}); err != nil || code != 0 || out.String() != "hello\n" {
		t.Errorf("exec: %d, %v, %q", code, err, &out)
	}
	if _, err := s.Port(t.Context(), "web", 80); ClassOf(err) != NotFound {
		t.Errorf("port: %v", err)
	}
	if _, err := s.Exec(t.Context(), "nobody", Command{Args: []string{"true"}}); ClassOf(err) != NotFound || HintOf(err) != "there is db, db-1, web, web-1" {
		t.Errorf("exec: %v, %q", err, HintOf(err))
	}
	var started []string
	err = s.Events(t.Context(), EventOptions{Since: began, Until: time.Now()}, func(e Event) error {
		if e.Action == "start" {
			started = append(started, e.Name)
		}
		return nil
	})
	if slices.Sort(started); err != nil || !slices.Equal(started, []string{"db-1", "web-1"}) {
		t.Errorf("events: %q, %v", started, err)
	}
	if err := s.Down(t.Context(), DownOptions{}); err != nil {
		t.Fatal(err)
	}
	if all, err := s.Instances(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("left after down: %+v, %v", all, err)
	}
}

func TestLogsAndWait(t *testing.T) {
	s := loaded(t, `
name: job
defaults: {image: base, pull: never, interfaces: []}
containers:
  job: {command: [exit, "3"]}
  hello: {command: [echo, hello]}
`)
	if err := s.Up(t.Context(), UpOptions{}); err != nil {
		t.Fatal(err)
	}
	if code, err := s.Wait(t.Context(), "job"); err != nil || code != 3 {
		t.Errorf("got %d, %v", code, err)
	}
	var lines []string
	err := s.Logs(t.Context(), LogOptions{Follow: true}, func(l Line) error {
		lines = append(lines, l.Instance+" "+l.Stream+" "+l.Text)
		return nil
	})
	if err != nil || !slices.Equal(lines, []string{"hello-1 stdout hello"}) {
		t.Errorf("got %q, %v", lines, err)
	}
}

func TestAFailureSaysWhichStepAndWhy(t *testing.T) {
	s := loaded(t, `
name: bad
defaults: {image: base, pull: never, interfaces: []}
containers:
  bad: {command: [exit, "3"], restart: "no"}
  web: {depends_on: {bad: {condition: completed}}}
`)
	err := s.Up(t.Context(), UpOptions{})
	var failed *PlanError
	if !errors.As(err, &failed) || len(failed.Failed) != 1 || failed.Failed[0].Subject != "container/bad-1" {
		t.Fatalf("got %v", err)
	}
	if !strings.Contains(err.Error(), "exited with 3") {
		t.Errorf("got %v", err)
	}
}

func TestFindings(t *testing.T) {
	home, err := Open(Options{Home: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "stack.yaml")
	if err := os.WriteFile(file, []byte("name: a\ncontainers: {web: {imag: base}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = home.Load(LoadOptions{Files: []string{file}})
	var found Findings
	if !errors.As(err, &found) || found[0].Line != 2 || !strings.Contains(err.Error(), "stack.yaml:2:") {
		t.Errorf("got %v", err)
	}
}

// The classes are those of the errors, in which a program compares them.
func TestClasses(t *testing.T) {
	for class, inner := range map[Class]errs.Class{
		Unknown: errs.Unknown, InvalidArgument: errs.InvalidArgument, NotFound: errs.NotFound, AlreadyExists: errs.AlreadyExists,
		FailedPrecondition: errs.FailedPrecondition, PermissionDenied: errs.PermissionDenied, ResourceExhausted: errs.ResourceExhausted,
		Unavailable: errs.Unavailable, DeadlineExceeded: errs.DeadlineExceeded, Canceled: errs.Canceled, Unsupported: errs.Unsupported,
		DataLoss: errs.DataLoss, Internal: errs.Internal,
	} {
		if string(class) != string(inner) {
			t.Errorf("%q is not %q", class, inner)
		}
	}
}

// A helper that did not become one must not bring stacks up, which start helpers.
func TestAHelperOpensNothing(t *testing.T) {
	cmd := exec.Command(os.Args[0], helper, "unheard-of")
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Errorf("got %v", err)
	}
	args := os.Args
	t.Cleanup(func() { os.Args = args })
	os.Args = []string{"program", helper, "shim"}
	if _, err := Open(Options{Home: t.TempDir()}); ClassOf(err) != FailedPrecondition || !strings.Contains(HintOf(err), "RunHelper") {
		t.Errorf("got %v, %q", err, HintOf(err))
	}
}

// Two that bring the same stack up take turns: one does it, the other finds it done.
func TestTwoUpsTakeTurns(t *testing.T) {
	s := loaded(t, shop)
	started := make(chan string, 8)
	o := UpOptions{Observer: Observer{Step: func(n Step) {
		if n.Operation == "start" && n.Status == "done" {
			started <- n.Subject
		}
	}}}
	var g errgroup.Group
	for range 2 {
		g.Go(func() error { return s.Up(t.Context(), o) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if len(started) != 2 {
		t.Errorf("%d starts", len(started))
	}
}

// An up whose context ends takes back what it was starting, and says why it ended.
func TestAnUpThatIsCanceled(t *testing.T) {
	s := loaded(t, shop)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	o := UpOptions{Observer: Observer{Step: func(n Step) {
		if n.Subject == "container/db-1" && n.Operation == "start" && n.Status == "done" {
			cancel(why)
		}
	}}}
	if err := s.Up(ctx, o); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	all, err := s.Instances(t.Context())
	if err != nil || slices.ContainsFunc(all, func(i Instance) bool { return i.Container == "web" && i.State == Running }) {
		t.Errorf("got %+v, %v", all, err)
	}
}
