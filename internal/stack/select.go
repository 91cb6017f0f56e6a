package stack

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/state"
)

// Select observes the stack and returns the instances that names mean, containers or
// instances; all where there are none.
func (s *Stack) Select(ctx context.Context, names []string) (state.World, []state.Instance, error) {
	world, err := s.Observe(ctx, nil)
	if err != nil {
		return world, nil, err
	}
	picked, err := pick(world, names)
	return world, picked, err
}

// Find returns the instance that name means, and index where it is not 0. The shims
// of no other instances are asked.
func (s *Stack) Find(ctx context.Context, name string, index int) (state.Instance, error) {
	world, err := s.Recorded()
	if err != nil {
		return state.Instance{}, err
	}
	i, err := one(world, name, index)
	if err != nil {
		return i, err
	}
	return s.ObserveOne(ctx, i.Name)
}

// Connect returns a connection to the shim of the instance that name and index mean. An
// error of the connection says for what it was wanted: "exec in".
func (s *Stack) Connect(ctx context.Context, name string, index int, what string) (state.Instance, *shimproto.Client, error) {
	world, err := s.Recorded()
	if err != nil {
		return state.Instance{}, nil, err
	}
	i, err := one(world, name, index)
	if err != nil {
		return i, nil, err
	}
	shim, err := s.Dial(ctx, i.Name)
	if err != nil {
		err = fmt.Errorf("%s %s: %w", what, i.Name, err)
	}
	return i, shim, err
}

// pick returns the instances that names mean. A name that is neither a container nor
// an instance is an error that suggests.
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

// one returns the instance that name and index mean.
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

// scope returns what names mean of a world to the planner: containers to look at, or
// where an instance is named, a world of what is named alone.
func scope(world state.World, names []string) (state.World, []string, error) {
	picked, err := pick(world, names)
	if err != nil {
		return world, nil, err
	}
	containers := map[string]bool{}
	for _, i := range world.Instances {
		containers[i.Container] = true
	}
	if !slices.ContainsFunc(names, func(n string) bool { return !containers[n] }) {
		return world, names, nil
	}
	world.Instances = picked
	return world, nil, nil
}
