package cli

import (
	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/internal/stack"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/planner"
)

func (a *app) downCommand() *cli.Command {
	return &cli.Command{
		Name: "down", Usage: "stop and remove what the stack made, or some containers of it; with -n NAME also without the file", ArgsUsage: "[NAME…]",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "volumes", Aliases: []string{"v"}, Usage: "remove the volumes and what is in them; with NAMEs, those that no other container uses"},
			&cli.IntFlag{Name: "timeout", Aliases: []string{"t"}, Value: -1, Usage: "`SECONDS` until SIGKILL, in place of the declared ones"},
			&cli.BoolFlag{Name: "remove-orphans", Usage: "accepted: down removes every instance of the stack"},
			&cli.BoolFlag{Name: "dry-run", Usage: "show the plan, do nothing"},
		},
		Action: a.down,
	}
}

func (a *app) down(c *cli.Context) error {
	return a.change(c, func() (*stack.Stack, error) { return a.withName(c) }, func(s *stack.Stack, control stack.Control) error {
		return s.Down(c.Context, control, downOptions(c))
	})
}

func downOptions(c *cli.Context) stack.DownOptions {
	return stack.DownOptions{Only: c.Args().Slice(), Volumes: c.Bool("volumes")}
}

func (a *app) planCommand() *cli.Command {
	return &cli.Command{
		Name: "plan", Usage: "what up would do, and why", ArgsUsage: "[NAME…]",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "json", Usage: "as JSON"},
			&cli.BoolFlag{Name: "detailed-exitcode", Usage: "status 2 where there is something to do"},
			&cli.BoolFlag{Name: "destroy", Usage: "what down would do"},
			&cli.BoolFlag{Name: "no-start"}, &cli.BoolFlag{Name: "no-deps"}, &cli.BoolFlag{Name: "force-recreate"},
			&cli.BoolFlag{Name: "no-recreate"}, &cli.BoolFlag{Name: "remove-orphans"}, &cli.StringSliceFlag{Name: "scale"}, publishOffsetFlag(),
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
	var plan *planner.Plan
	var world state.World
	if c.Bool("destroy") {
		plan, world, err = w.PlanDown(c.Context, downOptions(c))
	} else {
		plan, world, err = w.PlanUp(c.Context, opts)
	}
	if err != nil {
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
