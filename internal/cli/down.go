package cli

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/planner"
	"github.com/vzcompose/vzcompose/spec"
)

func (a *app) downCommand() *cli.Command {
	return &cli.Command{
		Name: "down", Usage: "stop and remove what the stack made, or some containers of it; with -n NAME also without the file", ArgsUsage: "[NAME…]",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "volumes", Aliases: []string{"v"}, Usage: "remove the named volumes and what is in them; with NAMEs, those that no other container uses"},
			&cli.IntFlag{Name: "timeout", Aliases: []string{"t"}, Value: -1, Usage: "`SECONDS` until SIGKILL, in place of the declared ones"},
			&cli.BoolFlag{Name: "remove-orphans", Usage: "accepted: down removes every instance of the stack"},
			&cli.BoolFlag{Name: "dry-run", Usage: "show the plan, do nothing"},
		},
		Action: a.down,
	}
}

func (a *app) down(c *cli.Context) error {
	w, err := a.withName(c)
	if err != nil {
		return err
	}
	w.setGrace(c)
	if _, err := os.Stat(w.house.home.Stack(w.Name)); os.IsNotExist(err) && !c.Bool("volumes") {
		a.view.Notef("stack %s has nothing to take down", w.Name)
		return nil
	}
	stop := newInterrupt(c.Context)
	defer stop.release()
	lock, err := a.lockStack(w, stop)
	if err != nil {
		return err
	}
	defer lock.Release()
	_, _, err = a.convergeLocked(c, w, stop, c.Bool("dry-run"), func(world state.World) (*planner.Plan, error) {
		o, err := a.downOptions(c, world)
		if err != nil {
			return nil, err
		}
		return planner.Down(world, o), nil
	})
	if err != nil || c.Bool("dry-run") {
		return err
	}
	if stop.asked() {
		return status(exitInterrupted)
	}
	// Under the lock still: an up that waits for it must not find half of it.
	if err := w.RemoveStack(c.Context); err != nil {
		return err
	}
	if err := emptyWithLast(c.Context, w.house); err != nil {
		return fmt.Errorf("empty the pool: %w", err)
	}
	w.house.home.RemoveRuntime()
	return nil
}

// downOptions are what the command line asks of Down. A name that neither the
// records nor the file know is refused. The file is read for no other reason than
// to know it, and which volumes containers have: it need not be right.
func (a *app) downOptions(c *cli.Context, world state.World) (planner.DownOptions, error) {
	o := planner.DownOptions{Only: c.Args().Slice(), Volumes: c.Bool("volumes"), Declared: map[string][]string{}}
	if len(o.Only) == 0 {
		return o, nil
	}
	known := map[string]bool{}
	for _, i := range world.Instances {
		known[i.Container] = true
	}
	if opts, err := a.loadOptions(c); err == nil {
		opts.Profiles = []string{"*"}
		if loaded, err := spec.Load(opts); err == nil && loaded.Stack.Name == world.Stack {
			for name, ct := range loaded.Stack.Containers {
				known[name], o.Declared[name] = true, volumesOf(ct)
			}
		}
	}
	for _, name := range o.Only {
		if !known[name] {
			return o, errs.WithHint(usage("no container %q in stack %s", name, world.Stack), "there is %s", strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
	}
	return o, nil
}

// volumesOf are the named volumes that a container mounts.
func volumesOf(ct spec.Container) (names []string) {
	for _, m := range ct.Mounts {
		if m.Type == "volume" {
			names = append(names, m.Source)
		}
	}
	return names
}

func (a *app) planCommand() *cli.Command {
	return &cli.Command{
		Name: "plan", Usage: "what up would do, and why", ArgsUsage: "[NAME…]",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "json", Usage: "as JSON"},
			&cli.BoolFlag{Name: "detailed-exitcode", Usage: "status 2 where there is something to do"},
			&cli.BoolFlag{Name: "destroy", Usage: "what down would do"},
			&cli.BoolFlag{Name: "no-start"}, &cli.BoolFlag{Name: "no-deps"}, &cli.BoolFlag{Name: "force-recreate"},
			&cli.BoolFlag{Name: "no-recreate"}, &cli.BoolFlag{Name: "remove-orphans"}, &cli.StringSliceFlag{Name: "scale"},
		},
		Action: a.plan,
	}
}

func (a *app) plan(c *cli.Context) error {
	w, err := a.withFile(c, c.Args().Slice()...)
	if err != nil {
		return err
	}
	opts, err := planOptions(c)
	if err != nil {
		return err
	}
	world, err := w.observe(c.Context)
	if err != nil {
		return err
	}
	var plan *planner.Plan
	if c.Bool("destroy") {
		o, err := a.downOptions(c, world)
		if err != nil {
			return err
		}
		plan = planner.Down(world, o)
	} else if plan, err = planner.Up(w.desired, world, opts); err != nil {
		return err
	}
	for _, warning := range plan.Warnings {
		a.view.Warnf("%s", warning)
	}
	if c.Bool("json") {
		b, err := plan.JSON()
		if err != nil {
			return err
		}
		if err := a.view.JSON(append(b, '\n')); err != nil {
			return err
		}
	} else {
		a.view.Plan(plan, world)
	}
	if c.Bool("detailed-exitcode") && !plan.Empty() {
		return status(2)
	}
	return nil
}
