package cli

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/internal/engine"
	"github.com/vzcompose/vzcompose/internal/errs"
)

func (a *app) networkCommand() *cli.Command {
	return &cli.Command{
		Name: "network", Usage: "the networks of the stack",
		Subcommands: []*cli.Command{
			{Name: "ls", Usage: "list them", Flags: []cli.Flag{quietFlag(), formatFlag()}, Action: a.networkList},
			{Name: "inspect", Usage: "all that is known of networks, as JSON: addresses, and what the switch counts", ArgsUsage: "[NAME…]", Action: a.networkInspect},
		},
	}
}

func (a *app) networks(c *cli.Context) ([]engine.NetworkInfo, error) {
	w, err := a.withName(c)
	if err != nil {
		return nil, err
	}
	return w.Networks(c.Context)
}

func (a *app) networkList(c *cli.Context) error {
	all, err := a.networks(c)
	if err != nil {
		return err
	}
	t := table{header: []string{"NAME", "SUBNET", "GATEWAY", "WAY OUT", "ADDRESSES", "RUNNING"}}
	for _, n := range all {
		var subnets []string
		for _, p := range n.Subnets() {
			subnets = append(subnets, p.String())
		}
		out, running := "yes", 0
		if n.Internal {
			out = "no"
		}
		if n.Now != nil {
			running = len(n.Now.Members)
		}
		t.add(n, n.Name, n.Name, strings.Join(subnets, ", "), n.Given.Gateway.String(), out, fmt.Sprint(len(n.Leases)), fmt.Sprint(running))
	}
	return a.show(c, t)
}

func (a *app) networkInspect(c *cli.Context) error {
	all, err := a.networks(c)
	if err != nil {
		return err
	}
	for _, name := range c.Args().Slice() {
		if !slices.ContainsFunc(all, func(n engine.NetworkInfo) bool { return n.Name == name }) {
			return errs.New(errs.NotFound, "no network %q is there", name)
		}
	}
	picked := []engine.NetworkInfo{}
	for _, n := range all {
		if !c.Args().Present() || slices.Contains(c.Args().Slice(), n.Name) {
			picked = append(picked, n)
		}
	}
	b, err := json.MarshalIndent(picked, "", "  ")
	if err != nil {
		return errs.New(errs.Internal, "encode networks: %w", err)
	}
	return a.view.JSON(append(b, '\n'))
}
