package stack

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/logs"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/spec"
)

// Abort is what ends an attached up, and the stack with it.
type Abort int

// The values of Abort.
const (
	Never     Abort = iota
	OnExit          // the end of an instance
	OnFailure       // an end with another status than 0, or the loss of a machine
)

// AttachOptions are how an up follows the stack that it has brought up.
type AttachOptions struct {
	Abort    Abort
	StatusOf string // the container whose exit status is returned; "": none
	// Show are the containers whose output is shown, all where there are none; Hide
	// are those whose is not.
	Show, Hide []string
	Lines      Lines
}

// shows reports whether the output of a container is shown.
func (o AttachOptions) shows(container string) bool {
	return (len(o.Show) == 0 || slices.Contains(o.Show, container)) && !slices.Contains(o.Hide, container)
}

// aborts reports whether an end is one that ends the stack. That of an instance for
// whose completion others wait is not, once it has exited with 0.
func (o AttachOptions) aborts(s *spec.Stack, i state.Instance, st shimproto.Status) bool {
	failed := st.Exit == nil || st.Exit.Code != 0
	if o.Abort != OnExit || failed {
		return failed && o.Abort != Never
	}
	for _, ct := range s.Containers {
		if d, ok := ct.DependsOn[i.Container]; ok && d.Condition == spec.ConditionCompleted {
			return false
		}
	}
	return true
}

// lastLook is how long the last lines of a stack that has ended may take to be
// shown.
const lastLook = 5 * time.Second

// attach shows the output until every instance that counts has ended, one has ended
// that aborts, or the user asks to stop: then they are stopped.
func (s *Stack) attach(ctx context.Context, c Control, o AttachOptions, counts func(state.Instance) bool, began time.Time) (int, error) {
	f := following{s: s, events: c.Events, lines: o.Lines, counts: counts, announce: began,
		aborts: func(i state.Instance, st shimproto.Status) bool { return o.aborts(s.Declared, i, st) },
		shows:  func(i state.Instance) bool { return counts(i) && o.shows(i.Container) },
		o:      LogOptions{Tail: logs.All, Since: began}}
	if err := f.begin(context.WithoutCancel(ctx)); err != nil {
		return 0, err
	}
	defer func() { _ = f.end(0) }() // what went wrong with it has been returned
	code := 0
	select {
	case <-f.done:
		if f.err != nil {
			return 0, f.err
		}
	case <-c.Drain.Done():
		f.silence()
		return 0, errors.Join(s.stopMeant(ctx, c, counts), f.end(lastLook), ErrInterrupted)
	case e := <-f.abort:
		code = 1
		if e.Status.Exit != nil {
			code = e.Status.Exit.Code
		}
		f.silence()
		c.Events(Aborting{})
		if err := errors.Join(s.stopMeant(ctx, c, counts), f.end(lastLook)); err != nil {
			return 0, err
		}
	}
	if c.asked() {
		return 0, ErrInterrupted
	}
	if o.StatusOf != "" {
		return s.exitOf(ctx, o.StatusOf)
	}
	return code, nil
}

// exitOf returns the exit status of the first instance of a container.
func (s *Stack) exitOf(ctx context.Context, container string) (int, error) {
	i, err := s.Find(ctx, container, 0)
	switch {
	case err != nil:
		return 0, err
	case i.Exit == nil || i.State != lifecycle.Stopped:
		return 0, errs.New(errs.FailedPrecondition, "%s has no status: %s", i.Name, stateWords(i))
	}
	return i.Exit.Code, nil
}

// stateWords returns the state of an instance, and why it is in it.
func stateWords(i state.Instance) string {
	if i.Cause == "" {
		return i.State.String()
	}
	return i.State.String() + ": " + i.Cause
}
