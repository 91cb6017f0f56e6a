package cli

import (
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/planner"
)

func (a *app) downCommand() *cli.Command {
	return &cli.Command{
		Name: "down", Usage: "stop and remove what the stack made; with -n NAME also without the file",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "volumes", Aliases: []string{"v"}, Usage: "remove the named volumes and what is in them"},
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
		return planner.Down(world, planner.DownOptions{Volumes: c.Bool("volumes")}), nil
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
		plan = planner.Down(world, planner.DownOptions{})
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
		if err := a.view.Result(append(b, '\n')); err != nil {
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
