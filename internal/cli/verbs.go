package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/engine"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/stack"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/ui"
)

func graceFlag() cli.Flag {
	return &cli.IntFlag{Name: "timeout", Aliases: []string{"t"}, Value: -1, Usage: "`SECONDS` until SIGKILL, in place of the declared ones"}
}

func (a *app) createCommand() *cli.Command {
	return &cli.Command{
		Name: "create", Usage: "make the instances, start none", ArgsUsage: "[NAME…]",
		Flags: slices.DeleteFunc(upFlags(), func(f cli.Flag) bool {
			return slices.Contains([]string{"detach", "no-start", "timestamps", "no-log-prefix", "cold", "wait", "wait-timeout",
				"abort-on-container-exit", "abort-on-container-failure", "exit-code-from", "attach", "no-attach"}, f.Names()[0])
		}),
		Action: a.create,
	}
}

func (a *app) create(c *cli.Context) error {
	opts, err := planOptions(c)
	if err != nil {
		return err
	}
	open := func() (*stack.Stack, error) {
		s, err := a.withFile(c, c.Args().Slice()...)
		if err != nil {
			return nil, err
		}
		return s, overridePull(s.Declared, c.String("pull"))
	}
	return a.change(c, open, func(s *stack.Stack, control stack.Control) error { return s.Create(c.Context, control, opts) })
}

// changeNamed returns a command that changes what exists, or what its arguments name
// of it.
func (a *app) changeNamed(name, usage string, flags []cli.Flag,
	do func(*stack.Stack, context.Context, stack.Control, []string) error) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usage, ArgsUsage: "[NAME…]",
		Flags: append(flags, &cli.BoolFlag{Name: "dry-run", Usage: "show the plan, do nothing"}),
		Action: func(c *cli.Context) error {
			a.cold = c.Bool("cold") // false where the command has no such flag
			return a.change(c, func() (*stack.Stack, error) { return a.withName(c) }, func(s *stack.Stack, control stack.Control) error {
				return do(s, c.Context, control, c.Args().Slice())
			})
		},
	}
}

func (a *app) startCommand() *cli.Command {
	return a.changeNamed("start", "start instances that exist", []cli.Flag{&cli.BoolFlag{Name: "cold", Usage: "boot machines, restore none"}}, (*stack.Stack).Start)
}

func (a *app) stopCommand() *cli.Command {
	return a.changeNamed("stop", "stop instances, and keep them", []cli.Flag{graceFlag()}, (*stack.Stack).StopInstances)
}

func (a *app) restartCommand() *cli.Command {
	return a.changeNamed("restart", "stop instances and start them again", []cli.Flag{graceFlag()}, (*stack.Stack).Restart)
}

func (a *app) rmCommand() *cli.Command {
	return &cli.Command{
		Name: "rm", Usage: "remove stopped instances and what they have written", ArgsUsage: "[NAME…]",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "do not ask"},
			&cli.BoolFlag{Name: "stop", Aliases: []string{"s"}, Usage: "stop those that run first"},
			&cli.BoolFlag{Name: "volumes", Aliases: []string{"v"}, Usage: "and the volumes that only they have: without a name in the stack file, or of their images"},
			graceFlag(),
			&cli.BoolFlag{Name: "dry-run", Usage: "show the plan, do nothing"},
		},
		Action: a.rm,
	}
}

func (a *app) rm(c *cli.Context) error {
	o := stack.RemoveOptions{Names: c.Args().Slice(), Stop: c.Bool("stop"), Volumes: c.Bool("volumes")}
	if !c.Bool("force") {
		o.Confirm = func(all []state.Instance) error { return a.confirm("remove " + names(all)) }
	}
	return a.change(c, func() (*stack.Stack, error) { return a.withName(c) }, func(s *stack.Stack, control stack.Control) error {
		return s.Remove(c.Context, control, o)
	})
}

func names(all []state.Instance) string {
	var out []string
	for _, i := range all {
		out = append(out, i.Name)
	}
	return strings.Join(out, ", ")
}

// confirm asks the person at the terminal. Where there is none it is an error.
func (a *app) confirm(what string) error {
	if st, err := a.deps.Stdin.Stat(); err != nil || st.Mode()&os.ModeCharDevice == 0 {
		return errs.WithHint(usage("%s: there is nobody to ask", what), "-f does not ask")
	}
	a.view.Notef("%s? [y/N]", what)
	line, _ := bufio.NewReader(a.deps.Stdin).ReadString('\n') // an end is a no
	if answer := strings.ToLower(strings.TrimSpace(line)); answer != "y" && answer != "yes" {
		return errs.New(errs.Canceled, "nothing was removed")
	}
	return nil
}

// each does something to every running instance that the arguments name, all at
// once, and answers every error.
func (a *app) each(c *cli.Context, do func(context.Context, *stack.Stack, state.Instance) error) error {
	w, _, picked, err := a.selected(c)
	if err != nil {
		return err
	}
	if !c.Args().Present() { // what runs of all; what is named must run
		picked = slices.DeleteFunc(slices.Clone(picked), func(i state.Instance) bool { return !i.State.Live() })
	}
	failed := make([]error, len(picked))
	var g errgroup.Group
	for n, i := range picked {
		g.Go(func() error {
			if err := do(c.Context, w, i); err != nil {
				failed[n] = fmt.Errorf("%s: %w", i.Name, err)
			}
			return nil
		})
	}
	_ = g.Wait() // none
	return errors.Join(failed...)
}

func (a *app) killCommand() *cli.Command {
	return &cli.Command{
		Name: "kill", Usage: "send a signal to the process of instances", ArgsUsage: "[NAME…]",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "signal", Aliases: []string{"s"}, Value: "SIGKILL", Usage: "`SIGNAL` by name or number"},
		},
		Action: func(c *cli.Context) error {
			sig, err := agentproto.ParseSignal(c.String("signal"))
			if err != nil {
				return err
			}
			return a.each(c, func(ctx context.Context, w *stack.Stack, i state.Instance) error {
				shim, err := w.Dial(ctx, i.Name)
				if err != nil {
					return err
				}
				defer shim.Close()
				return shim.Signal(ctx, sig)
			})
		},
	}
}

func (a *app) waitCommand() *cli.Command {
	return &cli.Command{
		Name: "wait", Usage: "wait until instances have ended; the status is the first one's", ArgsUsage: "NAME…",
		Flags: []cli.Flag{
			&cli.Float64Flag{Name: "timeout", Usage: "at most `SECONDS`"},
		},
		Action: a.wait,
	}
}

func (a *app) wait(c *cli.Context) error {
	w, _, picked, err := a.selected(c)
	if err != nil {
		return err
	}
	ctx := c.Context
	if t := c.Float64("timeout"); t > 0 {
		d := time.Duration(t * float64(time.Second))
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, d, errs.New(errs.DeadlineExceeded, "not ended within %s", d))
		defer cancel()
	}
	code := 0
	for n, i := range picked {
		st, err := w.AwaitEnd(ctx, i.Name)
		switch {
		case err != nil:
			return fmt.Errorf("wait for %s: %w", i.Name, err)
		case st.State == lifecycle.Errored:
			return errs.New(errs.Unavailable, "%s: %s", i.Name, st.Cause)
		case st.Exit == nil:
			return errs.New(errs.FailedPrecondition, "%s has not run", i.Name)
		}
		if n == 0 {
			code = st.Exit.Code
		}
		a.view.Printf("%s %s\n", i.Name, engine.ExitWords(st.Exit))
	}
	if code != 0 {
		return status(code)
	}
	return nil
}

func (a *app) inspectCommand() *cli.Command {
	return &cli.Command{
		Name: "inspect", Usage: "all that is known of instances, as JSON", ArgsUsage: "[NAME…]",
		Flags:  []cli.Flag{&cli.StringFlag{Name: "format", Value: "json", Usage: "json or a text/`TEMPLATE`"}},
		Action: a.inspect,
	}
}

// inspection is what inspect shows of an instance.
type inspection struct {
	ui.Instance
	Stack   string         `json:"stack"`
	Machine inspectMachine `json:"machine"`
	Phases  any            `json:"phases,omitempty"` // of its last start; times in nanoseconds
	Notes   []string       `json:"notes,omitempty"`
	Runtime any            `json:"runtime"` // the OCI runtime-spec of its process
	Paths   inspectPaths   `json:"paths"`
}

type inspectMachine struct {
	CPUs   int    `json:"cpus"`
	Memory uint64 `json:"memory"` // bytes
	Origin string `json:"origin,omitempty"`

	Vsock *inspectVsock `json:"vsock,omitempty"` // nil: it has no virtual sockets
}

type inspectVsock struct {
	CID uint32 `json:"cid,omitempty"` // of the machine, once it was started; absent where the system does not tell
}

type inspectPaths struct {
	Folder  string `json:"folder"`
	Log     string `json:"log"`
	Console string `json:"console"`
	Root    string `json:"root"`
}

func (a *app) inspect(c *cli.Context) error {
	w, _, picked, err := a.selected(c)
	if err != nil {
		return err
	}
	t := table{}
	for _, i := range picked {
		home := w.Folder
		v := inspection{Instance: ui.InstanceOf(i), Stack: w.Name, Paths: inspectPaths{Folder: home.Instance(w.Name, i.Name),
			Log: home.Log(w.Name, i.Name), Console: home.Console(w.Name, i.Name)}}
		if i.Broken == "" {
			rec, err := home.ReadInstance(w.Name, i.Name)
			if err != nil {
				return err
			}
			st, _ := home.ReadState(w.Name, i.Name) // what is wrong with it is the instance's cause
			v.Machine = inspectMachine{CPUs: rec.CPUs, Memory: rec.Memory, Origin: st.Origin}
			if rec.Vsock {
				v.Machine.Vsock = &inspectVsock{CID: st.VsockCID}
			}
			v.Phases, v.Notes, v.Runtime, v.Paths.Root = st.Phases, st.Notes, rec.Runtime, rec.Root
		}
		t.rows = append(t.rows, ui.Row{ID: i.Name, Value: v})
	}
	return a.show(c, t)
}
