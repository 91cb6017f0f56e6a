package cli

import (
	"context"
	"errors"
	"maps"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/executor"
	"github.com/vzcompose/vzcompose/internal/engine"
	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/internal/filelock"
	"github.com/vzcompose/vzcompose/internal/logs"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/ui"
	"github.com/vzcompose/vzcompose/planner"
	"github.com/vzcompose/vzcompose/spec"
)

func upFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "do not follow the logs"},
		&cli.BoolFlag{Name: "dry-run", Usage: "show the plan, do nothing"},
		&cli.BoolFlag{Name: "no-start", Usage: "make and update, start nothing"},
		&cli.BoolFlag{Name: "no-deps", Usage: "leave what the named containers depend on alone"},
		&cli.BoolFlag{Name: "force-recreate", Usage: "make the containers anew"},
		&cli.BoolFlag{Name: "no-recreate", Usage: "keep what exists as it was made"},
		&cli.BoolFlag{Name: "remove-orphans", Usage: "remove instances that the file does not declare"},
		&cli.BoolFlag{Name: "fail-fast", Usage: "begin nothing more after a failure"},
		&cli.StringSliceFlag{Name: "scale", Usage: "`NAME=N` replicas of a container"},
		&cli.BoolFlag{Name: "cold", Usage: "boot machines, restore none"},
		&cli.StringFlag{Name: "pull", Usage: "missing, always or never, for every container"},
		graceFlag(),
		&cli.BoolFlag{Name: "wait", Usage: "wait until what is started runs, or is healthy where it has a check; does not follow the logs"},
		&cli.Float64Flag{Name: "wait-timeout", Usage: "at most `SECONDS` of that"},
		&cli.BoolFlag{Name: "abort-on-container-exit", Usage: "stop the stack when an instance has ended"},
		&cli.BoolFlag{Name: "abort-on-container-failure", Usage: "stop the stack when an instance has failed"},
		&cli.StringFlag{Name: "exit-code-from", Usage: "answer the status of container `NAME`; stop the stack when an instance has ended"},
		&cli.StringSliceFlag{Name: "attach", Usage: "follow the logs of container `NAME` only; repeatable"},
		&cli.StringSliceFlag{Name: "no-attach", Usage: "do not follow the logs of container `NAME`; repeatable"},
		&cli.BoolFlag{Name: "timestamps", Usage: "show the time of each line"},
		&cli.BoolFlag{Name: "no-log-prefix", Usage: "show lines without the instance's name"},
	}
}

func (a *app) upCommand() *cli.Command {
	return &cli.Command{
		Name: "up", Usage: "bring the stack up, as declared", ArgsUsage: "[NAME…]",
		Flags:  upFlags(),
		Action: a.up,
	}
}

func planOptions(c *cli.Context) (planner.Options, error) {
	o := planner.Options{
		Only: c.Args().Slice(), NoDeps: c.Bool("no-deps"), NoStart: c.Bool("no-start"),
		ForceRecreate: c.Bool("force-recreate"), NoRecreate: c.Bool("no-recreate"), RemoveOrphans: c.Bool("remove-orphans"),
	}
	if o.ForceRecreate && o.NoRecreate {
		return o, usage("--force-recreate and --no-recreate exclude each other")
	}
	var err error
	o.Scale, err = replicas(c.StringSlice("scale"))
	return o, err
}

// overridePull gives every container the pull policy of the flag.
func overridePull(s *spec.Stack, policy string) error {
	switch policy {
	case "":
		return nil
	case "missing", "always", "never":
	default:
		return usage("--pull %s: it is missing, always or never", policy)
	}
	for name, ct := range s.Containers {
		ct.Pull = policy
		s.Containers[name] = ct
	}
	return nil
}

func (a *app) up(c *cli.Context) error {
	a.cold = c.Bool("cold")
	w, err := a.withFile(c, c.Args().Slice()...)
	if err != nil {
		return err
	}
	opts, err := planOptions(c)
	if err != nil {
		return err
	}
	if err := overridePull(w.desired, c.String("pull")); err != nil {
		return err
	}
	then, err := readAfterUp(c, w.desired)
	if err != nil {
		return err
	}
	w.setGrace(c)
	began := time.Now()
	stop := newInterrupt(c.Context)
	defer stop.release()
	w.Kill = stop.kill
	meant := reach(w.desired, c.Args().Slice(), opts.NoDeps)
	counts := func(i state.Instance) bool { return i.Index > 0 && meant[i.Container] }
	attached := !then.wait && !c.Bool("detach") && !c.Bool("no-start")
	report, plan, err := a.converge(c, w, stop, c.Bool("dry-run"), func(world state.World) (*planner.Plan, error) {
		return planner.Up(w.desired, world, opts)
	})
	switch {
	case c.Bool("dry-run"):
		return err
	case stop.asked() && attached && plan != nil:
		return afterInterrupt(a.stopMeant(c, w, stop, counts))
	case stop.asked():
		return a.left(w, counts, status(exitInterrupted))
	case err != nil && then.abort != never && len(started(plan, report)) > 0:
		return a.giveUp(c, w, stop, then, counts, err)
	case err != nil && plan != nil:
		return a.left(w, counts, err)
	case err != nil:
		return err
	}
	if err := a.refill(c.Context, w); err != nil {
		a.view.Notef("the pool is not filled: %v", err)
	}
	switch {
	case then.wait:
		names := c.Args().Slice()
		if len(names) > 0 {
			names = append(names, started(plan, report)...) // what they depend on
		}
		if err := a.awaitUp(c, stop, w, then.limit, names); err != nil {
			return a.left(w, counts, err)
		}
		return nil
	case attached:
		return a.attach(c, w, stop, then, counts, began)
	}
	return nil
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

// converge locks the stack, observes it, plans and carries the plan out. What
// failed has been shown; the error sets the status.
func (a *app) converge(c *cli.Context, w *work, stop *interrupt, dry bool,
	compute func(state.World) (*planner.Plan, error)) (executor.Report, *planner.Plan, error) {
	lock, err := a.lockStack(w, stop)
	if err != nil {
		return executor.Report{}, nil, err
	}
	defer lock.Release()
	return a.convergeLocked(c, w, stop, dry, compute)
}

// lockStack takes the lock under which the stack is changed.
func (a *app) lockStack(w *work, stop *interrupt) (*filelock.Lock, error) {
	return w.house.home.LockStack(stop.drain, w.Name, func() {
		a.view.Notef("waiting for another vzcompose that works on stack %s", w.Name)
	})
}

// convergeLocked is converge for a caller that holds the stack's lock.
func (a *app) convergeLocked(c *cli.Context, w *work, stop *interrupt, dry bool,
	compute func(state.World) (*planner.Plan, error)) (executor.Report, *planner.Plan, error) {
	world, err := w.observe(stop.kill)
	if err != nil {
		return executor.Report{}, nil, err
	}
	a.warnOfDamage(world)
	plan, err := compute(world)
	if err != nil {
		return executor.Report{}, nil, err
	}
	if !dry {
		if err := a.claim(w); err != nil {
			return executor.Report{}, plan, err
		}
	}
	for _, warning := range plan.Warnings {
		a.view.Warnf("%s", warning)
	}
	if dry || plan.Empty() {
		a.view.Plan(plan, world)
		return executor.Report{}, plan, nil
	}
	if err := w.Check(stop.kill, plan, world); err != nil {
		return executor.Report{}, plan, err
	}
	if c.Command.Name == "up" {
		a.view.Preview(plan, world)
	}
	report, err := a.execute(c, w, stop, plan)
	return report, plan, err
}

// cleanUp is how long steps may take to come back after the second interrupt.
const cleanUp = 45 * time.Second

// execute carries a plan out and shows how it goes.
func (a *app) execute(c *cli.Context, w *work, stop *interrupt, plan *planner.Plan) (executor.Report, error) {
	progress := a.view.Progress(plan)
	report, err := executor.Execute(stop.kill, plan, w.Stack, a.heard(progress.Sink()), executor.Options{
		Parallel: c.Int("parallel"), FailFast: c.Bool("fail-fast"), Drain: stop.drain,
		CPUs: float64(runtime.NumCPU()), Memory: engine.HostMemory(), CleanUp: cleanUp,
	})
	progress.Close()
	if err == nil {
		return report, nil
	}
	a.view.Summary(a.summary(w, report, err))
	if stop.asked() {
		return report, status(exitInterrupted)
	}
	return report, status(exitFailed)
}

// heard is sink, behind the sink of Deps.
func (a *app) heard(sink event.Sink) event.Sink {
	if a.deps.Events == nil {
		return sink
	}
	return func(e event.Event) {
		a.deps.Events(e)
		sink(e)
	}
}

// lastLines is how much of a failed instance's output is shown.
const lastLines = 10

// summary collects what each failed instance said last.
func (a *app) summary(w *work, report executor.Report, err error) ui.Summary {
	s := ui.Summary{Err: err}
	for _, o := range report.Outcomes {
		s.Outcomes = append(s.Outcomes, ui.Outcome{Step: o.Step, Status: o.Status, Err: o.Err, Because: o.Because})
		if o.Status != event.Failed {
			continue
		}
		t, ok := target(o.Step.Op)
		if !ok {
			continue
		}
		f := ui.Said{Step: o.Step.ID, Output: w.lastOutput(t.Instance)}
		if len(f.Output) == 0 {
			f.Console = tailOf(w.house.home.Console(w.Name, t.Instance), lastLines)
		}
		s.Said = append(s.Said, f)
	}
	return s
}

func target(op planner.Op) (planner.Target, bool) {
	switch op := op.(type) {
	case planner.Start:
		return op.Target, true
	case planner.Await:
		return op.Target, true
	}
	return planner.Target{}, false
}

// lastOutput answers the last lines of an instance's last boot.
func (w *work) lastOutput(name string) []logs.Record {
	st, err := w.house.home.ReadState(w.Name, name)
	if err != nil {
		return nil // then there is nothing to show beside the failure itself
	}
	r, err := logs.OpenReader(w.house.home.Log(w.Name, name), logs.ReadOptions{Tail: lastLines, Boot: st.Boots})
	if err != nil {
		return nil
	}
	defer r.Close()
	var all []logs.Record
	for {
		rec, err := r.Next(context.Background())
		if err != nil {
			return all
		}
		all = append(all, rec)
	}
}

// tailOf answers the last lines of a console that say something, as far as it
// can be read.
func tailOf(path string, n int) []string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	const window = 8 << 10
	b := make([]byte, window)
	st, err := f.Stat()
	if err != nil {
		return nil
	}
	got, _ := f.ReadAt(b, max(0, st.Size()-window))
	lines := slices.DeleteFunc(strings.Split(string(b[:got]), "\n"), isRoutine)
	return lines[max(0, len(lines)-n):]
}

// isRoutine reports whether a console has the line of every machine.
func isRoutine(line string) bool {
	line = strings.TrimSpace(line)
	return line == "" || line == "vzcompose-agent: up" || strings.HasSuffix(line, "reboot: Power down")
}

// started answers the instances that a plan has started.
func started(plan *planner.Plan, report executor.Report) []string {
	var names []string
	for _, o := range report.Outcomes {
		if op, ok := o.Step.Op.(planner.Start); ok && o.Status == event.Done {
			names = append(names, op.Instance)
		}
	}
	return names
}

// interrupt is what Ctrl-C means: drain ends at the first, kill at the second.
type interrupt struct {
	drain, kill context.Context
	release     func()
}

var errInterrupted = errors.New("interrupted")

func newInterrupt(ctx context.Context) *interrupt {
	drain, endDrain := context.WithCancelCause(ctx)
	kill, endKill := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		for _, end := range []context.CancelCauseFunc{endDrain, endKill} {
			select {
			case <-signals:
				end(errInterrupted)
			case <-done:
				return
			}
		}
	}()
	return &interrupt{drain: drain, kill: kill, release: sync.OnceFunc(func() {
		signal.Stop(signals)
		close(done)
	})}
}

func (i *interrupt) asked() bool { return context.Cause(i.drain) == errInterrupted }
