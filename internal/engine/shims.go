package engine

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/vzcompose/vzcompose/internal/childenv"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/planner"
	"github.com/vzcompose/vzcompose/spec"
)

// start brings an instance to a running process: with a new shim, or joining
// one that is at it. Ending ctx takes back what was begun.
func (s *Stack) start(ctx context.Context, name string, report func(event.Progress)) error {
	alive, err := s.o.Home.Alive(s.Name, name)
	if err != nil {
		return err
	}
	if !alive {
		if err := s.spawn(ctx, name); err != nil {
			return err
		}
	}
	if s.Launched != nil {
		s.Launched(ctx, name)
	}
	lctx, cancel := limited(ctx, s.o.StartLimit, "start the instance")
	defer cancel()
	up := (&coming{report: report}).came
	st, err := s.follow(lctx, name, up)
	if err == nil && alive && !st.State.Live() { // what we joined was on its way out
		if err := s.spawn(ctx, name); err != nil {
			return err
		}
		st, err = s.follow(lctx, name, up)
	}
	switch {
	case ctx.Err() != nil: // all or nothing
		return errors.Join(context.Cause(ctx), s.takeBack(ctx, name))
	case err != nil:
		return err
	case st.State == lifecycle.Started, st.Exit != nil && (st.State == lifecycle.Stopped || st.State == lifecycle.Restarting):
		return nil
	case st.State == lifecycle.Paused:
		return s.resume(ctx, name)
	case st.State == lifecycle.Stopping, st.State == lifecycle.Stopped:
		return errs.New(errs.Canceled, "it was stopped meanwhile")
	}
	err = errs.New(errs.Unavailable, "%s", first(st.Cause, "it is "+st.State.String()))
	if st.Refused != "" {
		return &StartError{Class: st.Refused, Err: err}
	}
	return err
}

// coming is a start that is followed.
type coming struct {
	report func(event.Progress)
	said   int // of its notes
	lost   int // the boot after which its machine was lost; 0: none was
}

// came reports the progress of a start, and reports whether it has come to
// something. An instance whose machine was lost just before, and that its restart
// policy has come again, has not: the next boot decides.
func (c *coming) came(st shimproto.Status) bool {
	for ; c.said < len(st.Notes); c.said++ {
		c.report(event.Progress{Phase: st.Notes[c.said]})
	}
	if st.Phase != "" {
		c.report(event.Progress{Phase: st.Phase})
	}
	if st.State == lifecycle.Restarting && st.Exit == nil {
		if c.lost == 0 {
			c.lost = st.Boots
		}
		return st.Boots > c.lost
	}
	return st.State >= lifecycle.Started
}

// StartError says that a process was not executed. Its class is errs.NotFound or
// errs.PermissionDenied where that is its executable's doing.
type StartError struct {
	Class errs.Class
	Err   error
}

func (e *StartError) Error() string { return e.Err.Error() }
func (e *StartError) Unwrap() error { return e.Err }

// resume lets a paused instance go on.
func (s *Stack) resume(ctx context.Context, name string) error {
	c, err := s.dial(ctx, name, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := limited(ctx, s.o.SpawnLimit, "resume the instance")
	defer cancel()
	_, err = c.Resume(ctx)
	return err
}

// takeBack ends an instance whose start is given up. stop has limits of its own.
func (s *Stack) takeBack(ctx context.Context, name string) error {
	ctx = context.WithoutCancel(ctx)
	if s.Kill != nil {
		done := context.AfterFunc(s.Kill, func() {
			_ = s.stop(ctx, name, new(time.Duration), false) // the stop below reports how it went
		})
		defer done()
	}
	return s.stop(ctx, name, s.Grace, false)
}

// spawn starts a shim and waits until it can be dialled. On error there is none, also
// where a machine that waits became it just when ctx ended.
func (s *Stack) spawn(ctx context.Context, name string) error {
	err := s.spawnShim(ctx, name)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("start its shim: %w", err)
	if ctx.Err() != nil || errs.Is(err, errs.DeadlineExceeded) {
		err = errors.Join(err, s.takeBack(ctx, name))
	}
	return err
}

func (s *Stack) spawnShim(ctx context.Context, name string) error {
	rec, err := s.o.Home.ReadInstance(s.Name, name)
	if err != nil {
		return err
	}
	if err := s.renewRoot(ctx, rec); err != nil {
		return fmt.Errorf("find its root filesystem: %w", err)
	}
	if err := makeShares(rec); err != nil {
		return err
	}
	from, err := s.bootWith(ctx, rec.Kernel)
	if err != nil {
		return err
	}
	l, err := s.order(rec, from)
	if err != nil {
		return err
	}
	l.Attended = name == s.Attended
	if name == s.AutoRemove {
		l.Remove = s.o.Remove
	}
	if taken, err := s.takeSpare(ctx, l); taken || err != nil {
		return err
	}
	return s.launch(ctx, l, s.o.SpawnLimit)
}

// order is what the shim of an instance is told.
func (e *Engine) order(rec store.Instance, from *bootFiles) (shimproto.Launch, error) {
	f, err := filterOf(rec, from)
	if err != nil {
		return shimproto.Launch{}, err
	}
	return shimproto.Launch{Version: shimproto.LaunchVersion, Home: e.o.Home, Instance: rec, Kernel: from.kernel, Initramfs: from.initramfs, Cold: e.o.Cold,
		Templates: e.templates(), TemplatesLimit: e.o.TemplatesLimit, Env: e.variables(rec), Switch: e.o.Switch,
		Filter: f.Program, FilterFlags: f.Flags}, nil
}

func (e *Engine) templates() string { return cmp.Or(e.o.Templates, e.o.Home.Templates()) }

// launch starts a shim, and waits until it says that it is ready.
func (s *Stack) launch(ctx context.Context, l shimproto.Launch, limit time.Duration) error {
	orders, err := l.Encode()
	if err != nil {
		return err
	}
	name := l.Instance.Name
	said, err := os.OpenFile(filepath.Join(s.o.Home.Instance(s.Name, name), "shim.log"), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer said.Close()
	ready, tell, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd := exec.Command(s.o.Shim[0], s.o.Shim[1:]...)
	cmd.Args = append(cmd.Args, s.Name+"/"+name) // for people who read ps
	cmd.Stdin = bytes.NewReader(orders)
	cmd.Stderr = said
	cmd.ExtraFiles = []*os.File{tell}
	cmd.Dir, cmd.Env = "/", childenv.List()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = tell.Close() // the shim has its own
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }() // it is reaped where we outlive it; its record says how it went
	return s.awaitReady(ctx, limit, ready, said, cmd.Process, ended)
}

// awaitReady waits for the shim's line, or its end.
func (s *Stack) awaitReady(ctx context.Context, limit time.Duration, ready, said *os.File, p *os.Process, ended <-chan struct{}) error {
	ctx, cancel := limited(ctx, limit, "await the shim's readiness")
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_, err := bufio.NewReader(ready).ReadString('\n')
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		_ = p.Kill() // it takes its machine with it
		select {
		case <-ended:
			return context.Cause(ctx)
		case <-time.After(limit):
			return errors.Join(context.Cause(ctx), errs.New(errs.DeadlineExceeded, "end the shim: it is there %s after SIGKILL", limit))
		}
	}
	select { // its lock is free then
	case <-ended:
	case <-ctx.Done():
		_ = p.Kill()
		<-ended
	}
	b, _ := io.ReadAll(io.NewSectionReader(said, 0, 16<<10)) // what there is
	return errs.New(errs.Unavailable, "%s", first(string(bytes.TrimSpace(b)), "it ended without a word"))
}

// follow listens to a shim until done says so or the instance has ended, and
// answers the last status. A shim that vanished is looked up in its record; a
// connection that broke while the shim lives is made again, for it tells nothing
// of the instance.
func (s *Stack) follow(ctx context.Context, name string, done func(shimproto.Status) bool) (shimproto.Status, error) {
	for {
		news := newMailbox()
		c, err := s.dial(ctx, name, news.put)
		if errs.Is(err, errs.NotFound) {
			return s.recorded(ctx, name)
		}
		if err != nil {
			return shimproto.Status{}, err
		}
		st, err := s.listen(ctx, c, name, news, done)
		c.Close()
		if err != errBroken {
			return st, err
		}
	}
}

// errBroken says that a connection ended and its shim did not.
var errBroken = errs.New(errs.Unavailable, "the connection to the shim broke")

// breakLimit is how long a shim may hold its lock after its connections ended.
const breakLimit = time.Second

// listen is follow on one connection.
func (s *Stack) listen(ctx context.Context, c *shimproto.Client, name string, news *mailbox, done func(shimproto.Status) bool) (shimproto.Status, error) {
	for {
		select {
		case <-news.wake:
			st := news.get()
			if !st.State.Live() { // its last word; what comes next finds the lock free
				return st, s.awaitGone(ctx, name)
			}
			if done(st) {
				return st, nil
			}
		case <-c.Done():
			// It is ending, or was killed: its record is its last word once its
			// lock is free.
			ended, cancel := limited(ctx, breakLimit, "await the end of the shim")
			err := s.awaitGone(ended, name)
			cancel()
			switch {
			case ctx.Err() != nil:
				return shimproto.Status{}, context.Cause(ctx)
			case errs.Is(err, errs.DeadlineExceeded):
				return shimproto.Status{}, errBroken
			case err != nil:
				return shimproto.Status{}, err
			}
			return s.recorded(ctx, name)
		case <-ctx.Done():
			return shimproto.Status{}, context.Cause(ctx)
		}
	}
}

// recorded answers the status of an instance without a shim.
func (s *Stack) recorded(ctx context.Context, name string) (shimproto.Status, error) {
	i, err := s.observe(ctx, name)
	if err != nil {
		return shimproto.Status{}, err
	}
	st, _ := s.o.Home.ReadState(s.Name, name) // what is wrong with it i has
	now := StatusOf(i)
	now.Refused = st.Refused
	return now, nil
}

// dial connects to the shim of an instance. One that holds its lock but cannot
// be dialled is just coming or going, and is tried again; errs.NotFound: there
// is none.
func (s *Stack) dial(ctx context.Context, name string, onStatus func(shimproto.Status)) (*shimproto.Client, error) {
	ctx, cancel := limited(ctx, s.o.SpawnLimit, "reach the shim")
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := shimproto.Dial(ctx, s.o.Home.Socket(s.Name, name), onStatus)
		if err == nil || errs.Is(err, errs.Unsupported) {
			return c, err
		}
		alive, aerr := s.o.Home.Alive(s.Name, name)
		if aerr != nil {
			return nil, aerr
		}
		if !alive {
			return nil, errs.New(errs.NotFound, "%s is not running", name)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), err)
		}
	}
}

// Dial connects to the shim of an instance; errs.NotFound where there is none.
func (s *Stack) Dial(ctx context.Context, name string) (*shimproto.Client, error) {
	return s.dial(ctx, name, nil)
}

// await waits until a condition is true of an instance.
func (s *Stack) await(ctx context.Context, op planner.Await, report func(event.Progress)) error {
	switch op.Condition {
	case spec.ConditionHealthy:
		return s.awaitHealth(ctx, op.Instance, report)
	case planner.CondUp:
		if s.WaitLimit > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeoutCause(ctx, s.WaitLimit, errs.New(errs.DeadlineExceeded, "it is neither running nor healthy within %s", s.WaitLimit))
			defer cancel()
		}
		st, err := s.awaitUp(ctx, op.Instance, report)
		if err != nil {
			return err
		}
		return NotUp(st, op.Ends)
	case spec.ConditionCompleted:
	default:
		return errs.New(errs.Unsupported, "there is no waiting for %q", op.Condition)
	}
	st, err := s.follow(ctx, op.Instance, func(st shimproto.Status) bool { return !st.State.Live() })
	switch {
	case err != nil:
		return err
	case st.State == lifecycle.Errored:
		return errs.New(errs.Unavailable, "%s", st.Cause)
	case st.Exit == nil:
		return errs.New(errs.FailedPrecondition, "it has not run")
	case st.Exit.Code != 0:
		return errs.New(errs.FailedPrecondition, "%s", ExitWords(st.Exit))
	}
	return nil
}

// awaitHealth waits until an instance is healthy. One that is unhealthy or has
// ended will not be, as far as anybody knows.
func (s *Stack) awaitHealth(ctx context.Context, name string, report func(event.Progress)) error {
	st, err := s.awaitUp(ctx, name, report)
	switch {
	case err != nil:
		return err
	case st.State == lifecycle.Started && st.Health == "" && st.Stall == "":
		return errs.New(errs.FailedPrecondition, "it has no health check")
	case st.Exit != nil && st.State == lifecycle.Stopped:
		return errs.New(errs.FailedPrecondition, "%s before it was healthy", ExitWords(st.Exit))
	}
	return NotUp(st, false)
}

// awaitUp waits until an instance is healthy or runs without a health check, or
// is not as far as anybody knows: it is unhealthy, paused, or has ended. It
// reports what it waits for.
func (s *Stack) awaitUp(ctx context.Context, name string, report func(event.Progress)) (shimproto.Status, error) {
	return s.follow(ctx, name, func(st shimproto.Status) bool {
		if st.State.Live() && st.State != lifecycle.Started {
			report(event.Progress{Phase: "waiting: it is " + st.State.String()})
		} else if st.Health != "" {
			report(event.Progress{Phase: "waiting: its health is " + st.Health})
		}
		return st.State == lifecycle.Paused || st.State == lifecycle.Started && st.Stall != "" ||
			st.State == lifecycle.Started && (st.Health == "" || st.Health == "healthy" || st.Health == "unhealthy")
	})
}

// NotUp returns why an instance is neither healthy nor runs without a health
// check; nil where it is or does. With ends, an exit with 0 is as good.
func NotUp(st shimproto.Status, ends bool) error {
	switch {
	case st.Stall != "" && st.State == lifecycle.Started:
		return errs.New(errs.ResourceExhausted, "its machine stands still: %s", st.Stall)
	case ends && st.State == lifecycle.Stopped && st.Exit != nil && st.Exit.Code == 0:
		return nil
	case st.Health == "unhealthy" && st.State == lifecycle.Started:
		return errs.New(errs.FailedPrecondition, "it is unhealthy: %s", st.Cause)
	case st.State == lifecycle.Started:
		return nil
	case st.Exit != nil && st.State == lifecycle.Stopped:
		return errs.New(errs.FailedPrecondition, "%s", ExitWords(st.Exit))
	}
	return errs.New(errs.Unavailable, "%s", first(st.Cause, "it is "+st.State.String()))
}

// AwaitEnd waits until an instance has no shim, and answers how it ended.
func (s *Stack) AwaitEnd(ctx context.Context, name string) (shimproto.Status, error) {
	return s.follow(ctx, name, func(st shimproto.Status) bool { return !st.State.Live() })
}

// ExitWords says how a process ended: "exited with 3".
func ExitWords(e *state.Exit) string {
	switch {
	case e.OOM:
		return fmt.Sprintf("exited with %d: out of memory", e.Code)
	case e.Full:
		return fmt.Sprintf("exited with %d: its writable layer is full", e.Code)
	case e.Signal != "":
		return fmt.Sprintf("exited with %d: %s", e.Code, e.Signal)
	}
	return fmt.Sprintf("exited with %d", e.Code)
}

// limited is ctx with a limit whose error names the phase.
func limited(ctx context.Context, d time.Duration, phase string) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, errs.New(errs.DeadlineExceeded, "%s: not done within %s", phase, d))
}
