package stack

import (
	"context"
	"errors"
	"slices"

	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/planner"
)

// RunOptions are what Run is asked for.
type RunOptions struct {
	Container string
	Instance  string // its name
	NoDeps    bool   // leave what the container depends on alone
	Remove    bool   // remove the instance when it has ended, also where its caller is gone by then
	Ports     bool   // with the ports and sockets of the host that the container declares
}

// Run makes and starts one more instance of a container, and what the container
// depends on.
func (s *Stack) Run(ctx context.Context, c Control, o RunOptions) error {
	c = c.in(ctx, s)
	if o.Remove {
		s.AutoRemove = o.Instance
	}
	if !o.Ports {
		ct := s.Declared.Containers[o.Container]
		ct.Sockets, ct.Ports = nil, nil
		s.Declared.Containers[o.Container] = ct
	}
	_, err := s.converge(c, func(world state.World) (*planner.Plan, error) {
		return planner.Up(s.Declared, world, planner.Options{Only: []string{o.Container}, NoDeps: o.NoDeps, OneOff: o.Instance})
	})
	return c.ended(err)
}

// RunAttached is Run with a connection to the streams of the instance's process, which
// does not begin before. The caller closes it, and its shim.
func (s *Stack) RunAttached(ctx context.Context, c Control, o RunOptions) (*Attachment, error) {
	var at *Attachment
	var atErr error
	s.Attended = o.Instance
	s.Launched = func(ctx context.Context, instance string) {
		if instance == o.Instance {
			at, atErr = s.Attach(ctx, instance, 0, AttachTo{Stdin: true, EndStdin: true})
		}
	}
	err := errors.Join(s.Run(ctx, c, o), atErr)
	if err != nil && at != nil {
		at.Close()
		at = nil
	}
	return at, err
}

// StartFailure returns why the process of an instance was not started by a plan that
// failed with err; nil where that is not why.
func StartFailure(err error, instance string) error {
	var plan *PlanError
	if !errors.As(err, &plan) {
		return nil
	}
	for _, o := range plan.Report.Outcomes {
		if op, ok := o.Step.Op.(planner.Start); ok && op.Instance == instance && o.Err != nil {
			return o.Err
		}
	}
	return nil
}

// RemoveOneOff removes an instance that Run has made, whatever became of it.
func (s *Stack) RemoveOneOff(ctx context.Context, c Control, name string) error {
	_, err := s.converge(c.in(ctx, s), func(world state.World) (*planner.Plan, error) {
		world.Instances = slices.DeleteFunc(world.Instances, func(i state.Instance) bool { return i.Name != name })
		world.Networks = nil // others may be on them
		return planner.Down(world, planner.DownOptions{}), nil
	})
	return err
}
