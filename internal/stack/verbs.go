package stack

import (
	"context"
	"maps"
	"slices"

	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/planner"
)

// PlanUp returns what Up would do.
func (s *Stack) PlanUp(ctx context.Context, o planner.Options) (*planner.Plan, state.World, error) {
	world, err := s.World(ctx)
	if err != nil {
		return nil, world, err
	}
	plan, err := planner.Up(s.Declared, world, o)
	return plan, world, err
}

// change carries out what compute plans.
func (s *Stack) change(ctx context.Context, c Control, compute func(state.World) (*planner.Plan, error)) error {
	c = c.in(ctx, s)
	_, err := s.converge(c, compute)
	return c.ended(err)
}

// Create makes the instances that are declared, and starts none.
func (s *Stack) Create(ctx context.Context, c Control, o planner.Options) error {
	o.NoStart = true
	return s.change(ctx, c, func(world state.World) (*planner.Plan, error) { return planner.Up(s.Declared, world, o) })
}

// Start starts instances that exist: those that names mean, containers or instances,
// or all where there are none.
func (s *Stack) Start(ctx context.Context, c Control, names []string) error {
	return s.existing(ctx, c, names, planner.StartAll)
}

// StopInstances stops instances, as Start means them, and keeps them.
func (s *Stack) StopInstances(ctx context.Context, c Control, names []string) error {
	return s.existing(ctx, c, names, planner.StopAll)
}

// Restart stops instances, as Start means them, and starts them again.
func (s *Stack) Restart(ctx context.Context, c Control, names []string) error {
	return s.existing(ctx, c, names, planner.RestartAll)
}

func (s *Stack) existing(ctx context.Context, c Control, names []string, plan func(state.World, []string) (*planner.Plan, error)) error {
	return s.change(ctx, c, func(world state.World) (*planner.Plan, error) {
		some, only, err := scope(world, names)
		if err != nil {
			return nil, err
		}
		return plan(some, only)
	})
}

// Scale has another number of replicas of containers until the next Up.
func (s *Stack) Scale(ctx context.Context, c Control, replicas map[string]int, noDeps bool) error {
	o := planner.Options{NoDeps: noDeps, NoRecreate: true, Scale: replicas, Only: slices.Sorted(maps.Keys(replicas))}
	return s.change(ctx, c, func(world state.World) (*planner.Plan, error) {
		for _, i := range world.Instances { // what was scaled before and is not named stays so
			ct, declared := s.Declared.Containers[i.Container]
			if declared && !slices.Contains(o.Only, i.Container) {
				o.Scale[i.Container] = max(o.Scale[i.Container], ct.Replicas, i.Index)
			}
		}
		return planner.Up(s.Declared, world, o)
	})
}

// RemoveOptions are what Remove is asked for.
type RemoveOptions struct {
	Names []string // containers or instances; all where there are none
	Stop  bool     // also those that run
	// Volumes removes the volumes that only these instances have.
	Volumes bool
	// Confirm is asked before anything is removed; nil: it is not asked.
	Confirm func([]state.Instance) error
}

// Remove removes instances and what they have written.
func (s *Stack) Remove(ctx context.Context, c Control, o RemoveOptions) error {
	c = c.in(ctx, s)
	return s.change(ctx, c, func(world state.World) (*planner.Plan, error) {
		picked, err := pick(world, o.Names)
		if err != nil {
			return nil, err
		}
		var left []string
		world.Instances = slices.DeleteFunc(slices.Clone(picked), func(i state.Instance) bool {
			if i.State.Live() && !o.Stop {
				left = append(left, i.Name)
				return true
			}
			return false
		})
		world.Networks = nil // others may be on them
		world.Volumes = slices.DeleteFunc(world.Volumes, func(v state.Volume) bool {
			return !slices.ContainsFunc(world.Instances, func(i state.Instance) bool { return i.Name == v.Instance })
		})
		if len(left) > 0 {
			c.Events(LeftAlone{left})
		}
		if len(world.Instances) > 0 && o.Confirm != nil && !c.DryRun {
			if err := o.Confirm(world.Instances); err != nil {
				return nil, err
			}
		}
		return planner.Down(world, planner.DownOptions{Volumes: o.Volumes}), nil
	})
}

// Pull fetches the images of containers, of all where names has none. The policy is
// "always" or "missing".
func (s *Stack) Pull(ctx context.Context, c Control, names []string, policy string) error {
	c = c.in(ctx, s)
	plan, err := planner.PullAll(s.Declared, names, policy)
	if err != nil {
		return err
	}
	if c.DryRun || plan.Empty() {
		c.Events(Planned{plan, state.World{Stack: s.Name}})
		return nil
	}
	_, err = s.execute(c, plan)
	return err
}
