package stack

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vzcompose/vzcompose/internal/engine"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/logs"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/state"
)

// following copies the output of a stack as the stack changes: instances that are
// restarted, recreated or added from elsewhere are followed too. It ends when none of
// those that count runs any more and no command is at work on the stack.
type following struct {
	s      *Stack
	events Sink
	lines  Lines
	o      LogOptions
	// shows and counts choose the instances whose lines are copied, and those whose
	// end is the end of the following.
	shows, counts func(state.Instance) bool
	// aborts reports whether the end of an instance ends the following; nil: none
	// does.
	aborts func(state.Instance, shimproto.Status) bool
	// announce reports each end of a process after that time as an event; zero: none
	// is reported.
	announce time.Time

	merged *logs.Merged
	watch  *logs.Watch
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when all is over; err is set then
	err    error
	abort  chan Exited // has the end that aborts

	mu     sync.Mutex // guards the following
	known  map[string]*followedInstance
	silent bool     // ends are not announced any more
	doubts []Exited // ends that abort, if no command is about to start the instance again
}

// followedInstance is what is known of one instance.
type followedInstance struct {
	created  time.Time // of the instance whose log is open; zero: none is
	finished time.Time // the last end of a process that was announced
	over     time.Time // the last that was the end of the instance
	live     bool
	counts   bool
}

// begin starts the following; it lasts until ctx ends at most.
func (f *following) begin(ctx context.Context) error {
	var err error
	if f.watch, err = logs.NewWatch(); err != nil {
		return err
	}
	f.merged, f.known = logs.MergeOpen(), map[string]*followedInstance{}
	f.done, f.abort = make(chan struct{}), make(chan Exited, 1)
	world, err := f.s.Recorded() // before the first report of Track, and without asking shims
	if err != nil {
		return errors.Join(err, f.watch.Close())
	}
	var names []string
	for _, i := range world.Instances {
		if f.shows(i) {
			names = append(names, i.Name)
		}
		f.changed(engine.Change{Instance: i, Status: engine.StatusOf(i)})
	}
	ctx, f.cancel = context.WithCancelCause(ctx)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.s.Track(gctx, f.changed) })
	g.Go(func() error { return f.settle(gctx) })
	g.Go(func() error {
		defer f.cancel(nil)
		return copyLines(gctx, f.merged, f.lines(names), f.events)
	})
	go func() {
		defer close(f.done)
		err := g.Wait()
		if cerr := errors.Join(f.merged.Close(), f.watch.Close()); err == nil {
			err = cerr
		}
		if context.Cause(ctx) == nil || !errors.Is(err, context.Cause(ctx)) {
			f.err = err
		}
	}()
	return nil
}

// end ends the following, if it has not ended by itself within limit.
func (f *following) end(limit time.Duration) error {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-f.done:
	case <-t.C:
		f.cancel(nil)
		<-f.done
	}
	return f.err
}

// silence ends the reports of ends: something else shows them.
func (f *following) silence() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.silent = true
}

// changed takes news of an instance.
func (f *following) changed(c engine.Change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := c.Instance
	x := f.known[i.Name]
	if c.Gone {
		if x != nil {
			x.live = false
		}
		return
	}
	if x == nil {
		x = &followedInstance{finished: f.announce, over: f.announce}
		f.known[i.Name] = x
	}
	x.counts = f.counts(i)
	if f.shows(i) && !x.created.Equal(i.Created) {
		first := x.created.IsZero()
		x.created = i.Created
		f.merged.Do(func() { f.open(i, first) })
	}
	x.live = c.Status.State.Live()
	if end := c.Status.Finished; x.counts && hasEnded(c.Status) {
		if end.After(x.finished) {
			x.finished = end
			f.ended(Exited{i, c.Status})
		}
		if !x.live && end.After(x.over) {
			x.over = end
			f.concluded(Exited{i, c.Status})
		}
	}
}

// hasEnded reports whether a status is of an instance whose process has ended, or
// comes again after it has.
func hasEnded(st shimproto.Status) bool {
	return st.Exit != nil || st.State == lifecycle.Errored || st.State == lifecycle.Restarting
}

// concluded takes the end of an instance, whose restart policy does not have it
// come again. The lock is held.
func (f *following) concluded(e Exited) {
	if f.aborts != nil && f.aborts(e.Instance, e.Status) {
		f.doubts = append(f.doubts, e)
	}
}

// ended takes the end of an instance's process. The lock is held.
func (f *following) ended(e Exited) {
	if !f.announce.IsZero() && !f.silent {
		f.merged.Do(func() { f.events(e) }) // after its last lines
	}
}

// open opens the log of an instance: of one that was there first as the options
// say, of one that took its place from the beginning.
func (f *following) open(i state.Instance, first bool) {
	o := f.o
	if !first {
		o.Tail = logs.All
	}
	r, err := f.s.openLog(i.Name, o, f.watch)
	switch {
	case errs.Is(err, errs.NotFound): // removed meanwhile
	case err != nil:
		f.events(LogProblem{Instance: i.Name, Lost: true, Err: err})
	default:
		f.merged.Add(logs.Source{Name: i.Name, Reader: r})
	}
}

// settleLook is between two looks at whether the stack has ended.
const settleLook = 50 * time.Millisecond

// settle watches for the end: of all instances that count, or of one that
// aborts. Between the stop and the start of a restart it waits.
func (f *following) settle(ctx context.Context) error {
	tick := time.NewTicker(settleLook)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		over, err := f.over()
		if err != nil {
			return fmt.Errorf("follow stack %s: %w", f.s.Name, err)
		}
		if over {
			f.merged.Do(f.merged.Finish)
			return nil
		}
	}
}

// over looks whether an end that aborts is one, and whether all has ended.
func (f *following) over() (bool, error) {
	f.mu.Lock()
	doubts, living := f.doubts, false
	for _, x := range f.known {
		living = living || x.live && x.counts
	}
	f.mu.Unlock()
	switch {
	case !f.o.Until.IsZero() && time.Now().After(f.o.Until):
		return true, nil
	case len(doubts) > 0:
		return false, f.judge(doubts[0])
	case living:
		return false, nil
	}
	return f.s.Settled(f.counts)
}

// judge decides whether an end aborts, once no command is at work on the stack:
// one that was about to start the instance again has done so then.
func (f *following) judge(e Exited) error {
	if busy, err := f.s.Busy(); err != nil || busy {
		return err
	}
	ended, err := f.s.Settled(func(i state.Instance) bool { return i.Name == e.Instance.Name })
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.doubts = f.doubts[1:]
	f.mu.Unlock()
	if ended {
		select {
		case f.abort <- e:
		default: // the first counts
		}
	}
	return nil
}
