package cli

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/internal/engine"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/internal/process"
	"github.com/vzcompose/vzcompose/internal/settings"
	"github.com/vzcompose/vzcompose/internal/stack"
	"github.com/vzcompose/vzcompose/vmm"
)

func (a *app) templateCommand() *cli.Command {
	return &cli.Command{
		Name: "template", Usage: "saved machines that others are restored from",
		Subcommands: []*cli.Command{
			{Name: "ls", Usage: "list them", Flags: []cli.Flag{quietFlag(), formatFlag()}, Action: a.templateList},
			{Name: "rm", Usage: "remove templates; they are made anew when they are needed", ArgsUsage: "[ID…]",
				Flags: []cli.Flag{&cli.BoolFlag{Name: "all", Usage: "all that are there"}}, Action: a.templateRemove},
			{Name: "prewarm", Usage: "make what the stack's machines need; with N, have N of each wait", ArgsUsage: "[N]",
				Flags: []cli.Flag{&cli.BoolFlag{Name: "prepared", Usage: "also save machines that have the containers' images mounted, for their first start; with N, have such machines wait"}}, Action: interruptible(a.templatePrewarm)},
		},
	}
}

// templater is the driver, where it keeps templates.
func (a *app) templater(h *stack.Home) (vmm.Templater, error) {
	driver, err := a.deps.Driver(a.deps.LookupEnv, process.DriverOptions{Templates: h.Folder.Templates(), TemplatesLimit: h.Settings.Templates.Limit})
	if err != nil {
		return nil, err
	}
	t, ok := driver.(vmm.Templater)
	if !ok {
		return nil, errs.New(errs.Unsupported, "the driver of this system keeps no templates: every machine boots")
	}
	return t, nil
}

func (a *app) templateList(c *cli.Context) error {
	h, err := a.open()
	if err != nil {
		return err
	}
	d, err := a.templater(h)
	if err != nil {
		return err
	}
	all, err := d.Templates()
	if err != nil {
		return err
	}
	t := table{header: []string{"ID", "CPUS", "MEMORY", "SIZE", "ROOT", "MADE", "USED", "PROBLEM"}}
	for _, x := range all {
		made := ""
		if !x.Made.IsZero() {
			made = x.Made.Local().Format(time.DateTime)
		}
		t.add(x, x.ID, x.ID, strconv.Itoa(x.CPUs), humanize.IBytes(x.Memory), humanize.IBytes(uint64(x.Size)), x.Root, made, humanize.Time(x.Used), x.Problem)
	}
	return a.show(c, t)
}

func (a *app) templateRemove(c *cli.Context) error {
	if (c.NArg() == 0) != c.Bool("all") {
		return usage("template rm wants ids, or --all")
	}
	h, err := a.open()
	if err != nil {
		return err
	}
	d, err := a.templater(h)
	if err != nil {
		return err
	}
	ids := c.Args().Slice()
	if c.Bool("all") {
		all, err := d.Templates()
		if err != nil {
			return err
		}
		for _, t := range all {
			ids = append(ids, t.ID)
		}
	}
	var failed error
	for _, id := range ids {
		failed = errors.Join(failed, d.RemoveTemplate(id))
	}
	return failed
}

func (a *app) templatePrewarm(c *cli.Context) error {
	waiting := 0
	if c.NArg() > 0 {
		n, err := strconv.Atoi(c.Args().First())
		if err != nil || n < 1 || n > settings.MaxMachines {
			return usage("template prewarm wants a number of 1 to %d, or none", settings.MaxMachines)
		}
		waiting = n
	}
	h, err := a.open()
	if err != nil {
		return err
	}
	if h.Cold != "" {
		return errs.New(errs.FailedPrecondition, "templates are turned off %s", h.Cold)
	}
	makes, err := a.makes(c, h)
	if err != nil {
		return err
	}
	d, err := a.templater(h)
	if err != nil {
		return err
	}
	for _, m := range makes {
		if err := a.prewarm(c, h, d, m); err != nil {
			return err
		}
	}
	kinds := engine.KindsOf(makes)
	if c.Bool("prepared") {
		if kinds, err = a.prepare(c, waiting > 0); err != nil {
			return err
		}
	}
	if waiting == 0 {
		return nil
	}
	p := a.view.Task("pool")
	defer p.Close()
	p.Update("making machines that wait", 0, 0)
	return h.Engine.FillPool(c.Context, kinds, waiting, h.Settings.Pool.Memory)
}

// makes answers the makes of the machines of the stack file, or that of a
// container which declares nothing where there is no file.
func (a *app) makes(c *cli.Context, h *stack.Home) ([]engine.Make, error) {
	loaded, err := a.load(c)
	if errs.Is(err, errs.NotFound) && len(c.StringSlice("file")) == 0 {
		return []engine.Make{h.Engine.DefaultMake()}, nil
	}
	if err != nil {
		return nil, err
	}
	return h.Engine.Makes(loaded.Stack), nil
}

func (a *app) prewarm(c *cli.Context, h *stack.Home, d vmm.Templater, m engine.Make) error {
	cfg, err := h.Engine.MachineConfig(c.Context, m)
	if err != nil {
		return err
	}
	before, err := d.Templates()
	if err != nil {
		return err
	}
	p := a.view.Task("template")
	cfg.Progress = func(text string) { p.Update(text, 0, 0) }
	t, err := d.Prewarm(c.Context, cfg)
	p.Close()
	if err != nil {
		return err
	}
	what := "made"
	if slices.ContainsFunc(before, func(o vmm.Template) bool { return o.ID == t.ID && o.Made.Equal(t.Made) }) {
		what = "is there"
	}
	a.view.Printf("%s %s: %d cpus, %s of memory\n", t.ID, what, t.CPUs, humanize.IBytes(t.Memory))
	return nil
}

// prepare makes the templates of prepared machines for the stack file; or it
// answers the kinds of those that are to wait.
func (a *app) prepare(c *cli.Context, waiting bool) ([]engine.Kind, error) {
	w, err := a.withFile(c)
	if err != nil {
		return nil, err
	}
	p := a.view.Task("prepare")
	defer p.Close()
	report := func(container string, pr event.Progress) { p.Update(container+": "+pr.Phase, pr.Current, pr.Total) }
	var kinds []engine.Kind
	var skipped map[string]error
	if waiting {
		kinds, skipped, err = w.Kinds(c.Context, w.Declared, report)
	} else {
		skipped, err = w.Prepare(c.Context, w.Declared, report)
	}
	for _, name := range slices.Sorted(maps.Keys(skipped)) {
		a.view.Printf("%s: %v\n", name, skipped[name])
	}
	return kinds, err
}

// examineTemplates is a line of the doctor.
func (a *app) examineTemplates(h *stack.Home) check {
	ch := check{Name: "templates"}
	if h.Cold != "" {
		ch.OK, ch.Found = true, "turned off "+h.Cold
		return ch
	}
	d, err := a.templater(h)
	if errs.Is(err, errs.Unsupported) {
		ch.OK, ch.Found = true, err.Error()
		return ch
	}
	var all []vmm.Template
	if err == nil {
		all, err = d.Templates()
	}
	if err != nil {
		ch.Found, ch.Remedy = err.Error(), errs.HintOf(err)
		return ch
	}
	var size uint64
	var bad []string
	for _, t := range all {
		size += uint64(t.Size)
		if t.Problem != "" {
			bad = append(bad, t.ID+": "+t.Problem)
		}
	}
	waiting, err := h.Engine.Spares()
	if err != nil {
		bad = append(bad, err.Error())
	}
	ch.OK = len(bad) == 0
	ch.Found = fmt.Sprintf("%d, %s of %s at most, in %s; %d machines wait", len(all), humanize.IBytes(size),
		humanize.IBytes(h.Settings.Templates.Limit), filepath.Clean(h.Folder.Templates()), len(waiting))
	if !ch.OK {
		ch.Found, ch.Remedy = strings.Join(bad, "; "), "vzcompose template rm --all: they are made anew when they are needed"
	}
	return ch
}
