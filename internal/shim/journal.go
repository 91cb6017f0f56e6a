package shim

import (
	"strconv"
	"time"

	"github.com/vzcompose/vzcompose/internal/journal"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
)

// actions are the journal's words for what happens to an instance, where that
// has one: as docker's where it is the same thing.
func actions() map[lifecycle.Event]string {
	return map[lifecycle.Event]string{
		lifecycle.Boot: "boot", lifecycle.Start: "start", lifecycle.Pause: "pause", lifecycle.Resume: "unpause",
		lifecycle.Exit: "stop", lifecycle.Fail: "fail", lifecycle.Retry: "restart",
	}
}

// keepJournal enters an event that was taken. The loop's.
func (s *shim) keepJournal(e lifecycle.Event, was lifecycle.State) {
	switch {
	case e == lifecycle.Exit && s.st.Exit != nil, e == lifecycle.Retry && s.st.Exit != nil:
		if was != lifecycle.Restarting { // that end is in it
			s.enter("die", s.exitWords())
		}
	case e == lifecycle.Retry: // it was lost
		s.enter("fail", map[string]string{"cause": s.st.Cause})
	}
	switch {
	case e == lifecycle.Exit && was == lifecycle.Started: // it ended by itself
	case e == lifecycle.Fail:
		s.enter("fail", map[string]string{"cause": s.st.Cause})
	case actions()[e] != "":
		s.enter(actions()[e], nil)
	}
}

// exitWords are the attributes of how the process ended.
func (s *shim) exitWords() map[string]string {
	x := s.st.Exit
	words := map[string]string{"exit_code": strconv.Itoa(x.Code)}
	if x.Signal != "" {
		words["signal"] = x.Signal
	}
	switch {
	case x.OOM:
		words["cause"] = "out of memory"
	case x.Full:
		words["cause"] = "its writable layer is full"
	case s.st.Cause != "":
		words["cause"] = s.st.Cause
	}
	return words
}

// enter adds to the stack's journal, or later where that cannot be written now.
// The loop's.
func (s *shim) enter(action string, attributes map[string]string) {
	s.unsaved.entries = append(s.unsaved.entries, journal.Entry{Time: time.Now(), Type: journal.Container, Action: action,
		Container: s.inst.Container, Name: s.inst.Name, Attributes: attributes})
	s.saveJournal()
}
