package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/internal/engine"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/ui"
	"github.com/vzcompose/vzcompose/schema"
)

// table is a list under way.
type table struct {
	header []string
	rows   []ui.Row
}

func (t *table) add(value any, id string, cells ...string) {
	t.rows = append(t.rows, ui.Row{Cells: cells, ID: id, Value: value})
}

func formatFlag() cli.Flag {
	return &cli.StringFlag{Name: "format", Usage: "table, json or a text/`TEMPLATE`"}
}

func quietFlag() cli.Flag {
	return &cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "names only"}
}

func (a *app) show(c *cli.Context, t table) error {
	return a.view.Table(ui.Table{Header: t.header, Rows: t.rows}, c.String("format"), c.Bool("quiet"))
}

func (a *app) psCommand() *cli.Command {
	return &cli.Command{
		Name: "ps", Usage: "the instances of the stack", ArgsUsage: "[NAME…]",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "accepted: all are shown"},
			quietFlag(), formatFlag(),
			&cli.BoolFlag{Name: "services", Usage: "names of containers"},
			&cli.StringFlag{Name: "status", Usage: "those in a `STATE` only: running, exited, errored, created, …"},
		},
		Action: a.ps,
	}
}

func (a *app) ps(c *cli.Context) error {
	_, world, picked, err := a.selected(c)
	for _, text := range world.Damage {
		a.view.Warnf("%s", text)
	}
	if err != nil {
		return err
	}
	if want := c.String("status"); want != "" {
		picked = slices.DeleteFunc(slices.Clone(picked), func(i state.Instance) bool { return !isIn(i, want) })
	}
	if c.Bool("services") {
		var names []string
		for _, i := range picked {
			names = append(names, i.Container)
		}
		for _, n := range slices.Compact(slices.Sorted(slices.Values(names))) {
			a.view.Printf("%s\n", n)
		}
		return nil
	}
	now := time.Now()
	t := table{header: []string{"NAME", "CONTAINER", "IMAGE", "STATE", "SINCE", "BOOTS", "PORTS"}}
	for _, i := range picked {
		t.add(ui.InstanceOf(i), i.Name, i.Name, i.Container, shortID(i.Image), ui.State(i), ui.Since(i, now), fmt.Sprint(i.Boots), portWords(i.Ports))
	}
	return a.show(c, t)
}

func portWords(all []state.Port) string {
	var words []string
	for _, p := range all {
		words = append(words, p.String())
	}
	return strings.Join(words, ", ")
}

func (a *app) portCommand() *cli.Command {
	return &cli.Command{
		Name: "port", Usage: "where a port of a container is found on the host", ArgsUsage: "NAME [PORT]",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "protocol", Value: "tcp", Usage: "tcp or udp"},
			&cli.IntFlag{Name: "index", Usage: "of the `N`th replica; the first by default"},
		},
		Action: a.port,
	}
}

func (a *app) port(c *cli.Context) error {
	w, err := a.withName(c)
	if err != nil {
		return err
	}
	inst, err := w.Find(c.Context, c.Args().First(), c.Int("index"))
	if err != nil {
		return err
	}
	number, protocol, said := strings.Cut(c.Args().Get(1), "/")
	if !said {
		protocol = c.String("protocol")
	}
	found := false
	for _, p := range inst.Ports {
		if c.NArg() == 1 {
			a.view.Printf("%s\n", p)
		} else if fmt.Sprint(p.Target) == number && p.Protocol == protocol {
			found = true
			a.view.Printf("%s\n", p.Reached())
		}
	}
	if c.NArg() == 2 && !found {
		return errs.New(errs.NotFound, "port %s/%s of %s is not published", number, protocol, inst.Name)
	}
	return nil
}

// isIn reports whether ps shows an instance in a state; Compose's name, and those of
// records, do too.
func isIn(i state.Instance, want string) bool {
	want = strings.ToLower(want)
	other := map[string]string{"dead": "errored", "started": "running", "stopped": "exited", "initialized": "created", "booting": "starting"}
	if word, ok := other[want]; ok {
		want = word
	}
	return ui.StateWord(i.State) == want
}

func (a *app) lsCommand() *cli.Command {
	return &cli.Command{
		Name: "ls", Usage: "the stacks of this host",
		Flags:  []cli.Flag{quietFlag(), formatFlag(), &cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "accepted: all are shown"}},
		Action: a.ls,
	}
}

// listed is a stack as ls shows it.
type listed struct {
	engine.StackInfo
	Instances []ui.Instance `json:"instances"`
}

func (a *app) ls(c *cli.Context) error {
	h, err := a.open()
	if err != nil {
		return err
	}
	all, err := h.Engine.List(c.Context)
	if err != nil {
		return err
	}
	t := table{header: []string{"NAME", "INSTANCES", "FILES"}}
	for _, s := range all {
		for _, text := range s.Damage {
			a.view.Warnf("%s", text)
		}
		shown := listed{StackInfo: s}
		for _, i := range s.Instances {
			shown.Instances = append(shown.Instances, ui.InstanceOf(i))
		}
		t.add(shown, s.Name, s.Name, counts(shown.Instances), strings.Join(s.Files, ", "))
	}
	return a.show(c, t)
}

// counts says how many instances are in which state: "running 3, exited 1".
func counts(all []ui.Instance) string {
	order := []string{"running", "starting", "created", "paused", "restarting", "stopping", "exited", "errored"}
	n := map[string]int{}
	for _, i := range all {
		n[i.State]++
	}
	var words []string
	for _, s := range order {
		if n[s] > 0 {
			words = append(words, fmt.Sprintf("%s %d", s, n[s]))
		}
	}
	return strings.Join(words, ", ")
}

func (a *app) configCommand() *cli.Command {
	return &cli.Command{
		Name: "config", Usage: "the stack as it is understood",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "format", Value: "yaml", Usage: "yaml or json"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "check only"},
			&cli.BoolFlag{Name: "services", Usage: "names of containers"},
			&cli.BoolFlag{Name: "images", Usage: "images"},
			&cli.BoolFlag{Name: "volumes", Usage: "names of volumes"},
			&cli.BoolFlag{Name: "profiles", Usage: "names of profiles, of all containers of the file"},
			publishOffsetFlag(),
		},
		Action: a.config,
	}
}

func (a *app) config(c *cli.Context) error {
	loaded, err := a.load(c)
	if err != nil || c.Bool("quiet") {
		return err
	}
	var names []string
	s := loaded.Stack
	switch {
	case c.Bool("services"):
		for n := range s.Containers {
			names = append(names, n)
		}
	case c.Bool("profiles"):
		names = loaded.Profiles
	case c.Bool("images"):
		for _, ct := range s.Containers {
			if ct.Image != "" {
				names = append(names, ct.Image)
			}
		}
	case c.Bool("volumes"):
		for n := range s.Volumes {
			names = append(names, n)
		}
	case c.String("format") == "json":
		b, err := s.JSON()
		if err != nil {
			return err
		}
		return a.view.JSON(b)
	case c.String("format") == "yaml":
		b, err := s.YAML()
		if err != nil {
			return err
		}
		return a.view.YAML(b)
	default:
		return usage("--format %s: it is yaml or json", c.String("format"))
	}
	for _, n := range slices.Compact(slices.Sorted(slices.Values(names))) {
		a.view.Printf("%s\n", n)
	}
	return nil
}

func (a *app) schemaCommand() *cli.Command {
	return &cli.Command{
		Name: "schema", Usage: "the JSON schema of the stack file",
		Action: func(*cli.Context) error { return a.view.JSON(schema.JSON()) },
	}
}
