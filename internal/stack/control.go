package stack

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/vzcompose/vzcompose/executor"
	"github.com/vzcompose/vzcompose/internal/engine"
	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/internal/filelock"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/planner"
)

// Control is how a change of a stack is carried out, and who is told.
type Control struct {
	// Drain, when it ends, begins nothing more and takes back what is being
	// started; Kill ends what is under way. nil: the context of the call.
	Drain, Kill context.Context
	Events      Sink // nil: nobody is told
	DryRun      bool // only plan
	FailFast    bool // begin nothing more after a failure
	Parallel    int  // steps at a time; 0: as many as the host has room for
	// Grace replaces the declared time between the stop signal and SIGKILL; nil: as
	// declared.
	Grace *time.Duration
}

// in returns c with what is missing filled in from the context of the call, and has
// the stack's operations follow it.
func (c Control) in(ctx context.Context, s *Stack) Control {
	if c.Drain == nil {
		c.Drain = ctx
	}
	if c.Kill == nil {
		c.Kill = ctx
	}
	if c.Events == nil {
		c.Events = func(Event) {}
	}
	if c.Grace != nil {
		s.Stack.Grace = c.Grace
	}
	return c
}

// asked reports whether the user has asked to stop.
func (c Control) asked() bool { return c.Drain.Err() != nil }

// ended returns ErrInterrupted where the user has asked to stop and nothing else went
// wrong.
func (c Control) ended(err error) error {
	if err == nil && c.asked() {
		return ErrInterrupted
	}
	return err
}

// ErrInterrupted says that something was not done to its end because the user asked
// to stop.
var ErrInterrupted = errors.New("interrupted")

// interruption returns err, which went wrong when the user had asked to stop, where it
// tells that, else ErrInterrupted.
func interruption(err error) error {
	if errors.Is(err, ErrInterrupted) {
		return err
	}
	return ErrInterrupted
}

// PlanError is a plan that was not carried out to its end. The event Ended has told
// about it.
type PlanError struct {
	Report executor.Report
	Err    error // every failure; the first one leads
	// Interrupted reports that the user asked to stop.
	Interrupted bool
}

func (e *PlanError) Error() string { return e.Err.Error() }
func (e *PlanError) Unwrap() error { return e.Err }

// Is reports whether the plan was interrupted, where target is ErrInterrupted.
func (e *PlanError) Is(target error) bool { return target == ErrInterrupted && e.Interrupted }

// result is what became of a change.
type result struct {
	plan   *planner.Plan // nil: it came to none
	report executor.Report
}

// converge locks the stack, observes it, plans and carries the plan out.
func (s *Stack) converge(c Control, compute func(state.World) (*planner.Plan, error)) (result, error) {
	lock, err := s.lock(c.Drain, c)
	if err != nil {
		return result{}, err
	}
	defer lock.Release()
	return s.convergeLocked(c, compute)
}

// lock takes the lock under which the stack is changed.
func (s *Stack) lock(ctx context.Context, c Control) (*filelock.Lock, error) {
	return s.Folder.LockStack(ctx, s.Name, func() { c.Events(Locked{s.Name}) })
}

// convergeLocked is converge for a caller that holds the stack's lock.
func (s *Stack) convergeLocked(c Control, compute func(state.World) (*planner.Plan, error)) (r result, err error) {
	world, err := s.World(c.Kill)
	if err != nil {
		return r, err
	}
	for _, text := range world.Damage {
		c.Events(Damaged{text})
	}
	if r.plan, err = compute(world); err != nil {
		return result{}, err
	}
	if !c.DryRun {
		if err := s.claim(c); err != nil {
			return r, err
		}
	}
	for _, text := range r.plan.Warnings {
		c.Events(Warned{text})
	}
	if c.DryRun || r.plan.Empty() {
		c.Events(Planned{r.plan, world})
		return r, nil
	}
	if err := s.Check(c.Kill, r.plan, world); err != nil {
		return r, err
	}
	c.Events(Decided{r.plan, world})
	r.report, err = s.execute(c, r.plan)
	return r, err
}

// cleanUp is how long steps may take to return after Kill has ended.
const cleanUp = 45 * time.Second

// execute carries a plan out. The error is a *PlanError.
func (s *Stack) execute(c Control, plan *planner.Plan) (executor.Report, error) {
	c.Events(Began{plan})
	report, err := executor.Execute(c.Kill, plan, s.Stack, c.step, executor.Options{
		Parallel: c.Parallel, FailFast: c.FailFast, Drain: c.Drain,
		CPUs: float64(runtime.NumCPU()), Memory: engine.HostMemory(), CleanUp: cleanUp,
	})
	if err == nil {
		c.Events(Ended{Report: report})
		return report, nil
	}
	c.Events(Ended{Report: report, Said: s.lastWords(report), Err: err})
	return report, &PlanError{Report: report, Err: err, Interrupted: c.asked()}
}

// step passes on the progress of a step.
func (c Control) step(e event.Event) { c.Events(Step{e}) }
