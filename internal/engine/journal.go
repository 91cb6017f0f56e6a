package engine

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/internal/journal"
	"github.com/vzcompose/vzcompose/planner"
)

// entry answers what the journal says of a step that was done. What a shim does
// it enters itself.
func entry(op planner.Op) (e journal.Entry, ok bool) {
	of := func(t planner.Target, action string) (journal.Entry, bool) {
		return journal.Entry{Type: journal.Container, Action: action, Container: t.Container, Name: t.Instance}, true
	}
	switch op := op.(type) {
	case planner.Create:
		return of(op.Target, "create")
	case planner.Update:
		return of(op.Target, "update")
	case planner.Remove:
		return of(op.Target, "destroy")
	case planner.CreateNetwork:
		return journal.Entry{Type: journal.Network, Action: "create", Name: op.Name}, true
	case planner.UpdateNetwork:
		return journal.Entry{Type: journal.Network, Action: "update", Name: op.Name}, true
	case planner.RemoveNetwork:
		return journal.Entry{Type: journal.Network, Action: "destroy", Name: op.Name}, true
	case planner.CreateVolume:
		return journal.Entry{Type: journal.Volume, Action: "create", Name: op.Name}, true
	case planner.RemoveVolume:
		return journal.Entry{Type: journal.Volume, Action: "destroy", Name: op.Name}, true
	}
	return e, false
}

// enter adds a step to the stack's journal. Where that cannot be written, nothing
// but the journal lacks it, and report says so.
func (s *Stack) enter(op planner.Op, report func(event.Progress)) {
	e, ok := entry(op)
	if !ok {
		return
	}
	err := journal.Append(s.o.Home.Journal(s.Name), e)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a stack without a folder has none
		report(event.Progress{Phase: fmt.Sprintf("%s is not in the journal: %v", e.Action, err)})
	}
}
