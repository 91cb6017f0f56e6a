package vzcompose

import (
	"context"
	"io"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/journal"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/logs"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/stack"
)

// Command is a process to run in a container.
type Command struct {
	Args  []string
	Env   []string // KEY=VALUE, beside the container's
	User  string   // "": the container's
	Dir   string   // "": the container's
	Index int      // of the replica; 0: the first

	Stdin          io.Reader // nil: it has ended
	Stdout, Stderr io.Writer // nil: what is written is lost
}

// Exec runs a process in a container that runs, and returns its exit status, with its
// output complete. name is a container or an instance. An error says that the status is
// not known; where the process could not be executed, it has the class NotFound or
// PermissionDenied.
func (s *Stack) Exec(ctx context.Context, name string, c Command) (int, error) {
	_, shim, err := s.use().Connect(ctx, name, c.Index, "exec in")
	if err != nil {
		return 0, err
	}
	defer shim.Close()
	return stack.Exec(ctx, shim, shimproto.Exec{Args: c.Args, Env: c.Env, User: c.User, Cwd: c.Dir},
		stack.Streams{Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr})
}

// Port returns where a TCP port of a container is found on the host: "127.0.0.1:8080".
// name is a container, whose first replica is meant, or an instance.
func (s *Stack) Port(ctx context.Context, name string, port int) (string, error) {
	i, err := s.use().Find(ctx, name, 0)
	if err != nil {
		return "", err
	}
	for _, p := range i.Ports {
		if p.Target == port && p.Protocol == "tcp" {
			return p.Reached(), nil
		}
	}
	return "", errs.New(errs.NotFound, "port %d of %s is not published", port, i.Name)
}

// Wait blocks until an instance has ended, and returns its exit status. name is a
// container, whose first replica is meant, or an instance.
func (s *Stack) Wait(ctx context.Context, name string) (int, error) {
	use := s.use()
	i, err := use.Find(ctx, name, 0)
	if err != nil {
		return 0, err
	}
	st, err := use.AwaitEnd(ctx, i.Name)
	switch {
	case err != nil:
		return 0, err
	case st.State == lifecycle.Errored:
		return 0, errs.New(errs.Unavailable, "%s: %s", i.Name, st.Cause)
	case st.Exit == nil:
		return 0, errs.New(errs.FailedPrecondition, "%s has not run", i.Name)
	}
	return st.Exit.Code, nil
}

// LogOptions select lines of output.
type LogOptions struct {
	Names  []string // containers or instances; none: all
	Follow bool     // go on until every instance that is meant has ended
	Tail   int      // the last lines of each instance; 0: all
	Since  time.Time
}

// Line is a line of output.
type Line struct {
	Time     time.Time
	Instance string
	Stream   string // "stdout", "stderr", or "console" where the machine wrote it
	Text     string // without its newline
}

// Logs calls each with every line of output in the order of their times, until there
// are no more, each returns an error, or ctx ends.
func (s *Stack) Logs(ctx context.Context, o LogOptions, each func(Line) error) error {
	lo := stack.LogOptions{Names: o.Names, Follow: o.Follow, Tail: o.Tail, Since: o.Since}
	if o.Tail == 0 {
		lo.Tail = logs.All
	}
	c, failed := control(Observer{})
	return failed(ctx, s.use().Logs(ctx, c, lo, func([]string) stack.LineWriter { return lineFunc(each) }))
}

// lineFunc is a function as a LineWriter.
type lineFunc func(Line) error

func (f lineFunc) Write(e logs.Entry) error {
	return f(Line{Time: e.Time, Instance: e.Name, Stream: e.Stream, Text: string(e.Text)})
}
func (f lineFunc) Close() error { return nil }

// Event is something that happened to a stack.
type Event struct {
	Time       time.Time
	Type       string // "container", "network", "volume"
	Action     string // "create", "start", "die"
	Container  string
	Name       string            // of the instance, the network, the volume
	Attributes map[string]string // "exit_code", "signal", "cause"
}

// EventOptions select events.
type EventOptions struct {
	// Since has those that happened after that time; zero: those from now on.
	Since time.Time
	// Until ends Events; zero: ctx does.
	Until time.Time
}

// Events calls each with what happens to the stack, by whichever process, until each
// returns an error, Until has passed or ctx ends, which is no error.
func (s *Stack) Events(ctx context.Context, o EventOptions, each func(Event) error) error {
	if o.Since.IsZero() {
		o.Since = time.Now()
	}
	return s.use().History(ctx, journal.ReadOptions{Follow: true, Since: o.Since, Until: o.Until}, func(e journal.Entry) error {
		return each(Event{Time: e.Time, Type: e.Type, Action: e.Action, Container: e.Container, Name: e.Name, Attributes: e.Attributes})
	}, func(error) {})
}
