package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/internal/engine"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/image"
	"github.com/vzcompose/vzcompose/internal/kernel"
	"github.com/vzcompose/vzcompose/internal/settings"
	"github.com/vzcompose/vzcompose/internal/shim"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/spec"
	"github.com/vzcompose/vzcompose/vmm"
)

// house is the home folder, opened.
type house struct {
	home    store.Home
	images  *image.Store
	kernels *kernel.Store
	engine  *engine.Engine

	settings settings.Settings
	cold     string // why every machine boots: "by --cold"; "": they do not
}

func (a *app) open() (*house, error) {
	home, err := store.Locate(a.deps.LookupEnv)
	if err != nil {
		return nil, err
	}
	h := &house{home: home}
	if h.settings, err = settings.Read(filepath.Join(home.Dir, "config.yaml")); err != nil {
		return nil, err
	}
	h.cold = a.whyCold(h.settings)
	if h.images, err = image.Open(home.Images()); err != nil {
		return nil, err
	}
	if h.kernels, err = kernel.Open(home.Kernels()); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find vzcompose itself: %w", err)
	}
	h.engine = engine.New(engine.Options{Home: home, Images: h.images, Kernels: h.kernels, Probe: a.probe,
		Shim: []string{self, shimCommand}, Switch: []string{self, switchCommand}, CPUs: runtime.NumCPU(), LookupEnv: a.deps.LookupEnv, Cold: h.cold != "", Held: shim.Held, TemplatesLimit: h.settings.Templates.Limit})
	return h, nil
}

// probe returns what keeps this host from running machines.
func (a *app) probe() error {
	driver, err := a.deps.Driver(a.deps.LookupEnv, DriverOptions{})
	if err != nil {
		return err
	}
	if p, ok := driver.(vmm.Prober); ok {
		return p.Probe()
	}
	return nil
}

// whyCold says why every machine is to boot, "" where it is not: the flag leads,
// then the environment, then the file.
func (a *app) whyCold(s settings.Settings) string {
	env, _ := a.deps.LookupEnv("VZCOMPOSE_COLD")
	switch {
	case a.cold:
		return "by --cold"
	case env != "" && env != "0":
		return "by VZCOMPOSE_COLD"
	case !s.Templates.Use:
		return "in config.yaml"
	}
	return ""
}

// maxStdin bounds a stack file on standard input, in bytes.
const maxStdin = 8 << 20

// load reads the stack file, named containers in the stack whatever their profiles.
// Warnings are shown, findings are the error.
func (a *app) load(c *cli.Context, named ...string) (*spec.Loaded, error) {
	o, err := a.loadOptions(c)
	if err != nil {
		return nil, err
	}
	o.Named = named
	return a.loadAs(o)
}

// loadAs reads the stack that o names. Warnings are shown.
func (a *app) loadAs(o spec.Options) (*spec.Loaded, error) {
	loaded, err := spec.Load(o)
	if err != nil {
		return nil, err
	}
	a.view.Findings(loaded.Findings)
	return loaded, nil
}

// loadOptions say which stack the command line means.
func (a *app) loadOptions(c *cli.Context) (spec.Options, error) {
	o := spec.Options{Files: c.StringSlice("file"), Name: c.String("name"), Dir: c.String("project-directory"),
		Profiles: c.StringSlice("profile"), Platform: engine.Platform(), LookupEnv: a.deps.LookupEnv}
	if slices.Contains(o.Files, "-") {
		var err error
		if o.Stdin, err = io.ReadAll(io.LimitReader(a.deps.Stdin, maxStdin)); err != nil {
			return o, fmt.Errorf("read standard input: %w", err)
		}
	}
	return o, nil
}

// work is a stack at hand.
type work struct {
	*house
	*engine.Stack
	desired *spec.Stack // nil where no file was read
}

// withFile opens the stack that the file declares, named containers in it whatever
// their profiles.
func (a *app) withFile(c *cli.Context, named ...string) (*work, error) {
	loaded, err := a.load(c, named...)
	if err != nil {
		return nil, err
	}
	return a.workOn(loaded)
}

func (a *app) workOn(loaded *spec.Loaded) (*work, error) {
	h, err := a.open()
	if err != nil {
		return nil, err
	}
	s := &engine.Stack{Engine: h.engine, Name: loaded.Stack.Name, Dir: loaded.Stack.Dir, Files: loaded.Files, Adopt: a.adopt, Statics: engine.Statics(loaded.Stack)}
	return &work{house: h, Stack: s, desired: loaded.Stack}, nil
}

// withName opens a stack for a command that needs no declaration: its name and
// its records are enough. A mistake in the stack file, or a file that is gone,
// keeps nobody from seeing and stopping what was brought up.
func (a *app) withName(c *cli.Context) (*work, error) {
	o, err := a.loadOptions(c)
	if err != nil {
		return nil, err
	}
	h, err := a.open()
	if err != nil {
		return nil, err
	}
	id := spec.Identity{Name: o.Name} // a name alone is a stack wherever its files are
	switch {
	case o.Name != "" && !instanceText.MatchString(o.Name):
		return nil, usage("%q is not the name of a stack", o.Name)
	case o.Name == "" || len(o.Files) > 0:
		id = spec.Identify(o)
	}
	if id.Name == "" {
		name, err := h.recordedIn(id.Dir)
		if err != nil {
			return nil, err
		}
		id = spec.Identity{Name: name}
	}
	if id.Name == "" {
		if _, err := a.loadAs(o); err != nil { // which says what is wrong
			return nil, err
		}
		return nil, usage("the stack file does not tell the name of the stack")
	}
	return &work{house: h, Stack: &engine.Stack{Engine: h.engine, Name: id.Name, Dir: id.Dir, Files: id.Files}}, nil
}

// recordedIn returns the name of the stack that was brought up from files in dir
// or the closest folder above it; "": there is none.
func (h *house) recordedIn(dir string) (string, error) {
	names, err := h.home.ListStacks()
	if err != nil || dir == "" {
		return "", err
	}
	in := map[string][]string{}
	for _, name := range names {
		if rec, err := h.home.ReadStack(name); err == nil { // one that cannot be read is none of this folder's, as far as anybody knows
			in[rec.Dir] = append(in[rec.Dir], name)
		}
	}
	for ; ; dir = filepath.Dir(dir) {
		switch here := in[dir]; {
		case len(here) > 1:
			return "", errs.WithHint(usage("stacks %s are from %s", strings.Join(here, " and "), dir), "name one with -n")
		case len(here) == 1:
			return here[0], nil
		case dir == filepath.Dir(dir):
			return "", nil
		}
	}
}

// refs are the images that the stack names.
func (w *work) refs() []string {
	var refs []string
	if w.desired != nil {
		for _, c := range w.desired.Containers {
			refs = append(refs, c.Image)
		}
	}
	return slices.DeleteFunc(refs, func(r string) bool { return r == "" })
}

// claim makes the stack that of this project directory where the recorded one is
// gone, or the user says so. The stack's lock is held.
func (a *app) claim(w *work) error {
	for _, name := range w.RenamedFrom() {
		a.view.Notef("stack %s is new; the directory of stack %s is gone: if it is this one, take it along with -n %s, or name: %s in the stack file", w.Name, name, name, name)
	}
	from, err := w.Claim()
	if err == nil && from != "" {
		a.view.Notef("stack %s was that of %s and belongs to %s from now on", w.Name, from, w.Dir)
	}
	return err
}

// warnOfDamage names the records that cannot be read.
func (a *app) warnOfDamage(world state.World) {
	for _, text := range world.Damage {
		a.view.Warnf("%s", text)
	}
}

func (w *work) observe(ctx context.Context) (state.World, error) { return w.Observe(ctx, w.refs()) }

// pick answers the instances that names mean: containers or instances; all
// where there are none. A name that is neither is an error that suggests.
func pick(world state.World, names []string) ([]state.Instance, error) {
	if len(names) == 0 {
		return world.Instances, nil
	}
	known := map[string]bool{}
	for _, i := range world.Instances {
		known[i.Container], known[i.Name] = true, true
	}
	for _, n := range names {
		if !known[n] {
			err := errs.New(errs.NotFound, "no container %q in stack %s", n, world.Stack)
			if len(known) > 0 {
				err = errs.WithHint(err, "there is %s", strings.Join(slices.Sorted(maps.Keys(known)), ", "))
			}
			return nil, err
		}
	}
	var picked []state.Instance
	for _, i := range world.Instances {
		if slices.Contains(names, i.Container) || slices.Contains(names, i.Name) {
			picked = append(picked, i)
		}
	}
	return picked, nil
}

// one answers the instance that name and index mean.
func one(world state.World, name string, index int) (state.Instance, error) {
	picked, err := pick(world, []string{name})
	if err != nil {
		return state.Instance{}, err
	}
	for _, i := range picked {
		if i.Name == name || index == 0 && i.Index > 0 || index > 0 && i.Index == index {
			return i, nil
		}
	}
	return state.Instance{}, errs.New(errs.NotFound, "%s has no instance %d", name, index)
}

// logDir makes the folder of an instance's log, which a reader that comes
// before the first boot would miss.
func (w *work) logDir(name string) (string, error) {
	dir := w.house.home.Log(w.Name, name)
	err := os.Mkdir(dir, 0o700) // not MkdirAll: an instance that is removed meanwhile stays removed
	if os.IsExist(err) {
		err = nil
	}
	return dir, err
}
