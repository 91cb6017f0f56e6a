package stack

import (
	"github.com/vzcompose/vzcompose/executor"
	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/internal/logs"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/planner"
)

// Event is something that happens while a stack is worked on. It is one of the types
// of this file.
type Event interface{ isEvent() }

// Sink takes events. It must not block for long. Several goroutines may call it at
// once; Began, Step and Ended of a plan come from one, in this order.
type Sink func(Event)

type (
	// Locked says that another process works on the stack: its end is awaited.
	Locked struct{ Stack string }
	// Damaged is a record that cannot be read.
	Damaged struct{ What string }
	// Warned is a warning of a plan.
	Warned struct{ Text string }
	// Renamed says that the directory of another stack is gone, which this one
	// seems to be.
	Renamed struct{ Stack, From string }
	// Claimed says that the stack belonged to the directory From, and belongs to
	// Dir from now on.
	Claimed struct{ Stack, From, Dir string }
	// Planned is a plan that is not carried out: there is nothing to do, or it was
	// only asked for.
	Planned struct {
		Plan  *planner.Plan
		World state.World
	}
	// Decided is a plan that is about to be carried out, and what it was made from.
	Decided struct {
		Plan  *planner.Plan
		World state.World
	}
	// Began says that a plan is carried out.
	Began struct{ Plan *planner.Plan }
	// Step is progress of a step of it.
	Step struct{ event.Event }
	// Ended says that a plan has come to its end. Err is nil where nothing is to be
	// said about it.
	Ended struct {
		Report executor.Report
		Said   []Said
		Err    error
	}
	// Aborting says that the stack is stopped because an instance has ended or the
	// plan has failed.
	Aborting struct{}
	// Stopping says that the stack is stopped because the user asked for it. Asking
	// once more kills.
	Stopping struct{}
	// Killing says that the user has asked once more.
	Killing struct{}
	// Exited says that the process of an instance has ended.
	Exited struct {
		Instance state.Instance
		Status   shimproto.Status
	}
	// LogProblem is a log that lacks lines, or where Lost is set one that cannot be
	// followed.
	LogProblem struct {
		Instance string
		Lost     bool
		Err      error
	}
	// PoolProblem is why the pool of machines is not filled.
	PoolProblem struct{ Err error }
	// Nothing says that there is nothing to take down.
	Nothing struct{ Stack string }
	// LeftAlone are instances that were not removed because they run.
	LeftAlone struct{ Instances []string }
)

// Said is the end of what an instance wrote whose step failed.
type Said struct {
	Step    int // its number in the plan
	Output  []logs.Record
	Console []string // of its machine, where it wrote nothing itself
}

func (Locked) isEvent()      {}
func (Damaged) isEvent()     {}
func (Warned) isEvent()      {}
func (Renamed) isEvent()     {}
func (Claimed) isEvent()     {}
func (Planned) isEvent()     {}
func (Decided) isEvent()     {}
func (Began) isEvent()       {}
func (Step) isEvent()        {}
func (Ended) isEvent()       {}
func (Aborting) isEvent()    {}
func (Stopping) isEvent()    {}
func (Killing) isEvent()     {}
func (Exited) isEvent()      {}
func (LogProblem) isEvent()  {}
func (PoolProblem) isEvent() {}
func (Nothing) isEvent()     {}
func (LeftAlone) isEvent()   {}
