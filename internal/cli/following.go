package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vzcompose/vzcompose/internal/engine"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/logs"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/ui"
)

// following is what logs -f and an attached up show of a stack as it changes:
// instances that are restarted, recreated or added from elsewhere are followed
// too. It ends when none of those that count runs any more and no command is at
// work on the stack.
type following struct {
	a *app
	w *work
	o logOptions
	// shows and counts choose the instances whose lines are shown, and those whose
	// life it is.
	shows, counts func(state.Instance) bool
	// aborts reports whether the end of an instance ends the following; nil: none
	// does.
	aborts func(state.Instance, shimproto.Status) bool
	// announce has each end of a process said that comes after that time; zero:
	// none is.
	announce time.Time

	merged *logs.Merged
	watch  *logs.Watch
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when all is over; err is set then
	err    error
	abort  chan ending // has the end that aborts

	mu     sync.Mutex // guards the following
	known  map[string]*followedInstance
	silent bool     // ends are not announced any more
	doubts []ending // ends that abort, if no command is about to start the instance again
}

// ending is how an instance ended.
type ending struct {
	of state.Instance
	st shimproto.Status
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
	f.done, f.abort = make(chan struct{}), make(chan ending, 1)
	world, err := f.w.Observe(ctx, nil)
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
	g.Go(func() error { return f.w.Track(gctx, f.changed) })
	g.Go(func() error { return f.settle(gctx) })
	g.Go(func() error {
		defer f.cancel(nil)
		return f.a.printLogs(gctx, f.merged, names, f.o)
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

// hush has no more ends announced: something else shows them.
func (f *following) hush() {
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
			f.ended(ending{i, c.Status})
		}
		if !x.live && end.After(x.over) {
			x.over = end
			f.concluded(ending{i, c.Status})
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
func (f *following) concluded(e ending) {
	if f.aborts != nil && f.aborts(e.of, e.st) {
		f.doubts = append(f.doubts, e)
	}
}

// ended takes the end of an instance's process. The lock is held.
func (f *following) ended(e ending) {
	if !f.announce.IsZero() && !f.silent {
		text := endWords(e)
		f.merged.Do(func() { f.a.view.Notef("%s", text) }) // after its last lines
	}
}

// endWords says how an instance ended: "web-1 exited with 9".
func endWords(e ending) string {
	text := e.of.Name + ": errored"
	if e.st.Exit != nil {
		text = e.of.Name + " " + engine.ExitWords(e.st.Exit)
	} else if e.st.Cause != "" {
		text += ": " + e.st.Cause
	}
	if e.st.State == lifecycle.Restarting {
		text += "; it is restarted"
	}
	return text
}

// open opens the log of an instance: of one that was there first as the options
// say, of one that took its place from the beginning.
func (f *following) open(i state.Instance, first bool) {
	o := f.o
	if !first {
		o.tail = logs.All
	}
	r, err := f.w.openLog(i.Name, o, f.watch)
	switch {
	case errs.Is(err, errs.NotFound): // removed meanwhile
	case err != nil:
		f.a.view.Warnf("the log of %s cannot be followed: %v", i.Name, err)
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
			return fmt.Errorf("follow stack %s: %w", f.w.Name, err)
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
	case !f.o.until.IsZero() && time.Now().After(f.o.until):
		return true, nil
	case len(doubts) > 0:
		return false, f.judge(doubts[0])
	case living:
		return false, nil
	}
	return f.w.Settled(f.counts)
}

// judge decides whether an end aborts, once no command is at work on the stack:
// one that was about to start the instance again has done so then.
func (f *following) judge(e ending) error {
	if busy, err := f.w.Busy(); err != nil || busy {
		return err
	}
	ended, err := f.w.Settled(func(i state.Instance) bool { return i.Name == e.of.Name })
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

// printLogs shows what merged has until it ends, or ctx does.
func (a *app) printLogs(ctx context.Context, merged *logs.Merged, names []string, o logOptions) error {
	out := a.view.Logs(ui.LogOptions{Names: names, Timestamps: o.timestamps, NoPrefix: o.noPrefix, JSON: o.json})
	defer out.Close()
	for {
		e, err := merged.Next(ctx)
		var corrupt *logs.CorruptError
		var dropped *logs.DroppedError
		switch {
		case errors.Is(err, io.EOF), ctx.Err() != nil:
			return nil
		case errors.As(err, &corrupt), errors.As(err, &dropped):
			a.view.Warnf("log of %s: %v", e.Name, err)
		case err != nil:
			return err
		default:
			if err := out.Write(e); err != nil {
				return err
			}
		}
	}
}
