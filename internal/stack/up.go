package stack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/vzcompose/vzcompose/executor"
	"github.com/vzcompose/vzcompose/internal/engine"
	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/planner"
	"github.com/vzcompose/vzcompose/spec"
)

// UpOptions are what Up is asked for.
type UpOptions struct {
	Plan planner.Options
	// Wait blocks until all that is meant runs, or is healthy where it has a check;
	// WaitLimit bounds that, 0: it is not bounded.
	Wait      bool
	WaitLimit time.Duration
	// Attach follows the stack once it is up; nil: Up returns.
	Attach *AttachOptions
}

// Up brings the stack up as it is declared. With Attach it returns when every
// instance that is meant has ended, and the exit status that it is to have.
func (s *Stack) Up(ctx context.Context, c Control, o UpOptions) (int, error) {
	c = c.in(ctx, s)
	began := time.Now()
	s.Kill = c.Kill
	meant := reach(s.Declared, o.Plan.Only, o.Plan.NoDeps)
	counts := func(i state.Instance) bool { return i.Index > 0 && meant[i.Container] }
	r, err := s.converge(c, func(world state.World) (*planner.Plan, error) { return planner.Up(s.Declared, world, o.Plan) })
	switch {
	case c.DryRun:
		return 0, err
	case c.asked() && o.Attach != nil && r.plan != nil:
		return 0, errors.Join(s.stopMeant(ctx, c, counts), ErrInterrupted)
	case c.asked():
		return 0, s.left(counts, interruption(err))
	case err != nil && o.Attach != nil && o.Attach.Abort != Never && len(r.started()) > 0:
		return s.giveUp(ctx, c, *o.Attach, counts, err)
	case err != nil && r.plan != nil:
		return 0, s.left(counts, err)
	case err != nil:
		return 0, err
	}
	if err := s.Refill(ctx); err != nil {
		c.Events(PoolProblem{err})
	}
	switch {
	case o.Wait:
		names := o.Plan.Only
		if len(names) > 0 {
			names = slices.Concat(names, r.started()) // what they depend on
		}
		if err := s.awaitUp(c, o.WaitLimit, names); err != nil {
			return 0, s.left(counts, err)
		}
	case o.Attach != nil:
		return s.attach(ctx, c, *o.Attach, counts, began)
	}
	return 0, nil
}

// reach returns the containers that an up of the named ones means: they and what
// they depend on, or where none is named all.
func reach(s *spec.Stack, names []string, noDeps bool) map[string]bool {
	meant := map[string]bool{}
	if len(names) == 0 {
		names = slices.Collect(maps.Keys(s.Containers))
	}
	for len(names) > 0 {
		name := names[0]
		names = names[1:]
		if meant[name] {
			continue
		}
		meant[name] = true
		if !noDeps {
			names = append(names, slices.Collect(maps.Keys(s.Containers[name].DependsOn))...)
		}
	}
	return meant
}

// started returns the instances that were started.
func (r result) started() []string {
	var names []string
	for _, o := range r.report.Outcomes {
		if op, ok := o.Step.Op.(planner.Start); ok && o.Status == event.Done {
			names = append(names, op.Instance)
		}
	}
	return names
}

// awaitUp blocks until the instances that names mean, or where there are none all
// that are declared, are up.
func (s *Stack) awaitUp(c Control, limit time.Duration, names []string) error {
	recorded, err := s.Recorded()
	if err != nil {
		return err
	}
	plan := planner.AwaitUp(s.Declared, recorded, names)
	s.WaitLimit = limit
	if _, err := s.execute(c, plan); err != nil {
		return err
	}
	var failed []error
	for _, step := range plan.Steps { // what was up may have ended while others were waited for
		op := step.Op.(planner.Await)
		i, err := s.ObserveOne(c.Kill, op.Instance)
		if err != nil {
			return err
		}
		if err := engine.NotUp(engine.StatusOf(i), op.Ends); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", i.Name, err))
		}
	}
	return errors.Join(failed...)
}

// stopMeant stops the instances that are meant. Where the user has asked to stop
// already, asking again kills; else asking does.
func (s *Stack) stopMeant(ctx context.Context, c Control, meant func(state.Instance) bool) error {
	killed := c.Drain
	if c.asked() {
		killed = c.Kill
		c.Events(Stopping{})
	}
	lock, err := s.lock(killed, c)
	if err != nil {
		return s.left(meant, err)
	}
	defer lock.Release()
	ctx = context.WithoutCancel(ctx) // the plan of a stop has limits of its own
	world, err := s.Observe(ctx, nil)
	if err != nil {
		return s.left(meant, err)
	}
	world.Instances = slices.DeleteFunc(world.Instances, func(i state.Instance) bool { return !meant(i) })
	plan, err := planner.StopAll(world, nil)
	if err != nil || plan.Empty() {
		return err
	}
	stopKill := context.AfterFunc(killed, func() {
		c.Events(Killing{})
		now := time.Duration(0)
		for _, i := range world.Instances {
			go func() { _ = s.Stop(ctx, i.Name, &now) }() // the plan's own stop tells how it went
		}
	})
	defer stopKill()
	c.Events(Began{plan})
	report, err := executor.Execute(ctx, plan, s.Stack, c.step, executor.Options{})
	c.Events(Ended{Report: report})
	if err != nil {
		return s.left(meant, fmt.Errorf("stop the stack: %w", err))
	}
	return nil
}

// giveUp stops the instances that are meant by an up that has failed with err.
func (s *Stack) giveUp(ctx context.Context, c Control, o AttachOptions, counts func(state.Instance) bool, err error) (int, error) {
	c.Events(Aborting{})
	if serr := s.stopMeant(ctx, c, counts); serr != nil {
		return 0, errors.Join(err, serr)
	}
	if o.StatusOf == "" {
		return 0, err
	}
	if code, serr := s.exitOf(ctx, o.StatusOf); serr == nil && code != 0 {
		return code, nil
	}
	return 0, err
}

// left returns err, with which of the instances that are meant still run: nothing is
// left running without a word.
func (s *Stack) left(meant func(state.Instance) bool, err error) error {
	world, oerr := s.Observe(context.Background(), nil) // each look at a shim has its limit
	if oerr != nil {
		return errors.Join(err, oerr)
	}
	var names []string
	for _, i := range world.Instances {
		if i.State.Live() && meant(i) {
			names = append(names, i.Name)
		}
	}
	if len(names) == 0 {
		return err
	}
	return &LeftRunning{Stack: s.Name, Instances: names, Err: err}
}

// LeftRunning is an error after which instances still run.
type LeftRunning struct {
	Stack     string
	Instances []string
	Err       error
}

func (e *LeftRunning) Error() string { return e.Err.Error() }
func (e *LeftRunning) Unwrap() error { return e.Err }
