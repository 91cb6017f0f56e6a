package stack

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/planner"
	"github.com/vzcompose/vzcompose/spec"
)

// DownOptions are what Down is asked for.
type DownOptions struct {
	Only    []string // containers; all where there are none
	Volumes bool     // remove volumes and what is in them
}

// Down stops and removes what the stack has, or some containers of it.
func (s *Stack) Down(ctx context.Context, c Control, o DownOptions) error {
	c = c.in(ctx, s)
	if _, err := os.Stat(s.Folder.Stack(s.Name)); os.IsNotExist(err) && !o.Volumes {
		c.Events(Nothing{s.Name})
		return nil
	}
	lock, err := s.lock(c.Drain, c)
	if err != nil {
		return err
	}
	defer lock.Release()
	_, err = s.convergeLocked(c, func(world state.World) (*planner.Plan, error) { return s.planDown(world, o) })
	if err != nil || c.DryRun {
		return err
	}
	if c.asked() {
		return ErrInterrupted
	}
	// Under the lock still: an up that waits for it must not find half of it.
	if err := s.RemoveStack(ctx); err != nil {
		return err
	}
	if err := s.emptyPoolWithLast(ctx); err != nil {
		return fmt.Errorf("empty the pool: %w", err)
	}
	s.Folder.RemoveRuntime()
	return nil
}

// PlanDown returns what Down would do.
func (s *Stack) PlanDown(ctx context.Context, o DownOptions) (*planner.Plan, state.World, error) {
	world, err := s.World(ctx)
	if err != nil {
		return nil, world, err
	}
	plan, err := s.planDown(world, o)
	return plan, world, err
}

// planDown plans a Down. A name that neither the records nor the file know is refused.
// The file is read for no other reason than to know it, and which volumes containers
// have: it need not be right.
func (s *Stack) planDown(world state.World, o DownOptions) (*planner.Plan, error) {
	p := planner.DownOptions{Only: o.Only, Volumes: o.Volumes, Declared: map[string][]string{}}
	if len(p.Only) == 0 {
		return planner.Down(world, p), nil
	}
	known := map[string]bool{}
	for _, i := range world.Instances {
		known[i.Container] = true
	}
	file := s.source
	file.Profiles = []string{"*"}
	if loaded, err := spec.Load(file); err == nil && loaded.Stack.Name == world.Stack {
		for name, ct := range loaded.Stack.Containers {
			known[name], p.Declared[name] = true, volumesOf(ct)
		}
	}
	for _, name := range p.Only {
		if !known[name] {
			return nil, errs.WithHint(usage("no container %q in stack %s", name, world.Stack), "there is %s", strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
	}
	return planner.Down(world, p), nil
}

// volumesOf returns the named volumes of the stack that a container mounts.
func volumesOf(ct spec.Container) (names []string) {
	for _, m := range ct.Mounts {
		if m.Type == "volume" && m.Source != "" && !m.External {
			names = append(names, m.Source)
		}
	}
	return names
}
