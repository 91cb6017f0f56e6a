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
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/ui"
	"github.com/vzcompose/vzcompose/planner"
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
	w, err := a.withFile(c, c.Args().Slice()...)
	if err != nil {
		return err
	}
	opts, err := planOptions(c)
	if err != nil {
		return err
	}
	opts.NoStart = true
	if err := overridePull(w.desired, c.String("pull")); err != nil {
		return err
	}
	return a.carryOut(c, w, func(world state.World) (*planner.Plan, error) { return planner.Up(w.desired, world, opts) })
}

// planVerb is a command that carries out the plan for what exists, or for what
// its arguments name of it.
func (a *app) planVerb(name, usage string, flags []cli.Flag, compute func(state.World, []string) (*planner.Plan, error)) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usage, ArgsUsage: "[NAME…]",
		Flags: append(flags, &cli.BoolFlag{Name: "dry-run", Usage: "show the plan, do nothing"}),
		Action: func(c *cli.Context) error {
			w, err := a.withName(c)
			if err != nil {
				return err
			}
			return a.carryOut(c, w, func(world state.World) (*planner.Plan, error) {
				some, only, err := scope(world, c.Args().Slice())
				if err != nil {
					return nil, err
				}
				return compute(some, only)
			})
		},
	}
}

func (a *app) startCommand() *cli.Command {
	return a.planVerb("start", "start instances that exist", []cli.Flag{&cli.BoolFlag{Name: "cold", Usage: "boot machines, restore none"}}, planner.StartAll)
}

func (a *app) stopCommand() *cli.Command {
	return a.planVerb("stop", "stop instances, and keep them", []cli.Flag{graceFlag()}, planner.StopAll)
}

func (a *app) restartCommand() *cli.Command {
	return a.planVerb("restart", "stop instances and start them again", []cli.Flag{graceFlag()}, planner.RestartAll)
}

// setGrace has the flag replace how long instances have to end.
func (w *work) setGrace(c *cli.Context) {
	if t := c.Int("timeout"); c.IsSet("timeout") && t >= 0 {
		grace := time.Duration(t) * time.Second
		w.Stack.Grace = &grace
	}
}

// carryOut does a plan with the flags that all plans know.
func (a *app) carryOut(c *cli.Context, w *work, compute func(state.World) (*planner.Plan, error)) error {
	w.setGrace(c)
	stop := newInterrupt(c.Context)
	defer stop.release()
	_, _, err := a.converge(c, w, stop, c.Bool("dry-run"), compute)
	if err == nil && stop.asked() {
		return status(exitInterrupted)
	}
	return err
}

// scope answers what names mean of a world to the planner: containers to look
// at, or where an instance is named, a world of what is named alone.
func scope(world state.World, names []string) (state.World, []string, error) {
	picked, err := pick(world, names)
	if err != nil {
		return world, nil, err
	}
	containers := map[string]bool{}
	for _, i := range world.Instances {
		containers[i.Container] = true
	}
	if !slices.ContainsFunc(names, func(n string) bool { return !containers[n] }) {
		return world, names, nil
	}
	world.Instances = picked
	return world, nil, nil
}

func (a *app) rmCommand() *cli.Command {
	return &cli.Command{
		Name: "rm", Usage: "remove stopped instances and what they have written", ArgsUsage: "[NAME…]",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "do not ask"},
			&cli.BoolFlag{Name: "stop", Aliases: []string{"s"}, Usage: "stop those that run first"},
			&cli.BoolFlag{Name: "volumes", Aliases: []string{"v"}, Usage: "accepted: volumes have names, and go with down -v"},
			graceFlag(),
			&cli.BoolFlag{Name: "dry-run", Usage: "show the plan, do nothing"},
		},
		Action: a.rm,
	}
}

func (a *app) rm(c *cli.Context) error {
	w, err := a.withName(c)
	if err != nil {
		return err
	}
	return a.carryOut(c, w, func(world state.World) (*planner.Plan, error) {
		picked, err := pick(world, c.Args().Slice())
		if err != nil {
			return nil, err
		}
		var left []string
		world.Instances = slices.DeleteFunc(slices.Clone(picked), func(i state.Instance) bool {
			if i.State.Live() && !c.Bool("stop") {
				left = append(left, i.Name)
				return true
			}
			return false
		})
		world.Networks = nil // others may be on them
		if len(left) > 0 {
			a.view.Notef("%s left alone: it runs; --stop stops it first", strings.Join(left, ", "))
		}
		if len(world.Instances) > 0 && !c.Bool("force") && !c.Bool("dry-run") {
			if err := a.confirm("remove " + names(world.Instances)); err != nil {
				return nil, err
			}
		}
		return planner.Down(world, planner.DownOptions{}), nil
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
func (a *app) each(c *cli.Context, do func(context.Context, *work, state.Instance) error) error {
	w, err := a.withName(c)
	if err != nil {
		return err
	}
	world, err := w.Observe(c.Context, nil)
	if err != nil {
		return err
	}
	picked, err := pick(world, c.Args().Slice())
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
			return a.each(c, func(ctx context.Context, w *work, i state.Instance) error {
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
	w, err := a.withName(c)
	if err != nil {
		return err
	}
	world, err := w.Observe(c.Context, nil)
	if err != nil {
		return err
	}
	picked, err := pick(world, c.Args().Slice())
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
	w, err := a.withName(c)
	if err != nil {
		return err
	}
	world, err := w.Observe(c.Context, nil)
	if err != nil {
		return err
	}
	picked, err := pick(world, c.Args().Slice())
	if err != nil {
		return err
	}
	t := table{}
	for _, i := range picked {
		home := w.house.home
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
