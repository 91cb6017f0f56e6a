package cli

import (
	"fmt"
	"strings"

	"github.com/vzcompose/vzcompose/internal/engine"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/stack"
	"github.com/vzcompose/vzcompose/internal/ui"
)

// sink returns a sink that shows on view what happens to a stack.
func (a *app) sink(view *ui.UI) stack.Sink {
	var progress *ui.Progress // of the plan that is carried out
	return func(e stack.Event) {
		switch e := e.(type) {
		case stack.Decided:
			if a.preview {
				view.Preview(e.Plan, e.World)
			}
		case stack.Began:
			progress = view.Progress(e.Plan)
		case stack.Step:
			if a.deps.Events != nil {
				a.deps.Events(e.Event)
			}
			progress.Sink()(e.Event)
		case stack.Ended:
			progress.Close()
			if e.Err != nil {
				view.Summary(summary(e))
			}
		case stack.Planned:
			view.Plan(e.Plan, e.World)
		default:
			remark(view, e)
		}
	}
}

// remark shows an event that is a line of text.
func remark(view *ui.UI, e stack.Event) {
	switch e := e.(type) {
	case stack.Locked:
		view.Notef("waiting for another vzcompose that works on stack %s", e.Stack)
	case stack.Damaged:
		view.Warnf("%s", e.What)
	case stack.Warned:
		view.Warnf("%s", e.Text)
	case stack.Renamed:
		view.Notef("stack %s is new; the directory of stack %s is gone: if it is this one, take it along with -n %s, or name: %s in the stack file", e.Stack, e.From, e.From, e.From)
	case stack.Claimed:
		view.Notef("stack %s was that of %s and belongs to %s from now on", e.Stack, e.From, e.Dir)
	case stack.Aborting:
		view.Notef("the stack is stopped")
	case stack.Stopping:
		view.Notef("stopping; once more to kill")
	case stack.Killing:
		view.Notef("killing")
	case stack.Exited:
		view.Notef("%s", endWords(e))
	case stack.LogProblem:
		if e.Lost {
			view.Warnf("the log of %s cannot be followed: %v", e.Instance, e.Err)
		} else {
			view.Warnf("log of %s: %v", e.Instance, e.Err)
		}
	case stack.PoolProblem:
		view.Notef("the pool is not filled: %v", e.Err)
	case stack.Nothing:
		view.Notef("stack %s has nothing to take down", e.Stack)
	case stack.LeftAlone:
		view.Notef("%s left alone: it runs; --stop stops it first", strings.Join(e.Instances, ", "))
	}
}

// endWords says how an instance ended: "web-1 exited with 9".
func endWords(e stack.Exited) string {
	text := e.Instance.Name + ": errored"
	if e.Status.Exit != nil {
		text = e.Instance.Name + " " + engine.ExitWords(e.Status.Exit)
	} else if e.Status.Cause != "" {
		text += ": " + e.Status.Cause
	}
	if e.Status.State == lifecycle.Restarting {
		text += "; it is restarted"
	}
	return text
}

// summary is how a plan ended that did not succeed.
func summary(e stack.Ended) ui.Summary {
	s := ui.Summary{Err: e.Err}
	for _, o := range e.Report.Outcomes {
		s.Outcomes = append(s.Outcomes, ui.Outcome{Step: o.Step, Status: o.Status, Err: o.Err, Because: o.Because})
	}
	for _, said := range e.Said {
		s.Said = append(s.Said, ui.Said(said))
	}
	return s
}

// leftWords says what still runs after an error, and how to end it.
func leftWords(e *stack.LeftRunning) string {
	return fmt.Sprintf("still running: %s; vzcompose -n %s down ends them", strings.Join(e.Instances, ", "), e.Stack)
}
