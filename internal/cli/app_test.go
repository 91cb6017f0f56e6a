package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/internal/engine"
	"github.com/vzcompose/vzcompose/internal/errs"
)

// The status, and whether anything is said, by what went wrong.
func TestExit(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	_, out := pipeOf(t)
	gone := func() error { _, err := out.WriteString("x"); return err }()
	if !errors.Is(gone, syscall.EPIPE) {
		t.Fatal(gone)
	}
	lost := errs.New(errs.Unavailable, "the stream to the shim: %w", syscall.EPIPE)
	process := func(err error) error { return forProcess(func(*cli.Context) error { return err })(nil) }
	start := func(c errs.Class) error {
		return fmt.Errorf("exec in web-1: %w", &engine.StartError{Class: c, Err: errs.New(errs.Unavailable, "sh")})
	}
	for name, c := range map[string]struct {
		err  error
		want int
		says bool
	}{
		"done":                    {nil, 0, false},
		"status":                  {status(3), 3, false},
		"failed":                  {errors.New("x"), 1, true},
		"usage":                   {usage("x"), 2, true},
		"our reader is gone":      {fmt.Errorf("logs: %w", gone), 0, false},
		"another's pipe":          {lost, 1, true},
		"a file's pipe":           {&fs.PathError{Op: "write", Path: "/tmp/fifo", Err: syscall.EPIPE}, 1, true},
		"reader and more":         {errors.Join(gone, errors.New("x")), 1, true},
		"status and more":         {errors.Join(status(3), errors.New("x")), 3, true},
		"process":                 {process(status(3)), 3, false},
		"process done":            {process(nil), 0, false},
		"process, reader is gone": {process(gone), 0, false},
		"not found":               {process(start(errs.NotFound)), 127, true},
		"not executable":          {process(start(errs.PermissionDenied)), 126, true},
		"not started":             {process(start(errs.InvalidArgument)), 125, true},
		"no container":            {process(errs.New(errs.NotFound, "web")), 125, true},
		"process, usage":          {process(usage("x")), 2, true},
	} {
		t.Run(name, func(t *testing.T) {
			said, err := os.CreateTemp(t.TempDir(), "said")
			if err != nil {
				t.Fatal(err)
			}
			defer said.Close()
			a := &app{deps: Deps{LookupEnv: os.LookupEnv, Stdin: null, Stdout: out, Stderr: said}}
			if got := a.exit(c.err); got != c.want {
				t.Errorf("status %d, want %d", got, c.want)
			}
			b, err := os.ReadFile(said.Name())
			if err != nil || len(b) > 0 != c.says {
				t.Errorf("it says %q, %v", b, err)
			}
			if n := strings.Count(string(b), "\n"); n > 1 {
				t.Errorf("it says %q", b)
			}
		})
	}
}

// pipeOf is a pipe that nobody reads any more.
func pipeOf(t *testing.T) (r, w *os.File) {
	t.Helper()
	// Not the process's own descriptors 1 and 2, with which the runtime ends a process.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	t.Cleanup(func() { _ = w.Close() })
	return r, w
}

func TestVariables(t *testing.T) {
	lookup := func(k string) (string, bool) { return "of $" + k, k == "HERE" }
	got, err := variables([]string{"A=1", "HERE", "NOWHERE", "EMPTY=", "B=x=y"}, lookup)
	if want := []string{"A=1", "HERE=of $HERE", "EMPTY=", "B=x=y"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if _, err := variables([]string{"=x"}, lookup); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("a variable without a name: %v", err)
	}
}
