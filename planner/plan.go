// Package planner computes what must change. Up compares a stack as it is
// declared with the World as it was found; Down, StopAll, StartAll and
// RestartAll need the World alone and take order from the specs stored in it.
//
// It is pure: no I/O, no clock, no randomness, no contexts. The same inputs give
// the same plan, to the byte. A plan is not a transaction: it converges. Where
// it was carried out in part only, the next plan starts from what is there then.
//
// What it decides, and the executor must keep to:
//   - nothing that runs is stopped before the images and volumes of what comes
//     in its place are there;
//   - starts go along depends_on, stops against it;
//   - an instance that is as it is declared gets no step at all.
//
// It is a part of vzcompose, with types of internal packages in its signatures: other
// modules use package vzcompose.
package planner

import (
	"fmt"
	"strings"

	"github.com/vzcompose/vzcompose/spec"
)

// Op is one change to one thing. The set is closed: the types of this file.
type Op interface {
	Verb() string    // what the user is told: "create"
	Subject() string // what it is done to: "container/web-1"
	op()
}

// Target names an instance.
type Target struct {
	Container string // "web"
	Instance  string // "web-1"
	Index     int    // from 1; 0: a one-off, which no declaration counts
}

// CondUp is true of an instance that is healthy, or runs where it has no health
// check. No stack file names it: it is what up --wait waits for.
const CondUp spec.Condition = "up"

// The operations.
type (
	// Pull makes an image available locally: pulled where it is missing (or
	// always, as Policy says), and its root filesystem built.
	Pull struct {
		Ref    string
		Policy string // "missing", "always", "never"
	}
	// CreateVolume makes a named volume: a disk, or a directory of the host where
	// several instances mount it and one of them may write to it.
	CreateVolume struct {
		Name   string
		Size   uint64 // bytes; of a disk
		Shared bool   // it is a directory
	}
	// CreateNetwork gives a network of the stack its subnet.
	CreateNetwork struct {
		Name string
		Spec spec.Network
	}
	// UpdateNetwork gives a network another declaration. No instance on it runs.
	UpdateNetwork struct {
		Name string
		Spec spec.Network
	}
	// RemoveNetwork forgets a network and its addresses.
	RemoveNetwork struct{ Name string }
	// RemoveVolume destroys a named volume and what is in it.
	RemoveVolume struct{ Name string }
	// Create makes an instance's record and its writable layer.
	Create struct {
		Target
		Spec spec.Container
	}
	// Update gives an existing instance a new spec and keeps its writable
	// layer. With Live all that differs takes effect as it is: a running
	// instance goes on, its shim is told, and work that is done stays done.
	// Without, the instance is stopped, and how it ended before goes out of its
	// record with the spec that it ended under: it is to be started.
	Update struct {
		Target
		Spec spec.Container
		Live bool
	}
	// Start boots the machine and starts the process. It resumes a paused
	// instance, and joins a start that is under way.
	Start struct {
		Target
		CPUs   float64 // for admission: what the machine takes while it boots
		Memory uint64  // bytes
	}
	// Await holds its dependents until a condition is true of an instance.
	Await struct {
		Target
		Condition spec.Condition
		Ends      bool // that it has exited with 0 is as good: of CondUp
	}
	// Stop ends the process, then the machine. The record stays. It joins a
	// stop that is under way.
	Stop struct {
		Target
		Discard bool // its removal follows: what only the instance has need not be kept
	}
	// Remove deletes the record and the writable layer of a stopped instance.
	Remove struct{ Target }
)

// Subject and Verb of each operation.
func (t Target) Subject() string       { return "container/" + t.Instance }
func (o Pull) Subject() string         { return "image/" + o.Ref }
func (o CreateVolume) Subject() string { return "volume/" + o.Name }
func (o RemoveVolume) Subject() string { return "volume/" + o.Name }

func (o CreateNetwork) Subject() string { return "network/" + o.Name }
func (o UpdateNetwork) Subject() string { return "network/" + o.Name }
func (o RemoveNetwork) Subject() string { return "network/" + o.Name }

func (Pull) Verb() string         { return "pull" }
func (CreateVolume) Verb() string { return "create" }
func (RemoveVolume) Verb() string { return "remove" }

func (CreateNetwork) Verb() string { return "create" }
func (UpdateNetwork) Verb() string { return "update" }
func (RemoveNetwork) Verb() string { return "remove" }
func (Create) Verb() string        { return "create" }
func (Update) Verb() string        { return "update" }
func (Start) Verb() string         { return "start" }
func (o Await) Verb() string       { return "await " + string(o.Condition) }
func (Stop) Verb() string          { return "stop" }
func (Remove) Verb() string        { return "remove" }

func (Pull) op()         {}
func (CreateVolume) op() {}
func (RemoveVolume) op() {}

func (CreateNetwork) op() {}
func (UpdateNetwork) op() {}
func (RemoveNetwork) op() {}
func (Create) op()        {}
func (Update) op()        {}
func (Start) op()         {}
func (Await) op()         {}
func (Stop) op()          {}
func (Remove) op()        {}

// Step is an operation in its place.
type Step struct {
	// ID counts from 1.
	ID int
	Op Op
	// After are the steps that must have succeeded first. All are smaller than
	// ID: the order of a plan is topological.
	After []int
	// AfterEnd are the steps that must have ended first, well or not. All are
	// smaller than ID.
	AfterEnd []int
	// Optional: that it fails is worth a warning, and no failure of the plan.
	Optional bool
	// Cause says why, in the user's words: "memory 512MiB → 1GiB".
	Cause string
}

// Plan is a graph of steps, in topological order.
type Plan struct {
	Stack string
	Steps []Step
	// Warnings are what the user should know and no step says, a line each.
	Warnings []string
}

// Empty reports whether there is nothing to do.
func (p *Plan) Empty() bool { return len(p.Steps) == 0 }

// String is what tests compare and `vzcompose plan` is made from.
func (p *Plan) String() string {
	var b strings.Builder
	for _, s := range p.Steps {
		fmt.Fprintf(&b, "#%d %s %s", s.ID, s.Op.Verb(), s.Op.Subject())
		if len(s.After) > 0 {
			fmt.Fprintf(&b, " after %v", s.After)
		}
		if len(s.AfterEnd) > 0 {
			fmt.Fprintf(&b, " after the end of %v", s.AfterEnd)
		}
		if s.Optional {
			b.WriteString(" if it can")
		}
		fmt.Fprintf(&b, " (%s)\n", s.Cause)
	}
	return b.String()
}

// add appends a step and answers its id.
func (p *Plan) add(s Step) int {
	s.ID = len(p.Steps) + 1
	p.Steps = append(p.Steps, s)
	return s.ID
}
