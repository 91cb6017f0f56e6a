// Package executor carries a plan out. It decides nothing about what is to be
// done: it knows the order, the limits and the outcomes, and tells how it goes.
//
// A step starts when all it waits for succeeded. When one fails, what depends
// on it is skipped because of it, and everything else goes on: every step that
// can be done is done, the first failure leads, none is lost, as
// LinuxContainer.stop does it. How many run at once is a matter of what they
// take of the host's processors and memory; there is no lock around starting.
package executor

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sync/errgroup"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/planner"
)

// Runner carries out one step: the engine. It may be called from several
// goroutines. report may be called until Run returns.
type Runner interface {
	Run(ctx context.Context, s planner.Step, report func(event.Progress)) error
}

// Options of one execution.
type Options struct {
	// Drain, when it ends, lets what runs come to its end and begins nothing
	// more: the first interrupt. nil: never. The context given to Execute is
	// that of the steps themselves: the second.
	Drain context.Context
	// FailFast begins nothing more after the first failure.
	FailFast bool
	// Parallel is how many steps may run at once; 0: no limit but the host's.
	Parallel int
	// CPUs and Memory (bytes) of the host that steps may take together; 0: not
	// counted. A step that wants more than all of it runs alone.
	CPUs   float64
	Memory uint64
}

// Outcome is what became of a step.
type Outcome struct {
	Step     planner.Step
	Status   event.Status // Done, Failed or Skipped
	Err      error        // why it failed
	Because  int          // the step whose failure it was skipped for; 0: an interrupt
	Duration time.Duration
}

// Report is what became of a plan: an outcome a step, in the plan's order.
type Report struct{ Outcomes []Outcome }

// execution is one Execute. Outcomes are each written once, by the step's own
// goroutine, before its channel is closed, and read after.
type execution struct {
	runner   Runner
	sink     event.Sink
	o        Options
	ctx      context.Context // of the steps
	drain    context.Context // ends when nothing more is to begin
	stop     context.CancelCauseFunc
	gate     *gate
	outcomes []Outcome
	ended    []chan struct{}
	failures chan int // indices, in the order in which they failed
}

var errFailFast = errors.New("another step failed")

// Execute runs p. The error is nil, or a *multierror.Error of the failures, the
// first in time leading and the others in the plan's order; where nothing
// failed but an interrupt left steps undone, the interrupt's cause. A failure
// of an optional step is in the report only.
func Execute(ctx context.Context, p *planner.Plan, r Runner, sink event.Sink, o Options) (Report, error) {
	if sink == nil {
		sink = func(event.Event) {}
	}
	if o.Drain == nil {
		o.Drain = ctx
	}
	n := len(p.Steps)
	e := &execution{runner: r, sink: sink, o: o, ctx: ctx, gate: newGate(o), outcomes: make([]Outcome, n),
		ended: make([]chan struct{}, n), failures: make(chan int, n)}
	drain, stop := context.WithCancelCause(o.Drain)
	defer stop(nil)
	unlink := context.AfterFunc(ctx, func() { stop(context.Cause(ctx)) })
	defer unlink()
	e.drain, e.stop = drain, stop
	for i := range e.ended {
		e.ended[i] = make(chan struct{})
	}
	var g errgroup.Group // for the goroutines; outcomes carry the errors
	for i := range p.Steps {
		g.Go(func() error {
			defer close(e.ended[i])
			e.outcomes[i] = e.step(p.Steps[i])
			e.tell(e.outcomes[i])
			if e.outcomes[i].Status == event.Failed {
				e.failures <- i
				if o.FailFast && !p.Steps[i].Optional {
					stop(errFailFast)
				}
			}
			return nil
		})
	}
	_ = g.Wait() // they answer nil
	close(e.failures)
	return Report{Outcomes: e.outcomes}, e.err()
}

// step waits for its turn and runs.
func (e *execution) step(s planner.Step) Outcome {
	out := Outcome{Step: s, Status: event.Skipped}
	e.sink(event.Event{Time: time.Now(), Step: s.ID, Operation: s.Op.Verb(), Subject: s.Op.Subject(), Status: event.Waiting, Cause: s.Cause})
	because, ok := e.await(s)
	if !ok {
		out.Because = because
		return out
	}
	release, err := e.gate.enter(e.drain, s)
	if err != nil {
		return out
	}
	defer release()
	if e.drain.Err() != nil { // it ended while we came in
		return out
	}
	began := time.Now()
	e.sink(event.Event{Time: began, Step: s.ID, Operation: s.Op.Verb(), Subject: s.Op.Subject(), Status: event.Running, Cause: s.Cause})
	err = e.run(s)
	out.Duration = time.Since(began)
	if err != nil {
		out.Status, out.Err = event.Failed, fmt.Errorf("%s %s: %w", s.Op.Verb(), s.Op.Subject(), err)
		return out
	}
	out.Status = event.Done
	return out
}

// await waits until all that s needs has ended, and reports whether all of it
// succeeded; otherwise the step at the root of it.
func (e *execution) await(s planner.Step) (because int, ok bool) {
	ok = true
	for _, id := range slices.Concat(s.After, s.AfterEnd) {
		<-e.ended[id-1] // every step ends: an interrupt skips it
	}
	for _, id := range s.After {
		switch dep := e.outcomes[id-1]; dep.Status {
		case event.Failed:
			return id, false
		case event.Skipped:
			because, ok = dep.Because, false
		}
	}
	return because, ok && e.drain.Err() == nil
}

// run calls the runner. A panic in it is that step's failure.
func (e *execution) run(s planner.Step) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = errs.New(errs.Internal, "panic: %v\n%s", v, debug.Stack())
		}
	}()
	return e.runner.Run(e.ctx, s, func(p event.Progress) {
		e.sink(event.Event{Time: time.Now(), Step: s.ID, Operation: s.Op.Verb(), Subject: s.Op.Subject(),
			Status: event.Running, Cause: s.Cause, Phase: p.Phase, Current: p.Current, Total: p.Total})
	})
}

// tell sends the last event of a step.
func (e *execution) tell(o Outcome) {
	ev := event.Event{Time: time.Now(), Step: o.Step.ID, Operation: o.Step.Op.Verb(), Subject: o.Step.Op.Subject(),
		Status: o.Status, Cause: o.Step.Cause, Duration: o.Duration, Err: o.Err}
	switch {
	case o.Status == event.Skipped && o.Because != 0:
		ev.Cause = fmt.Sprintf("because %s failed", e.outcomes[o.Because-1].Step.Op.Subject())
	case o.Status == event.Skipped:
		ev.Cause = "interrupted"
		if cause := context.Cause(e.drain); cause != nil {
			ev.Cause = cause.Error()
		}
	}
	e.sink(ev)
}

// err collects the failures.
func (e *execution) err() error {
	var all *multierror.Error
	lead := -1
	for i := range e.failures {
		if !e.outcomes[i].Step.Optional {
			lead = i
			all = multierror.Append(all, e.outcomes[i].Err)
			break
		}
	}
	undone := false
	for i, o := range e.outcomes {
		if i != lead && o.Status == event.Failed && !o.Step.Optional {
			all = multierror.Append(all, o.Err)
		}
		undone = undone || o.Status == event.Skipped && o.Because == 0
	}
	if all == nil && undone {
		return context.Cause(e.drain)
	}
	return all.ErrorOrNil()
}
