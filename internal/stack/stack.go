package stack

import (
	"context"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vzcompose/vzcompose/internal/engine"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/spec"
)

// Stack is one stack of a home folder.
type Stack struct {
	*Home
	*engine.Stack
	Declared *spec.Stack // nil where no file was read

	source spec.Options // where it is declared
}

// Declare returns the stack that files declare, which were loaded with o.
func (h *Home) Declare(l *spec.Loaded, o spec.Options) *Stack {
	s := &engine.Stack{Engine: h.Engine, Name: l.Stack.Name, Dir: l.Stack.Dir, Files: l.Files, Statics: engine.Statics(l.Stack), Ports: l.Ports}
	return &Stack{Home: h, Stack: s, Declared: l.Stack, source: o}
}

// Named returns a stack for what needs no declaration: its name and its records are
// enough. A mistake in the stack file, or a file that is gone, keeps nobody from
// seeing and stopping what was brought up.
func (h *Home) Named(o spec.Options) (*Stack, error) {
	id := spec.Identity{Name: o.Name} // a name alone is a stack wherever its files are
	switch {
	case o.Name != "" && !spec.ValidStackName(o.Name):
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
		if _, err := spec.Load(o); err != nil { // which says what is wrong
			return nil, err
		}
		return nil, usage("the stack file does not tell the name of the stack")
	}
	return &Stack{Home: h, Stack: &engine.Stack{Engine: h.Engine, Name: id.Name, Dir: id.Dir, Files: id.Files}, source: o}, nil
}

// usage returns an error of how something was called.
func usage(format string, args ...any) error { return errs.New(errs.InvalidArgument, format, args...) }

// recordedIn returns the name of the stack that was brought up from files in dir
// or the closest folder above it; "": there is none.
func (h *Home) recordedIn(dir string) (string, error) {
	names, err := h.Folder.ListStacks()
	if err != nil || dir == "" {
		return "", err
	}
	in := map[string][]string{}
	for _, name := range names {
		if rec, err := h.Folder.ReadStack(name); err == nil { // one that cannot be read is none of this folder's, as far as anybody knows
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

// World observes the stack, with what the images that it declares mean here.
func (s *Stack) World(ctx context.Context) (state.World, error) {
	var refs []string
	if s.Declared != nil {
		for _, c := range s.Declared.Containers {
			refs = append(refs, c.Image)
		}
	}
	return s.Observe(ctx, slices.DeleteFunc(refs, func(r string) bool { return r == "" }))
}

// claim makes the stack that of this project directory where the recorded one is
// gone, or the user says so. The stack's lock is held.
func (s *Stack) claim(c Control) error {
	for _, name := range s.RenamedFrom() {
		c.Events(Renamed{Stack: s.Name, From: name})
	}
	from, err := s.Claim()
	if err == nil && from != "" {
		c.Events(Claimed{Stack: s.Name, From: from, Dir: s.Dir})
	}
	return err
}
