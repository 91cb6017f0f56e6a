package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
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
func (u afterUp) aborts(container string, st shimproto.Status) bool {
	failed := st.Exit == nil || st.Exit.Code != 0
	return failed && u.abort != never || u.abort == onExit && !u.awaited[container]
}

// awaitUp waits until the instances that names mean, or where there are none all
// that are declared, run or are healthy.
func (a *app) awaitUp(stop *interrupt, w *work, u afterUp, names []string) error {
	world, err := w.Observe(stop.kill, nil)
	if err != nil {
		return err
	}
	ctx := stop.drain
	if u.limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, u.limit, errs.New(errs.DeadlineExceeded, "it is neither running nor healthy within %s", u.limit))
		defer cancel()
	}
	failed := make(map[string]error, len(world.Instances))
	var mu sync.Mutex // guards failed
	var all sync.WaitGroup
	for _, i := range world.Instances {
		_, declared := w.desired.Containers[i.Container]
		if i.Index == 0 || !declared || len(names) > 0 && !slices.Contains(names, i.Container) && !slices.Contains(names, i.Name) {
			continue
		}
		all.Go(func() {
			st, err := w.AwaitUp(ctx, i.Name)
			if err == nil {
				err = u.notUp(i.Container, st)
			}
			mu.Lock()
			defer mu.Unlock()
			failed[i.Name] = err
		})
	}
	all.Wait()
	if stop.asked() {
		return status(exitInterrupted)
	}
	if world, err = w.Observe(stop.kill, nil); err != nil { // what ran may have ended while others were waited for
		return err
	}
	var told []error
	for _, i := range world.Instances {
		err, meant := failed[i.Name]
		if meant && err == nil {
			err = u.notUp(i.Container, shimproto.Status{State: i.State, Health: i.Health, Cause: i.Cause, Exit: i.Exit})
		}
		if err != nil {
			told = append(told, fmt.Errorf("%s: %w", i.Name, err))
		}
	}
	return errors.Join(told...)
}

// notUp is engine.NotUp, but for what has done the work that others wait for.
func (u afterUp) notUp(container string, st shimproto.Status) error {
	if st.State == lifecycle.Stopped && st.Exit != nil && st.Exit.Code == 0 && u.awaited[container] {
		return nil
	}
	return engine.NotUp(st)
}

// attach follows the logs until every instance has ended, one has ended that
// aborts, or the user asks to stop: then what this command started is stopped.
func (a *app) attach(c *cli.Context, w *work, stop *interrupt, u afterUp, mine []string, began time.Time) error {
	world, err := w.Observe(stop.kill, nil)
	if err != nil {
		return err
	}
	var shown, watched []state.Instance
	for _, i := range world.Instances {
		if i.Index == 0 {
			continue // somebody's run
		}
		if u.shows(i.Container) {
			shown = append(shown, i)
		}
		if i.State.Live() || slices.Contains(mine, i.Name) {
			watched = append(watched, i)
		}
	}
	var code int
	var stopErr error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		code, stopErr = a.untilTheEnd(c, w, stop, u, watched)
	}()
	o := logOptions{follow: true, tail: logs.All, since: began, timestamps: c.Bool("timestamps"), noPrefix: c.Bool("no-log-prefix")}
	if err = a.showLogs(stop.drain, w, shown, o); err != nil && !stop.asked() {
		return err
	}
	<-ended
	switch {
	case stopErr != nil:
		return stopErr
	case !stop.asked() && code != 0:
		return status(code)
	case !stop.asked():
		return nil
	}
	a.view.Notef("stopping; once more to kill")
	if err := a.stopInstances(c, w, stop, mine); err != nil {
		return err
	}
	return status(exitInterrupted)
}

// untilTheEnd waits until the instances have ended, or one has in a way that
// aborts: then all are stopped. It answers the status of it all.
func (a *app) untilTheEnd(c *cli.Context, w *work, stop *interrupt, u afterUp, all []state.Instance) (int, error) {
	ctx, cancel := context.WithCancel(stop.drain)
	defer cancel()
	type end struct {
		of  state.Instance
		st  shimproto.Status
		err error
	}
	ends := make(chan end, len(all))
	for _, i := range all {
		go func() {
			st, err := w.AwaitEnd(ctx, i.Name)
			ends <- end{i, st, err}
		}()
	}
	code := 0
	for range all {
		e := <-ends
		if e.err != nil || stop.asked() || !u.aborts(e.of.Container, e.st) {
			continue // removed meanwhile, or it does not matter
		}
		code = exitFailed
		if e.st.Exit != nil {
			code = e.st.Exit.Code
		}
		a.view.Notef("%s has ended: the stack is stopped", e.of.Name)
		var others []string
		for _, i := range all {
			others = append(others, i.Name)
		}
		if err := a.stopInstances(c, w, stop, others); err != nil {
			return code, err
		}
		break
	}
	if u.statusOf == "" || stop.asked() {
		return code, nil
	}
	return w.exitOf(c.Context, u.statusOf)
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

// giveUp stops what an up has started that has failed with err.
func (a *app) giveUp(c *cli.Context, w *work, stop *interrupt, u afterUp, mine []string, err error) error {
	if len(mine) == 0 {
		return err
	}
	a.view.Notef("the stack is stopped")
	if serr := a.stopInstances(c, w, stop, mine); serr != nil {
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

// stopInstances stops what an attached up had started.
func (a *app) stopInstances(c *cli.Context, w *work, stop *interrupt, names []string) error {
	again := newInterrupt(c.Context)
	defer again.release()
	stop.release()
	lock, err := w.house.home.LockStack(again.drain, w.Name, nil)
	if err != nil {
		return err
	}
	defer lock.Release()
	world, err := w.observe(c.Context)
	if err != nil {
		return err
	}
	world.Instances = slices.DeleteFunc(world.Instances, func(i state.Instance) bool { return !slices.Contains(names, i.Name) })
	plan, err := planner.StopAll(world, nil)
	if err != nil || plan.Empty() {
		return err
	}
	// From here the first interrupt kills.
	kill := context.AfterFunc(again.drain, func() {
		now := time.Duration(0)
		for _, name := range names {
			go func() { _ = w.Stop(c.Context, name, &now) }() // the plan's own stop tells how it went
		}
	})
	defer kill()
	progress := a.view.Progress(plan)
	_, err = executor.Execute(again.kill, plan, w.Stack, progress.Sink(), executor.Options{CleanUp: cleanUp})
	progress.Close()
	if err != nil {
		return fmt.Errorf("stop the stack: %w", err)
	}
	return nil
}
