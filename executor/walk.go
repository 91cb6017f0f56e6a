package executor

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/planner"
)

// Phases of an event.Waiting: for what.
const (
	forDependencies = "for dependencies"
	forCapacity     = "for capacity"
)

// execution is one Execute. Its goroutine owns everything here but ctx, runner,
// news, over and the plan, which do not change.
type execution struct {
	ctx    context.Context // of the steps
	soft   context.Context // of those that end at the first interrupt
	free   func()          // releases soft
	plan   *planner.Plan
	runner Runner
	sink   event.Sink
	o      Options

	outcomes  []Outcome // Status is that of its last event, final in the end
	steps     []waiting
	edges     []edge // grouped by the step that is waited for
	ready     []int  // steps that wait for capacity, first come first
	gate      gate
	open      int   // steps without a final status
	first     int   // the first that failed, -1 for none; stays so after an interrupt
	interrupt error // why nothing more begins, where the user said so

	news  chan news
	over  chan struct{} // closed when nobody listens any more
	group errgroup.Group
}

// waiting is what a step waits for, and who waits for it.
type waiting struct {
	missing      int // ends that it waits for
	users        int // where its edges begin
	needs        need
	began        time.Time
	toldCapacity bool
}

// edge leads to a step that waits. One that is soft asks for an end only.
type edge struct {
	to   int
	soft bool
}

// news is what a running step tells.
type news struct {
	step     int
	progress event.Progress
	ended    bool
	err      error // of ended
}

func newExecution(ctx context.Context, p *planner.Plan, r Runner, sink event.Sink, o Options) *execution {
	n := len(p.Steps)
	x := &execution{
		ctx: ctx, plan: p, runner: r, sink: sink, o: o,
		outcomes: make([]Outcome, n), steps: make([]waiting, n+1), gate: newGate(o),
		open: n, first: -1, news: make(chan news), over: make(chan struct{}),
	}
	for i, s := range p.Steps {
		x.outcomes[i].Step = s
		x.steps[i].missing = len(s.After) + len(s.AfterEnd)
		x.steps[i].needs = x.gate.needs(s, o.Cost)
	}
	x.connect()
	x.soften()
	return x
}

// soften makes the context of steps that yield: it ends with either interrupt.
func (x *execution) soften() {
	soft, end := context.WithCancelCause(x.ctx)
	x.soft, x.free = soft, func() { end(nil) }
	if drain := x.o.Drain; drain != nil {
		stop := context.AfterFunc(drain, func() { end(context.Cause(drain)) })
		x.free = func() { stop(); end(nil) }
	}
}

func (x *execution) release() { x.free() }

// yields reports whether a step ends at the first interrupt. What it has done it
// takes back; the user need not wait for a pull, a boot or a health check that
// is of no use any more. A stop, or the making of a record, comes to its end.
func yields(op planner.Op) bool {
	switch op.(type) {
	case planner.Pull, planner.Start, planner.Await:
		return true
	}
	return false
}

// connect turns "waits for" round, in one array: the edges of step i are
// edges[steps[i].users:steps[i+1].users], in the plan's order.
func (x *execution) connect() {
	total := 0
	for _, s := range x.plan.Steps {
		total += len(s.After) + len(s.AfterEnd)
		for _, id := range s.After {
			x.steps[id].users++
		}
		for _, id := range s.AfterEnd {
			x.steps[id].users++
		}
	}
	for i := 1; i < len(x.steps); i++ {
		x.steps[i].users += x.steps[i-1].users
	}
	x.edges = make([]edge, total)
	next := make([]int, len(x.plan.Steps))
	for i := range next {
		next[i] = x.steps[i].users
	}
	for i, s := range x.plan.Steps {
		for _, id := range s.After {
			x.edges[next[id-1]] = edge{to: i}
			next[id-1]++
		}
		for _, id := range s.AfterEnd {
			x.edges[next[id-1]] = edge{to: i, soft: true}
			next[id-1]++
		}
	}
}

// walk runs the plan to its end.
func (x *execution) walk() {
	defer close(x.over)
	for i := range x.steps[:len(x.outcomes)] {
		if x.steps[i].missing > 0 {
			x.tell(i, event.Event{Status: event.Waiting, Phase: forDependencies})
			continue
		}
		x.enqueue(i)
		x.tell(i, event.Event{Status: event.Waiting, Phase: forCapacity})
		x.steps[i].toldCapacity = true
	}
	var drained <-chan struct{}
	if x.o.Drain != nil {
		drained = x.o.Drain.Done()
	}
	killed := x.ctx.Done()
	var limit <-chan time.Time
	for x.begin(); x.open > 0; x.begin() {
		select {
		case n := <-x.news:
			x.hear(n)
		case <-drained:
			drained = nil
			x.interrupted(x.o.Drain)
		case <-killed:
			killed = nil
			x.interrupted(x.ctx)
			if x.o.CleanUp > 0 {
				timer := time.NewTimer(x.o.CleanUp)
				defer timer.Stop()
				limit = timer.C
			}
		case <-limit:
			x.abandon()
			return
		}
	}
	_ = x.group.Wait() // outcomes carry the errors
}

// begin starts what is ready and fits, in the order in which it became ready.
// What costs is not overtaken by what costs.
func (x *execution) begin() {
	x.notice()
	held, kept := need{}, x.ready[:0]
	for _, i := range x.ready {
		s := &x.steps[i]
		if x.outcomes[i].Status.Final() {
			continue
		}
		if !s.needs.overlaps(held) && x.gate.take(s.needs) {
			x.start(i)
			continue
		}
		held = held.plus(s.needs)
		kept = append(kept, i)
		if !s.toldCapacity {
			s.toldCapacity = true
			x.tell(i, event.Event{Status: event.Waiting, Phase: forCapacity})
		}
	}
	x.ready = kept
}

func (x *execution) enqueue(i int) { x.ready = append(x.ready, i) }

func (x *execution) start(i int) {
	x.steps[i].began = time.Now()
	x.tell(i, event.Event{Status: event.Running})
	x.group.Go(func() error {
		x.run(i)
		return nil
	})
}

// run calls the runner. It is all that happens on another goroutine. A panic is
// that step's failure, and so is a runner that ends its goroutine.
func (x *execution) run(i int) {
	end := news{step: i, ended: true, err: errs.New(errs.Internal, "the step ended without an answer")}
	defer func() {
		if v := recover(); v != nil {
			end.err = errs.New(errs.Internal, "panic: %v\n%s", v, debug.Stack())
		}
		x.send(end)
	}()
	ctx := x.ctx
	if yields(x.plan.Steps[i].Op) {
		ctx = x.soft
	}
	end.err = x.runner.Run(ctx, x.plan.Steps[i], func(p event.Progress) { x.send(news{step: i, progress: p}) })
}

func (x *execution) send(n news) {
	select {
	case x.news <- n:
	case <-x.over:
	}
}

// hear takes news of a step.
func (x *execution) hear(n news) {
	switch {
	case x.outcomes[n.step].Status.Final(): // somebody kept the report function
	case !n.ended:
		x.tell(n.step, event.Event{
			Status: event.Running, Phase: n.progress.Phase, Current: n.progress.Current, Total: n.progress.Total,
		})
	default:
		x.notice() // what fails after an interrupt may well fail of it
		x.gate.give(x.steps[n.step].needs)
		x.finish(n.step, n.err)
	}
}

// finish ends a step that ran.
func (x *execution) finish(i int, err error) {
	o := &x.outcomes[i]
	o.Duration = time.Since(x.steps[i].began)
	if err == nil {
		x.end(i, event.Event{Status: event.Done, Duration: o.Duration})
		return
	}
	if x.interrupt != nil && taken(err, x.interrupt) {
		x.end(i, event.Event{Status: event.Interrupted, Cause: x.interrupt.Error(), Duration: o.Duration})
		return
	}
	o.Err = fmt.Errorf("%s: %w", words(o.Step), err)
	counts := !o.Step.Optional
	if counts && x.first < 0 && x.interrupt == nil {
		x.first = i
	}
	x.end(i, event.Event{Status: event.Failed, Cause: err.Error(), Err: o.Err, Duration: o.Duration})
	if counts && x.o.FailFast {
		x.halt(o.Step.ID, x.because(i))
	}
}

// end tells the last event of a step and what follows from it for those that
// wait, and for those that wait for them.
func (x *execution) end(i int, last event.Event) {
	x.open--
	x.tell(i, last)
	todo := []int{i}
	for ; len(todo) > 0; todo = todo[1:] {
		from := &x.outcomes[todo[0]]
		root, why := from.Because, ""
		switch {
		case from.Status == event.Failed:
			root = from.Step.ID
			fallthrough
		case root > 0:
			why = x.because(root - 1)
		case x.interrupt != nil:
			why = x.interrupt.Error()
		}
		for _, e := range x.edges[x.steps[todo[0]].users:x.steps[todo[0]+1].users] {
			to := &x.outcomes[e.to]
			switch {
			case to.Status.Final():
			case from.Status == event.Done || e.soft:
				if x.steps[e.to].missing--; x.steps[e.to].missing == 0 {
					x.enqueue(e.to)
				}
			default:
				x.skip(e.to, root, why)
				todo = append(todo, e.to)
			}
		}
	}
}

// taken reports whether err says that a step was taken back for an interrupt,
// and nothing else: what went wrong with the taking back is a failure.
func taken(err, interrupt error) bool {
	if err == interrupt || err == context.Canceled {
		return true
	}
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		return taken(e.Unwrap(), interrupt)
	case interface{ Unwrap() []error }:
		all := e.Unwrap()
		return len(all) > 0 && !slices.ContainsFunc(all, func(err error) bool { return !taken(err, interrupt) })
	}
	return false
}

func (x *execution) because(i int) string {
	return fmt.Sprintf("because %s failed", x.plan.Steps[i].Op.Subject())
}

func (x *execution) skip(i, root int, why string) {
	x.open--
	x.outcomes[i].Because = root
	x.tell(i, event.Event{Status: event.Skipped, Cause: why})
}

// notice looks for an interrupt that is not heard of yet: of two channels that
// are ready, select takes either.
func (x *execution) notice() {
	if x.ctx.Err() != nil {
		x.interrupted(x.ctx)
	} else if x.o.Drain != nil && x.o.Drain.Err() != nil {
		x.interrupted(x.o.Drain)
	}
}

// interrupted begins nothing more, because ctx ended.
func (x *execution) interrupted(ctx context.Context) {
	if x.interrupt == nil {
		x.interrupt = context.Cause(ctx)
		x.halt(0, x.interrupt.Error())
	}
}

// halt skips all that did not begin.
func (x *execution) halt(root int, why string) {
	for i := range x.outcomes {
		if s := x.outcomes[i].Status; s == event.Waiting {
			x.skip(i, root, why)
		}
	}
}

// abandon gives up on what still runs.
func (x *execution) abandon() {
	for i := range x.outcomes {
		if x.outcomes[i].Status == event.Running {
			x.finish(i, errs.New(errs.DeadlineExceeded, "did not end within %s of being cancelled", x.o.CleanUp))
		}
	}
}

// tell sends an event of a step and keeps its status.
func (x *execution) tell(i int, e event.Event) {
	s := &x.plan.Steps[i]
	x.outcomes[i].Status = e.Status
	e.Time, e.Step, e.Operation, e.Subject = time.Now(), s.ID, s.Op.Verb(), s.Op.Subject()
	if e.Cause == "" {
		e.Cause = s.Cause
	}
	x.sink(e)
}
