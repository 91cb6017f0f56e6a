package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/executor"
	"github.com/vzcompose/vzcompose/internal/engine"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/logs"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/ui"
	"github.com/vzcompose/vzcompose/planner"
	"github.com/vzcompose/vzcompose/spec"
)

// abort is what ends an attached up, and the stack with it.
type abort int

const (
	never     abort = iota
	onExit          // the end of an instance
	onFailure       // an end with another status than 0, or the loss of a machine
)

// afterUp is what up does once the stack is up.
type afterUp struct {
	wait            bool          // until all run or are healthy
	limit           time.Duration // of that; 0: none
	abort           abort
	statusOf        string   // the container whose status is up's; "": none
	attach, without []string // containers whose logs are followed, all where there are none; and those whose are not
	awaited         map[string]bool
}

func readAfterUp(c *cli.Context, s *spec.Stack) (afterUp, error) {
	u := afterUp{wait: c.Bool("wait"), limit: time.Duration(c.Float64("wait-timeout") * float64(time.Second)),
		statusOf: c.String("exit-code-from"), attach: c.StringSlice("attach"), without: c.StringSlice("no-attach"), awaited: map[string]bool{}}
	switch {
	case c.Bool("abort-on-container-exit") && c.Bool("abort-on-container-failure"):
		return u, usage("--abort-on-container-exit and --abort-on-container-failure exclude each other")
	case c.Bool("abort-on-container-failure"):
		u.abort = onFailure
	case c.Bool("abort-on-container-exit"), u.statusOf != "":
		u.abort = onExit
	}
	for _, name := range slices.Concat(u.attach, u.without, []string{u.statusOf}) {
		if _, ok := s.Containers[name]; !ok && name != "" {
			return u, errs.WithHint(usage("no container %q", name), "the stack has %s", strings.Join(slices.Sorted(maps.Keys(s.Containers)), ", "))
		}
	}
	follows := u.abort != never || len(u.attach)+len(u.without) > 0
	switch {
	case c.IsSet("wait-timeout") && (!u.wait || u.limit <= 0):
		return u, usage("--wait-timeout is a number of seconds for --wait")
	case u.wait && c.Bool("no-start"):
		return u, usage("--wait and --no-start exclude each other")
	case follows && (u.wait || c.Bool("detach") || c.Bool("no-start")):
		return u, usage("what is to be followed (--abort-on-…, --exit-code-from, --attach, --no-attach) excludes --detach, --wait and --no-start")
	}
	for _, ct := range s.Containers {
		for name, d := range ct.DependsOn {
			if d.Condition == spec.ConditionCompleted {
				u.awaited[name] = true
			}
		}
	}
	return u, nil
}

// shows reports whether the log of a container is followed.
func (u afterUp) shows(container string) bool {
	return (len(u.attach) == 0 || slices.Contains(u.attach, container)) && !slices.Contains(u.without, container)
}

// aborts reports whether an end is one that ends the stack. That of one whose
// work others wait for is not, once it is done.
func (u afterUp) aborts(i state.Instance, st shimproto.Status) bool {
	failed := st.Exit == nil || st.Exit.Code != 0
	return failed && u.abort != never || u.abort == onExit && !u.awaited[i.Container]
}

// awaitUp waits until the instances that names mean, or where there are none all
// that are declared, are up, and shows what it waits for.
func (a *app) awaitUp(c *cli.Context, stop *interrupt, w *work, limit time.Duration, names []string) error {
	world, err := w.Observe(stop.kill, nil)
	if err != nil {
		return err
	}
	plan := planner.AwaitUp(w.desired, world, names)
	w.WaitLimit = limit
	if _, err := a.execute(c, w, stop, plan); err != nil {
		return err
	}
	if world, err = w.Observe(stop.kill, nil); err != nil { // what was up may have ended while others were waited for
		return err
	}
	var failed []error
	for _, s := range plan.Steps {
		op := s.Op.(planner.Await)
		for _, i := range world.Instances {
			if i.Name != op.Instance {
				continue
			}
			if err := engine.NotUp(engine.StatusOf(i), op.Ends); err != nil {
				failed = append(failed, fmt.Errorf("%s: %w", i.Name, err))
			}
		}
	}
	return errors.Join(failed...)
}

// lastLook is how long the last lines of a stack that has ended may take to be
// shown.
const lastLook = 5 * time.Second

// attach shows the logs until every container that is meant has ended, one has
// ended that aborts, or the user asks to stop: then they are stopped.
func (a *app) attach(c *cli.Context, w *work, stop *interrupt, u afterUp, counts func(state.Instance) bool, began time.Time) error {
	f := following{a: a, w: w, counts: counts, aborts: u.aborts, announce: began,
		shows: func(i state.Instance) bool { return counts(i) && u.shows(i.Container) },
		o:     logOptions{follow: true, tail: logs.All, since: began, timestamps: c.Bool("timestamps"), noPrefix: c.Bool("no-log-prefix")}}
	if err := f.begin(c.Context); err != nil {
		return err
	}
	defer func() { _ = f.end(0) }() // what went wrong with it has been returned
	code := 0
	select {
	case <-f.done:
		if f.err != nil {
			return f.err
		}
	case <-stop.drain.Done():
		f.hush()
		return afterInterrupt(errors.Join(a.stopMeant(c, w, stop, counts), f.end(lastLook)))
	case e := <-f.abort:
		code = exitFailed
		if e.st.Exit != nil {
			code = e.st.Exit.Code
		}
		f.hush()
		a.view.Notef("the stack is stopped")
		if err := errors.Join(a.stopMeant(c, w, stop, counts), f.end(lastLook)); err != nil {
			return err
		}
	}
	if stop.asked() {
		return status(exitInterrupted)
	}
	if u.statusOf != "" {
		var err error
		if code, err = w.exitOf(c.Context, u.statusOf); err != nil {
			return err
		}
	}
	if code != 0 {
		return status(code)
	}
	return nil
}

// exitOf answers the status of the first instance of a container.
func (w *work) exitOf(ctx context.Context, container string) (int, error) {
	world, err := w.Observe(ctx, nil)
	if err != nil {
		return 0, err
	}
	i, err := one(world, container, 0)
	switch {
	case err != nil:
		return 0, err
	case i.Exit == nil || i.State != lifecycle.Stopped:
		return 0, errs.New(errs.FailedPrecondition, "%s has no status: %s", i.Name, ui.State(i))
	}
	return i.Exit.Code, nil
}

// giveUp stops the containers that are meant by an up that has failed with err.
func (a *app) giveUp(c *cli.Context, w *work, stop *interrupt, u afterUp, counts func(state.Instance) bool, err error) error {
	a.view.Notef("the stack is stopped")
	if serr := a.stopMeant(c, w, stop, counts); serr != nil {
		return errors.Join(err, serr)
	}
	if u.statusOf == "" {
		return err
	}
	if code, serr := w.exitOf(c.Context, u.statusOf); serr == nil && code != 0 {
		return status(code)
	}
	return err
}

// stopMeant stops the instances that are meant, and shows it. Where the user has
// asked to stop already, asking again kills; else asking does.
func (a *app) stopMeant(c *cli.Context, w *work, stop *interrupt, meant func(state.Instance) bool) error {
	killed := stop.drain
	if stop.asked() {
		killed = stop.kill
		a.view.Notef("stopping; once more to kill")
	}
	lock, err := w.house.home.LockStack(killed, w.Name, func() {
		a.view.Notef("waiting for another vzcompose that works on stack %s", w.Name)
	})
	if err != nil {
		return a.left(w, meant, err)
	}
	defer lock.Release()
	world, err := w.Observe(c.Context, nil)
	if err != nil {
		return a.left(w, meant, err)
	}
	world.Instances = slices.DeleteFunc(world.Instances, func(i state.Instance) bool { return !meant(i) })
	plan, err := planner.StopAll(world, nil)
	if err != nil || plan.Empty() {
		return err
	}
	stopKill := context.AfterFunc(killed, func() {
		a.view.Notef("killing")
		now := time.Duration(0)
		for _, i := range world.Instances {
			go func() { _ = w.Stop(c.Context, i.Name, &now) }() // the plan's own stop tells how it went
		}
	})
	defer stopKill()
	progress := a.view.Progress(plan)
	_, err = executor.Execute(c.Context, plan, w.Stack, a.heard(progress.Sink()), executor.Options{})
	progress.Close()
	if err != nil {
		return a.left(w, meant, fmt.Errorf("stop the stack: %w", err))
	}
	return nil
}

// left says which of the instances that are meant still run, and how to end
// them: nothing is left running without a word. It returns err.
func (a *app) left(w *work, meant func(state.Instance) bool, err error) error {
	world, oerr := w.Observe(context.Background(), nil) // each look at a shim has its limit
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
	return leftRunning{err, fmt.Sprintf("still running: %s; vzcompose -n %s down ends them", strings.Join(names, ", "), w.Name)}
}

// leftRunning is an error after which something still runs. Main says what in
// the last line.
type leftRunning struct {
	error
	what string
}

func (e leftRunning) Unwrap() error { return e.error }
