package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/internal/engine"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/image"
)

func (a *app) imageCommand() *cli.Command {
	return &cli.Command{
		Name: "image", Usage: "images that are here",
		Subcommands: []*cli.Command{
			{Name: "ls", Usage: "list them", Flags: []cli.Flag{quietFlag(), formatFlag()}, Action: a.imageList},
			{Name: "pull", Usage: "fetch one from its registry", ArgsUsage: "REF", Action: interruptible(a.imagePull)},
			{Name: "load", Usage: "take in a docker-archive or an OCI layout", ArgsUsage: "PATH", Action: interruptible(a.imageLoad)},
			{Name: "import", Usage: "make an image of a root tar", ArgsUsage: "TAR REF", Flags: []cli.Flag{
				&cli.StringSliceFlag{Name: "entrypoint", Usage: "a word of its entrypoint; repeatable"},
				&cli.StringSliceFlag{Name: "cmd", Usage: "a word of its command; repeatable"},
				&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "`KEY=VALUE`"},
				&cli.StringFlag{Name: "user", Aliases: []string{"u"}},
				&cli.StringFlag{Name: "workdir", Aliases: []string{"w"}},
				&cli.StringFlag{Name: "stop-signal"},
			}, Action: interruptible(a.imageImport)},
			{Name: "rm", Usage: "remove images", ArgsUsage: "REF…", Action: a.imageRemove},
			{Name: "prune", Usage: "remove what no stack was made from", Action: a.imagePrune},
		},
	}
}

func (a *app) imageList(c *cli.Context) error {
	h, err := a.open()
	if err != nil {
		return err
	}
	all, err := h.Images.List(c.Context)
	if err != nil {
		return err
	}
	t := table{header: []string{"REF", "DIGEST", "PLATFORM", "SIZE", "CREATED"}}
	for _, i := range all {
		created := ""
		if !i.Created.IsZero() && i.Created.Unix() > 0 {
			created = humanize.Time(i.Created)
		}
		if i.Broken != "" {
			a.view.Warnf("%s", i.Broken)
		}
		t.add(i, i.Ref, i.Ref, shortID(i.Digest), i.Platform, humanize.IBytes(uint64(i.Size)), created)
	}
	return a.show(c, t)
}

// byteProgress shows what an image operation is at, from its beginning: the first
// bytes may take long to come.
func (a *app) byteProgress(subject, phase string) (func(image.Progress), func()) {
	p := a.view.Task(subject)
	p.Update(phase, 0, 0)
	return func(g image.Progress) { p.Update(g.Phase, g.Current, g.Total) }, p.Close
}

func (a *app) imagePull(c *cli.Context) error {
	h, err := a.open()
	if err != nil {
		return err
	}
	progress, done := a.byteProgress(c.Args().First(), "pulling")
	img, err := h.Images.Pull(c.Context, c.Args().First(), engine.Platform(), progress)
	if err == nil {
		_, err = h.Images.RootFS(c.Context, img.Digest, progress)
	}
	done()
	if err != nil {
		return fmt.Errorf("pull %s: %w", c.Args().First(), err)
	}
	a.view.Printf("%s\n", img.Digest)
	return nil
}

func (a *app) imageLoad(c *cli.Context) error {
	h, err := a.open()
	if err != nil {
		return err
	}
	progress, done := a.byteProgress(c.Args().First(), "loading")
	all, err := h.Images.Load(c.Context, c.Args().First(), progress)
	done()
	if err != nil {
		return err
	}
	for _, i := range all {
		a.view.Printf("%s %s\n", i.Ref, i.Digest)
	}
	return nil
}

func (a *app) imageImport(c *cli.Context) error {
	h, err := a.open()
	if err != nil {
		return err
	}
	cfg := image.Config{Entrypoint: c.StringSlice("entrypoint"), Cmd: c.StringSlice("cmd"), Env: c.StringSlice("env"),
		User: c.String("user"), WorkingDir: c.String("workdir"), StopSignal: c.String("stop-signal")}
	for _, kv := range cfg.Env {
		if !strings.Contains(kv, "=") {
			return usage("--env %s: it is KEY=VALUE", kv)
		}
	}
	progress, done := a.byteProgress(c.Args().First(), "importing")
	img, err := h.Images.Import(c.Context, c.Args().Get(0), c.Args().Get(1), cfg, progress)
	done()
	if err != nil {
		return err
	}
	a.view.Printf("%s %s\n", img.Ref, img.Digest)
	return nil
}

func (a *app) imageRemove(c *cli.Context) error {
	h, err := a.open()
	if err != nil {
		return err
	}
	used, err := h.Engine.UsedImages()
	if err != nil {
		return err
	}
	for _, ref := range c.Args().Slice() {
		img, err := h.Images.Find(c.Context, ref, engine.Platform())
		if err == nil && used[img.Digest] {
			return errs.WithHint(errs.New(errs.FailedPrecondition, "an instance was made from %s", ref), "take its stack down first")
		}
		freed, err := h.Images.Remove(c.Context, ref)
		if err != nil {
			return err
		}
		a.view.Printf("%s removed, %s freed\n", ref, humanize.IBytes(uint64(freed)))
	}
	return nil
}

func (a *app) imagePrune(c *cli.Context) error {
	h, err := a.open()
	if err != nil {
		return err
	}
	used, err := h.Engine.UsedImages()
	if err != nil {
		return err
	}
	freed, err := h.Images.Prune(c.Context, func(digest string) bool { return used[digest] || used[shortID(digest)] })
	if err != nil {
		return err
	}
	a.view.Printf("%s freed\n", humanize.IBytes(uint64(freed)))
	return nil
}

func (a *app) kernelCommand() *cli.Command {
	return &cli.Command{
		Name: "kernel", Usage: "kernels that machines boot",
		Subcommands: []*cli.Command{
			{Name: "ls", Usage: "list them", Flags: []cli.Flag{formatFlag(), quietFlag()}, Action: a.kernelList},
			{Name: "import", Usage: "take in a Debian linux-image package, a folder or a bare image", ArgsUsage: "PATH", Action: interruptible(a.kernelImport)},
			{Name: "rm", Usage: "remove kernels", ArgsUsage: "ID…", Action: a.kernelRemove},
		},
	}
}

func (a *app) kernelList(c *cli.Context) error {
	h, err := a.open()
	if err != nil {
		return err
	}
	all, err := h.Kernels.List(c.Context)
	if err != nil {
		return err
	}
	t := table{header: []string{"ID", "VERSION", "ARCH", "DEFAULT", "ORIGIN", "IMPORTED"}}
	for _, k := range all {
		if k.Broken != "" {
			t.add(k, k.ID, k.ID, "broken: "+k.Broken, "", "", "", "")
			continue
		}
		isDefault := ""
		if k.Default {
			isDefault = "yes"
		}
		if k.Asked {
			isDefault = "of a stack file"
		}
		t.add(k, k.ID, k.ID, k.Version, k.Arch, isDefault, k.Origin, k.Imported.Format(time.DateTime))
	}
	return a.show(c, t)
}

func (a *app) kernelImport(c *cli.Context) error {
	h, err := a.open()
	if err != nil {
		return err
	}
	p := a.view.Task(c.Args().First())
	k, err := h.Kernels.Import(c.Context, c.Args().First(), p.Update)
	p.Close()
	if err != nil {
		return err
	}
	a.view.Printf("%s %s %s\n", k.ID, k.Version, k.Arch)
	return nil
}

func (a *app) kernelRemove(c *cli.Context) error {
	h, err := a.open()
	if err != nil {
		return err
	}
	for _, id := range c.Args().Slice() {
		if err := h.Kernels.Remove(c.Context, id); err != nil {
			return err
		}
	}
	return nil
}
