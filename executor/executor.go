// Package executor carries a plan out. It decides nothing about what is to be
// done: it knows the order, the limits and the outcomes, and tells how it goes.
//
// A step begins when all it waits for succeeded. When one fails, what depends
// on it is skipped because of it, and everything else goes on: every step that
// can be done is done, the first failure leads, none is lost, as
// LinuxContainer.stop does it. How many run at once is a matter of what they
// take of the host's processors and memory; there is no lock around starting.
//
// One goroutine, that of Execute, owns all that is known of the plan; each
// running step has one of its own and reports to it. So what a step waits for
// has an outcome before anything begins because of it, and the events of a plan
// are one stream, in the order of their times.
//
// It is a part of vzcompose, with types of internal packages in its signatures: other
// modules use package vzcompose.
package executor

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/go-multierror"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/planner"
)

// Runner carries out one step: the engine. It is called from several goroutines
// at once. It should return soon after ctx ends, its own undoing done. report
// may be called by any goroutine; what comes after Run returned is dropped.
type Runner interface {
	Run(ctx context.Context, s planner.Step, report func(event.Progress)) error
}

// Cost is what a step takes of the host while it runs: processors, and bytes of
// memory. A step of no cost is not held up for those.
type Cost func(planner.Step) (cpus float64, memory uint64)

// Options of one execution.
type Options struct {
	// Drain, when it ends, begins nothing more: the first interrupt. Pulls,
	// starts and waits that are under way end too, for they take back what they
	// did and may last; what else runs comes to its end. nil: never. The context
	// given to Execute is that of the steps themselves: the second.
	Drain context.Context
	// CleanUp is how long steps may take to return after the context given to
	// Execute ended. One that takes longer fails, and is left behind. 0: for ever.
	CleanUp time.Duration
	// FailFast begins nothing more after the first failure.
	FailFast bool
	// Parallel is how many steps may run at once; 0: no limit but the host's.
	// A step that only waits is not counted.
	Parallel int
	// CPUs and Memory (bytes) of the host that steps may take together; 0: not
	// counted. A step that wants more than all of it runs when no other that
	// costs does. They are admitted in the order in which they became ready, so
	// that a large one is not starved by small ones.
	CPUs   float64
	Memory uint64
	// Cost is what steps take; nil: BootCost.
	Cost Cost
}

// bootMemory is what a machine takes of the host's memory until its process runs:
// RAM is taken as it is written, and a machine of 4 GiB that booted has 380 MiB then
// (docs/performance.md). What its process takes later no number here tells.
const bootMemory = 384 << 20

// BootCost is the Cost of a start: one processor at most, for a kernel boots on
// one however many it has, and the memory that its machine takes while it starts,
// not the container's limit. Nothing else costs.
func BootCost(s planner.Step) (cpus float64, memory uint64) {
	if op, ok := s.Op.(planner.Start); ok {
		return min(op.CPUs, 1), min(op.Memory, bootMemory)
	}
	return 0, 0
}

// Outcome is what became of a step.
type Outcome struct {
	Step     planner.Step
	Status   event.Status // Done, Failed, Skipped or Interrupted
	Err      error        // why it failed
	Because  int          // the step whose failure it was skipped for; 0: an interrupt
	Duration time.Duration
}

// Report is what became of a plan: an outcome a step, in the plan's order.
type Report struct{ Outcomes []Outcome }

// Execute runs p and tells sink, from its own goroutine and without a lock held.
// Every step has events Waiting (Phase says for what), Running and a last one; a
// skipped one is not Running.
//
// The error is nil, or a *multierror.Error of the failures: the first in time
// leads, for the others may follow from it, and those come in the plan's order.
// Where an interrupt left steps undone its cause is among them, classed
// errs.Canceled: in front if nothing failed before it, else last. A failure of
// an optional step is in the report only.
func Execute(ctx context.Context, p *planner.Plan, r Runner, sink event.Sink, o Options) (Report, error) {
	if err := check(p); err != nil {
		return Report{}, err
	}
	if sink == nil {
		sink = func(event.Event) {}
	}
	if o.Cost == nil {
		o.Cost = BootCost
	}
	x := newExecution(ctx, p, r, sink, o)
	defer x.release()
	x.walk()
	return Report{Outcomes: x.outcomes}, x.err()
}

// check refuses a plan that could not be walked: a bug of its maker.
func check(p *planner.Plan) error {
	for i, s := range p.Steps {
		if s.ID != i+1 || s.Op == nil {
			return errs.New(errs.Internal, "plan: step %d has id %d and operation %v", i+1, s.ID, s.Op)
		}
		for _, ids := range [][]int{s.After, s.AfterEnd} {
			for _, id := range ids {
				if id < 1 || id >= s.ID {
					return errs.New(errs.Internal, "plan: step %d waits for step %d", s.ID, id)
				}
			}
		}
	}
	return nil
}

// err collects what went wrong.
func (x *execution) err() error {
	interrupt := x.interruptErr()
	var all []error
	if interrupt != nil && x.first < 0 {
		all = append(all, interrupt)
	} else if x.first >= 0 {
		all = append(all, x.outcomes[x.first].Err)
	}
	for i, o := range x.outcomes {
		if o.Status == event.Failed && !o.Step.Optional && i != x.first {
			all = append(all, o.Err)
		}
	}
	if interrupt != nil && x.first >= 0 {
		all = append(all, interrupt)
	}
	if len(all) == 0 {
		return nil
	}
	return &multierror.Error{Errors: all, ErrorFormat: format}
}

// interruptErr says what an interrupt left undone; nil where it changed nothing.
func (x *execution) interruptErr() error {
	if x.interrupt == nil {
		return nil
	}
	undone, failed := 0, false
	for _, o := range x.outcomes {
		if o.Status == event.Interrupted || o.Status == event.Skipped && o.Because == 0 {
			undone++
		}
		failed = failed || o.Status == event.Failed
	}
	switch {
	case undone > 0:
		return errs.New(errs.Canceled, "%w: %d of %d steps were not done", x.interrupt, undone, len(x.outcomes))
	case failed && x.ctx.Err() != nil:
		return errs.As(errs.Canceled, x.interrupt)
	}
	return nil
}

// format puts each error on a line.
func format(all []error) string {
	text := ""
	for i, err := range all {
		if i > 0 {
			text += "\n"
		}
		text += err.Error()
	}
	return text
}

// words name a step: "start container/web-1".
func words(s planner.Step) string {
	return fmt.Sprintf("%s %s", s.Op.Verb(), s.Op.Subject())
}
