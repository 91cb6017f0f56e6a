// Package lifecycle is the life of one instance as a table of states and
// events. It decides nothing and does no I/O: the shim feeds it events and acts
// on the state that it answers. The states are those of Apple's LinuxContainer
// (initialized, created, started, paused, stopped, errored) and three for the
// time a transition is under way (booting, stopping, restarting).
package lifecycle

import (
	"encoding"
	"fmt"
)

// State is a point in an instance's life. The zero value is not a state.
type State int

// The states.
const (
	Initialized State = iota + 1 // a record and a writable layer, never run
	Booting                      // the machine is on its way
	Created                      // the machine runs and is set up; the process does not run
	Started                      // the process runs
	Paused                       // the machine's CPUs are held
	Stopping                     // the process was told to end
	Restarting                   // it ended, and is to be started again after a while
	Stopped                      // the process ended and the machine is gone
	Errored                      // the machine, the agent or the shim was lost, or a start failed
	numStates
)

// Event is what happened, or what is asked for.
type Event int

// The events.
const (
	Boot   Event = iota + 1 // a machine is asked for
	Ready                   // the machine is set up
	Start                   // the process was started
	Pause                   // hold
	Resume                  // go on
	Stop                    // end it
	Exit                    // the process ended and the machine was put away
	Fail                    // it was lost
	Retry                   // it ended or was lost, and the restart policy has it come again
	numEvents
)

// transitions is the whole machine. What is absent is illegal.
var transitions = map[State]map[Event]State{
	Initialized: {Boot: Booting},
	Booting:     {Ready: Created, Stop: Stopping, Fail: Errored, Retry: Restarting},
	Created:     {Start: Started, Stop: Stopping, Fail: Errored, Retry: Restarting},
	Started:     {Pause: Paused, Stop: Stopping, Exit: Stopped, Fail: Errored, Retry: Restarting},
	Paused:      {Resume: Started, Stop: Stopping, Exit: Stopped, Fail: Errored, Retry: Restarting},
	Restarting:  {Boot: Booting, Stop: Stopping, Fail: Errored},
	Stopping:    {Stop: Stopping, Exit: Stopped, Fail: Errored},
	Stopped:     {Boot: Booting},
	Errored:     {Boot: Booting},
}

// TransitionError says that an event is not legal in a state.
type TransitionError struct {
	From State
	On   Event
}

func (e *TransitionError) Error() string {
	return fmt.Sprintf("cannot %s what is %s", e.On, e.From)
}

// Next answers the state after e. Where e is illegal it answers s and a
// *TransitionError.
func (s State) Next(e Event) (State, error) {
	to, ok := transitions[s][e]
	if !ok {
		return s, &TransitionError{From: s, On: e}
	}
	return to, nil
}

// Live reports whether a machine belongs to the state: somebody must be there
// to look after it.
func (s State) Live() bool { return s >= Booting && s <= Restarting }

var stateNames = [numStates]string{
	Initialized: "initialized", Booting: "booting", Created: "created", Started: "started",
	Paused: "paused", Stopping: "stopping", Restarting: "restarting", Stopped: "stopped", Errored: "errored",
}

var eventNames = [numEvents]string{
	Boot: "boot", Ready: "set up", Start: "start", Pause: "pause", Resume: "resume",
	Stop: "stop", Exit: "see the end of", Fail: "lose", Retry: "retry",
}

func (s State) String() string { return nameOf(stateNames[:], int(s)) }
func (e Event) String() string { return nameOf(eventNames[:], int(e)) }

func nameOf(names []string, i int) string {
	if i <= 0 || i >= len(names) {
		return fmt.Sprintf("unknown(%d)", i)
	}
	return names[i]
}

var (
	_ encoding.TextMarshaler   = State(0)
	_ encoding.TextUnmarshaler = (*State)(nil)
)

// MarshalText writes the state's name.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a state's name and refuses any other text.
func (s *State) UnmarshalText(b []byte) error {
	for i := Initialized; i < numStates; i++ {
		if stateNames[i] == string(b) {
			*s = i
			return nil
		}
	}
	return fmt.Errorf("unknown state %q", b)
}
