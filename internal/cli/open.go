package cli

import (
	"fmt"
	"io"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/internal/engine"
	"github.com/vzcompose/vzcompose/internal/process"
	"github.com/vzcompose/vzcompose/internal/stack"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/spec"
)

func (a *app) open() (*stack.Home, error) {
	return stack.Open(stack.Options{LookupEnv: a.deps.LookupEnv, Cold: a.cold, Probe: process.Probe(a.deps.Driver, a.deps.LookupEnv)})
}

// maxStdin bounds a stack file on standard input, in bytes.
const maxStdin = 8 << 20

// load reads the stack file, named containers in the stack whatever their profiles.
func (a *app) load(c *cli.Context, named ...string) (*spec.Loaded, error) {
	o, err := a.loadOptions(c, named...)
	if err != nil {
		return nil, err
	}
	return a.loadAs(o)
}

// loadAs reads the stack that o names. Warnings are shown, findings are the error.
func (a *app) loadAs(o spec.Options) (*spec.Loaded, error) {
	loaded, err := spec.Load(o)
	if err != nil {
		return nil, err
	}
	a.view.Findings(loaded.Findings)
	return loaded, nil
}

// loadOptions say which stack the command line means.
func (a *app) loadOptions(c *cli.Context, named ...string) (spec.Options, error) {
	o := spec.Options{Files: c.StringSlice("file"), Name: c.String("name"), Dir: c.String("project-directory"), EnvFiles: c.StringSlice("env-file"),
		Profiles: c.StringSlice("profile"), Named: named, Platform: engine.Platform(), LookupEnv: a.deps.LookupEnv,
		PublishOffset: c.Int("publish-offset")}
	set, err := stack.ReadSettings(a.deps.LookupEnv)
	if err != nil {
		return o, err
	}
	o.PublishAddress = set.PublishAddress
	if slices.Contains(o.Files, "-") {
		if o.Stdin, err = io.ReadAll(io.LimitReader(a.deps.Stdin, maxStdin)); err != nil {
			return o, fmt.Errorf("read standard input: %w", err)
		}
	}
	return o, nil
}

// withFile opens the stack that the file declares, named containers in it whatever
// their profiles.
func (a *app) withFile(c *cli.Context, named ...string) (*stack.Stack, error) {
	o, err := a.loadOptions(c, named...)
	if err != nil {
		return nil, err
	}
	return a.withOptions(o)
}

// withOptions opens the stack that o names.
func (a *app) withOptions(o spec.Options) (*stack.Stack, error) {
	loaded, err := a.loadAs(o)
	if err != nil {
		return nil, err
	}
	h, err := a.open()
	if err != nil {
		return nil, err
	}
	s := h.Declare(loaded, o)
	s.Adopt = a.adopt
	return s, nil
}

// withName opens a stack for a command that needs no declaration: its name and
// its records are enough.
func (a *app) withName(c *cli.Context) (*stack.Stack, error) {
	o, err := a.loadOptions(c)
	if err != nil {
		return nil, err
	}
	h, err := a.open()
	if err != nil {
		return nil, err
	}
	return h.Named(o)
}

// selected opens the stack and returns the instances that the arguments mean.
func (a *app) selected(c *cli.Context) (*stack.Stack, state.World, []state.Instance, error) {
	s, err := a.withName(c)
	if err != nil {
		return nil, state.World{}, nil, err
	}
	world, picked, err := s.Select(c.Context, c.Args().Slice())
	return s, world, picked, err
}
