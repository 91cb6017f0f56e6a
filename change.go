package vzcompose

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/internal/stack"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/planner"
)

// Observer receives the progress of an up or a down. Its functions may be nil, must not block
// for long, and are called from one goroutine at a time.
type Observer struct {
	Step func(Step)        // news of a step of the plan
	Note func(text string) // a warning or a remark for people
}

// Step is news of one step of a plan.
type Step struct {
	Number    int
	Operation string // "create", "start"
	Subject   string // "container/web-1", "image/busybox"
	Status    string // "waiting", "running", "done", "failed", "skipped" or "interrupted"
	Phase     string // within a step that runs: "booting kernel"
	Cause     string // why the step exists, was skipped or has failed
	Duration  time.Duration
}

// UpOptions of Up and Plan.
type UpOptions struct {
	// Only are the containers that are meant, with what they depend on; none: all.
	Only []string
	// Scale has another number of replicas than is declared.
	Scale map[string]int
	// ForceRecreate makes instances anew that need not be.
	ForceRecreate bool
	// RemoveOrphans removes instances that the files do not declare.
	RemoveOrphans bool
	// Wait blocks until every instance runs, or is healthy where it has a check.
	// WaitLimit bounds that; 0: ctx does.
	Wait      bool
	WaitLimit time.Duration

	Observer Observer
}

func (o UpOptions) plan() planner.Options {
	return planner.Options{Only: o.Only, Scale: o.Scale, ForceRecreate: o.ForceRecreate, RemoveOrphans: o.RemoveOrphans}
}

// Up brings the stack up as it is declared, and leaves alone what is so already. It
// waits for a process that is changing the stack. When ctx ends, what is being started is
// taken back, and what runs stays. The error is a *PlanError where a step failed; the
// next Up goes on from there.
func (s *Stack) Up(ctx context.Context, o UpOptions) error {
	c, failed := control(o.Observer)
	_, err := s.use().Up(ctx, c, stack.UpOptions{Plan: o.plan(), Wait: o.Wait, WaitLimit: o.WaitLimit})
	return failed(ctx, err)
}

// DownOptions of Down.
type DownOptions struct {
	// Volumes removes the named volumes, and what is in them.
	Volumes bool
	// Grace replaces the declared time between the stop signal and SIGKILL; nil: as
	// declared.
	Grace *time.Duration

	Observer Observer
}

// Down stops and removes what the stack has. That there is nothing is no error.
func (s *Stack) Down(ctx context.Context, o DownOptions) error {
	c, failed := control(o.Observer)
	c.Grace = o.Grace
	return failed(ctx, s.use().Down(ctx, c, stack.DownOptions{Volumes: o.Volumes}))
}

// Plan returns what Up would do, and why. Nothing is changed.
func (s *Stack) Plan(ctx context.Context, o UpOptions) (*Plan, error) {
	p, world, err := s.use().PlanUp(ctx, o.plan())
	if err != nil {
		return nil, err
	}
	plan := &Plan{Warnings: append(append([]string(nil), world.Damage...), p.Warnings...), text: p.String()}
	for _, step := range p.Steps {
		plan.Steps = append(plan.Steps, PlannedStep{Operation: step.Op.Verb(), Subject: step.Op.Subject(), Cause: step.Cause})
	}
	return plan, nil
}

// Plan is what would be done, in an order that can be followed.
type Plan struct {
	Steps    []PlannedStep
	Warnings []string
	text     string
}

// PlannedStep is one step, and why it is needed.
type PlannedStep struct{ Operation, Subject, Cause string }

// String returns the plan as text, a line each step.
func (p *Plan) String() string { return p.text }

// PlanError is a plan some of whose steps failed or were not done.
type PlanError struct {
	Failed []FailedStep
	err    error
}

// FailedStep is a step that failed.
type FailedStep struct {
	Operation, Subject string
	Err                error
	// Output is what the instance wrote last, or where it wrote nothing its machine.
	Output []string
}

// Error returns every failure, with what the instance wrote last.
func (e *PlanError) Error() string {
	var b strings.Builder
	b.WriteString(e.err.Error())
	for _, f := range e.Failed {
		for _, line := range f.Output {
			fmt.Fprintf(&b, "\n\t%s | %s", strings.TrimPrefix(f.Subject, "container/"), line)
		}
	}
	return b.String()
}

// Unwrap returns the failures, the first of them in front.
func (e *PlanError) Unwrap() error { return e.err }

// control returns what carries a use case out for an observer, and what to return where
// it ended with an error.
func control(o Observer) (stack.Control, func(context.Context, error) error) {
	said := map[int][]string{}
	events := func(e stack.Event) {
		switch e := e.(type) {
		case stack.Step:
			if o.Step != nil {
				o.Step(stepOf(e.Event))
			}
		case stack.Ended:
			for _, s := range e.Said {
				said[s.Step] = s.Console
				for _, r := range s.Output {
					said[s.Step] = append(said[s.Step], string(r.Text))
				}
			}
		default:
			if text := noteOf(e); text != "" && o.Note != nil {
				o.Note(text)
			}
		}
	}
	return stack.Control{Events: events}, func(ctx context.Context, err error) error {
		var failed *stack.PlanError
		switch {
		case errors.As(err, &failed):
			e := &PlanError{err: err}
			for _, out := range failed.Report.Outcomes {
				if out.Status == event.Failed {
					e.Failed = append(e.Failed, FailedStep{out.Step.Op.Verb(), out.Step.Op.Subject(), out.Err, said[out.Step.ID]})
				}
			}
			return e
		case errors.Is(err, stack.ErrInterrupted) && ctx.Err() != nil:
			return context.Cause(ctx)
		}
		return err
	}
}

func stepOf(e event.Event) Step {
	return Step{Number: e.Step, Operation: e.Operation, Subject: e.Subject, Status: string(e.Status), Phase: e.Phase, Cause: e.Cause, Duration: e.Duration}
}

// noteOf returns an event as a remark for people; "": it is none.
func noteOf(e stack.Event) string {
	switch e := e.(type) {
	case stack.Locked:
		return "waiting for another process that works on stack " + e.Stack
	case stack.Damaged:
		return "warning: " + e.What
	case stack.Warned:
		return "warning: " + e.Text
	case stack.Claimed:
		return fmt.Sprintf("stack %s was that of %s and belongs to %s from now on", e.Stack, e.From, e.Dir)
	case stack.PoolProblem:
		return fmt.Sprintf("the pool is not filled: %v", e.Err)
	}
	return ""
}

// instanceOf is what is shown of an instance.
func instanceOf(i state.Instance) Instance {
	out := Instance{Name: i.Name, Container: i.Container, Index: i.Index, State: stateOf(i.State), Health: i.Health, Cause: i.Cause,
		Started: i.Started, Finished: i.Finished}
	if i.Exit != nil {
		code := i.Exit.Code
		out.ExitCode = &code
	}
	for _, p := range i.Ports {
		out.Ports = append(out.Ports, Port{Container: p.Target, Protocol: p.Protocol, HostIP: p.HostIP, Host: p.Published[0]})
	}
	return out
}
