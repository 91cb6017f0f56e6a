package cli

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/stack"
	"github.com/vzcompose/vzcompose/planner"
	"github.com/vzcompose/vzcompose/spec"
)

// publishOffsetFlag is of the commands that read ports of the stack file: with one
// environment they agree about them.
func publishOffsetFlag() cli.Flag {
	return &cli.IntFlag{Name: "publish-offset", Usage: "add `N` to every port of the host that the file fixes", EnvVars: []string{"VZCOMPOSE_PUBLISH_OFFSET"}}
}

func upFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "do not follow the logs"},
		&cli.BoolFlag{Name: "dry-run", Usage: "show the plan, do nothing"},
		&cli.BoolFlag{Name: "no-start", Usage: "make and update, start nothing"},
		&cli.BoolFlag{Name: "no-deps", Usage: "leave what the named containers depend on alone"},
		&cli.BoolFlag{Name: "force-recreate", Usage: "make the containers anew"},
		&cli.BoolFlag{Name: "no-recreate", Usage: "keep what exists as it was made"},
		&cli.BoolFlag{Name: "remove-orphans", Usage: "remove instances that the file does not declare"},
		&cli.BoolFlag{Name: "fail-fast", Usage: "begin nothing more after a failure"},
		&cli.StringSliceFlag{Name: "scale", Usage: "`NAME=N` replicas of a container"},
		&cli.BoolFlag{Name: "cold", Usage: "boot machines, restore none"},
		&cli.StringFlag{Name: "pull", Usage: "missing, always or never, for every container"},
		graceFlag(), publishOffsetFlag(),
		&cli.BoolFlag{Name: "wait", Usage: "wait until what is started runs, or is healthy where it has a check; does not follow the logs"},
		&cli.Float64Flag{Name: "wait-timeout", Usage: "at most `SECONDS` of that"},
		&cli.BoolFlag{Name: "abort-on-container-exit", Usage: "stop the stack when an instance has ended"},
		&cli.BoolFlag{Name: "abort-on-container-failure", Usage: "stop the stack when an instance has failed"},
		&cli.StringFlag{Name: "exit-code-from", Usage: "answer the status of container `NAME`; stop the stack when an instance has ended"},
		&cli.StringSliceFlag{Name: "attach", Usage: "follow the logs of container `NAME` only; repeatable"},
		&cli.StringSliceFlag{Name: "no-attach", Usage: "do not follow the logs of container `NAME`; repeatable"},
		&cli.BoolFlag{Name: "timestamps", Usage: "show the time of each line"},
		&cli.BoolFlag{Name: "no-log-prefix", Usage: "show lines without the instance's name"},
	}
}

func (a *app) upCommand() *cli.Command {
	return &cli.Command{
		Name: "up", Usage: "bring the stack up, as declared", ArgsUsage: "[NAME…]",
		Flags:  upFlags(),
		Action: a.up,
	}
}

func planOptions(c *cli.Context) (planner.Options, error) {
	o := planner.Options{
		Only: c.Args().Slice(), NoDeps: c.Bool("no-deps"), NoStart: c.Bool("no-start"),
		ForceRecreate: c.Bool("force-recreate"), NoRecreate: c.Bool("no-recreate"), RemoveOrphans: c.Bool("remove-orphans"),
	}
	if o.ForceRecreate && o.NoRecreate {
		return o, usage("--force-recreate and --no-recreate exclude each other")
	}
	var err error
	o.Scale, err = replicas(c.StringSlice("scale"))
	return o, err
}

// overridePull gives every container the pull policy of the flag.
func overridePull(s *spec.Stack, policy string) error {
	switch policy {
	case "":
		return nil
	case "missing", "always", "never":
	default:
		return usage("--pull %s: it is missing, always or never", policy)
	}
	for name, ct := range s.Containers {
		ct.Pull = policy
		s.Containers[name] = ct
	}
	return nil
}

func (a *app) up(c *cli.Context) error {
	a.cold, a.preview = c.Bool("cold"), true
	s, err := a.withFile(c, c.Args().Slice()...)
	if err != nil {
		return err
	}
	o := stack.UpOptions{Wait: c.Bool("wait"), WaitLimit: time.Duration(c.Float64("wait-timeout") * float64(time.Second))}
	if o.Plan, err = planOptions(c); err != nil {
		return err
	}
	if err := overridePull(s.Declared, c.String("pull")); err != nil {
		return err
	}
	if o.Attach, err = a.attachOptions(c, s.Declared); err != nil {
		return err
	}
	return a.change(c, func() (*stack.Stack, error) { return s, nil }, func(s *stack.Stack, control stack.Control) error {
		code, err := s.Up(c.Context, control, o)
		return exitWith(code, err)
	})
}

// attachOptions returns how the stack is followed once it is up; nil: it is not.
func (a *app) attachOptions(c *cli.Context, s *spec.Stack) (*stack.AttachOptions, error) {
	o := &stack.AttachOptions{StatusOf: c.String("exit-code-from"), Show: c.StringSlice("attach"), Hide: c.StringSlice("no-attach"), Lines: a.lines(c)}
	switch {
	case c.Bool("abort-on-container-exit") && c.Bool("abort-on-container-failure"):
		return nil, usage("--abort-on-container-exit and --abort-on-container-failure exclude each other")
	case c.Bool("abort-on-container-failure"):
		o.Abort = stack.OnFailure
	case c.Bool("abort-on-container-exit"), o.StatusOf != "":
		o.Abort = stack.OnExit
	}
	for _, name := range slices.Concat(o.Show, o.Hide, []string{o.StatusOf}) {
		if _, ok := s.Containers[name]; !ok && name != "" {
			return nil, errs.WithHint(usage("no container %q", name), "the stack has %s", strings.Join(slices.Sorted(maps.Keys(s.Containers)), ", "))
		}
	}
	wait, detached := c.Bool("wait"), c.Bool("wait") || c.Bool("detach") || c.Bool("no-start")
	switch {
	case c.IsSet("wait-timeout") && (!wait || c.Float64("wait-timeout") <= 0):
		return nil, usage("--wait-timeout is a number of seconds for --wait")
	case wait && c.Bool("no-start"):
		return nil, usage("--wait and --no-start exclude each other")
	case detached && (o.Abort != stack.Never || len(o.Show)+len(o.Hide) > 0):
		return nil, usage("what is to be followed (--abort-on-…, --exit-code-from, --attach, --no-attach) excludes --detach, --wait and --no-start")
	case detached:
		return nil, nil
	}
	return o, nil
}
