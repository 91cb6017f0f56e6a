package cli

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/internal/engine"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/spec"
)

func (a *app) volumeCommand() *cli.Command {
	return &cli.Command{
		Name: "volume", Usage: "the volumes of all stacks, and external ones",
		Description: "A volume of a stack is named STACK/NAME, an external one NAME.",
		Subcommands: []*cli.Command{
			{Name: "ls", Usage: "list them", Flags: []cli.Flag{quietFlag(), formatFlag()}, Action: a.volumeList},
			{Name: "create", Usage: "make an external volume, which no stack owns", ArgsUsage: "NAME", Flags: []cli.Flag{
				&cli.BoolFlag{Name: "shared", Usage: "several instances may write to it at a time: it is a directory of the host, not a disk"},
				&cli.StringFlag{Name: "size", Usage: "what a container sees of it, `SIZE`; 8GiB by default"},
			}, Action: a.volumeCreate},
			{Name: "inspect", Usage: "all that is known of volumes, as JSON", ArgsUsage: "NAME…", Action: a.volumeInspect},
			{Name: "rm", Usage: "remove volumes that no instance mounts, and what is in them", ArgsUsage: "NAME…", Action: a.volumeRemove},
			{Name: "prune", Usage: "remove what no instance mounts and no stack declares", Flags: []cli.Flag{
				&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "do not ask"},
			}, Action: a.volumePrune},
		},
	}
}

// listedVolume is a volume as volumes and volume ls show it.
type listedVolume struct {
	engine.Volume
	Instances []string `json:"instances,omitempty"` // that mount it; those of other stacks as STACK/INSTANCE
}

func (a *app) volumeList(c *cli.Context) error {
	h, err := a.open()
	if err != nil {
		return err
	}
	all, err := h.Engine.Volumes()
	if err != nil {
		return err
	}
	t := volumeTable()
	for _, v := range all {
		t.addVolume(v, v.Ref(), "")
	}
	return a.show(c, t)
}

func volumeTable() table {
	return table{header: []string{"NAME", "STACK", "KIND", "SIZE", "INSTANCES"}}
}

// addVolume adds a volume under id, as it is seen in stack; "": from outside.
func (t *table) addVolume(v engine.Volume, id, stack string) {
	l, of := listedVolume{Volume: v}, v.Stack
	if of == "" {
		of = "-" // it is external
	}
	for _, u := range v.Users {
		if u.Stack == stack || u.Stack == v.Stack {
			l.Instances = append(l.Instances, u.Instance)
		} else {
			l.Instances = append(l.Instances, u.String())
		}
	}
	l.Users = nil // they are the instances
	size := humanize.IBytes(uint64(v.Size))
	if v.Kind == state.Directory {
		size = "-" // what the host has
	}
	t.add(l, id, v.Name, of, v.Kind, size, strings.Join(l.Instances, ", "))
}

func (a *app) volumesCommand() *cli.Command {
	return &cli.Command{
		Name: "volumes", Usage: "the volumes of the stack, and the external ones that it mounts", ArgsUsage: "[NAME…]",
		Flags:  []cli.Flag{quietFlag(), formatFlag()},
		Action: a.volumes,
	}
}

func (a *app) volumes(c *cli.Context) error {
	w, _, picked, err := a.selected(c)
	if err != nil {
		return err
	}
	all, err := w.Home.Engine.Volumes()
	if err != nil {
		return err
	}
	t := volumeTable()
	for _, v := range all {
		used := slices.ContainsFunc(v.Users, func(u engine.User) bool {
			return u.Stack == w.Stack.Name && slices.ContainsFunc(picked, func(i state.Instance) bool { return i.Name == u.Instance })
		})
		if used || v.Stack == w.Stack.Name && !c.Args().Present() {
			t.addVolume(v, v.Name, w.Stack.Name)
		}
	}
	return a.show(c, t)
}

func (a *app) volumeCreate(c *cli.Context) error {
	name, size := c.Args().First(), uint64(0)
	if !spec.ValidName(name) {
		return usage("%q is not a name for a volume: it has letters, digits, _, . and -, and begins with a letter, a digit or _", name)
	}
	if text := c.String("size"); text != "" {
		var err error
		if size, err = spec.ParseSize(text); err != nil || size == 0 {
			return usage("--size %s: it is a size, such as 2GiB", text)
		}
	}
	if size != 0 && c.Bool("shared") {
		return usage("--size is of a disk: a volume that is --shared has what the host has")
	}
	h, err := a.open()
	if err != nil {
		return err
	}
	if err := h.Engine.CreateVolume(name, size, c.Bool("shared")); err != nil {
		return err
	}
	a.view.Printf("%s\n", name)
	return nil
}

func (a *app) volumeInspect(c *cli.Context) error {
	h, err := a.open()
	if err != nil {
		return err
	}
	var all []engine.Volume
	for _, ref := range c.Args().Slice() {
		v, err := h.Engine.FindVolume(ref)
		if err != nil {
			return err
		}
		all = append(all, v)
	}
	b, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	return a.view.JSON(b)
}

func (a *app) volumeRemove(c *cli.Context) error {
	h, err := a.open()
	if err != nil {
		return err
	}
	for _, ref := range c.Args().Slice() {
		if err := h.RemoveVolume(c.Context, ref); err != nil {
			return err
		}
		a.view.Printf("%s\n", ref)
	}
	return nil
}

func (a *app) volumePrune(c *cli.Context) error {
	h, err := a.open()
	if err != nil {
		return err
	}
	confirm := func(all []engine.Volume) error { return nil }
	if !c.Bool("force") {
		confirm = func(all []engine.Volume) error {
			var refs []string
			for _, v := range all {
				refs = append(refs, v.Ref())
			}
			return a.confirm("remove " + strings.Join(refs, ", "))
		}
	}
	removed, unread, err := h.PruneVolumes(c.Context, confirm)
	for _, why := range unread {
		a.view.Warnf("%v", why)
	}
	for _, v := range removed {
		a.view.Printf("%s\n", v.Ref())
	}
	return err
}
