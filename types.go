package vzcompose

import (
	"errors"
	"strings"
	"time"

	"github.com/vzcompose/vzcompose/internal/diag"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
)

// Instance is one replica of a container.
type Instance struct {
	Name      string // "web-1"
	Container string // "web"
	Index     int    // from 1; 0: it was made by vzcompose run
	State     State
	Health    string // "", "starting", "healthy" or "unhealthy"
	Cause     string // why it has ended or failed, for people
	ExitCode  *int   // of its last process; nil: none has ended
	Ports     []Port // of the host that lead to it, while it runs
	Started   time.Time
	Finished  time.Time
}

// Port is a port of the host that leads to one of a container.
type Port struct {
	Container int
	Protocol  string // "tcp" or "udp"
	HostIP    string
	Host      int
}

// State is where an instance is in its life.
type State string

// The states.
const (
	Created    State = "created"  // it has not run
	Starting   State = "starting" // its machine is being started
	Running    State = "running"
	Paused     State = "paused"
	Stopping   State = "stopping"
	Restarting State = "restarting" // it has ended, and is started again after a while
	Exited     State = "exited"     // its process has ended
	Errored    State = "errored"    // its machine was lost, or could not be started
)

func stateOf(s lifecycle.State) State {
	return map[lifecycle.State]State{
		lifecycle.Initialized: Created, lifecycle.Booting: Starting, lifecycle.Created: Starting, lifecycle.Started: Running,
		lifecycle.Paused: Paused, lifecycle.Stopping: Stopping, lifecycle.Restarting: Restarting, lifecycle.Stopped: Exited,
		lifecycle.Errored: Errored,
	}[s]
}

// Class says what went wrong with something. Its text is for programs as well.
type Class string

// The classes of errors. Unknown is the class of an error that has none.
const (
	Unknown            Class = ""
	InvalidArgument    Class = "invalid argument"    // what was asked for is malformed
	NotFound           Class = "not found"           // what was named does not exist
	AlreadyExists      Class = "already exists"      // what was to be created exists
	FailedPrecondition Class = "failed precondition" // it is not possible in the present state
	PermissionDenied   Class = "permission denied"   // the system or a registry refused
	ResourceExhausted  Class = "resource exhausted"  // a limit was reached
	Unavailable        Class = "unavailable"         // the other side is not there
	DeadlineExceeded   Class = "deadline exceeded"   // a phase took longer than its limit
	Canceled           Class = "canceled"            // the caller asked to stop
	Unsupported        Class = "unsupported"         // this host or release cannot do it
	DataLoss           Class = "data loss"           // stored or received bytes are damaged
	Internal           Class = "internal"            // a bug of vzcompose
)

// ClassOf returns the class of an error.
func ClassOf(err error) Class { return Class(errs.ClassOf(err)) }

// HintOf returns what can be done about an error; "": that is not known.
func HintOf(err error) string { return errs.HintOf(err) }

// Findings are what is wrong with the files of a stack.
type Findings []Finding

// Finding is one thing that is wrong.
type Finding struct {
	File         string
	Line, Column int    // from 1; 0: the whole file is meant
	Path         string // of the key: "containers.web.ports[0]"
	Message      string
	Hint         string // what to do
	Warning      bool   // it is no error

	text string
}

// String returns the finding in a line, with its place.
func (f Finding) String() string { return f.text }

// Error returns the findings, a line each.
func (f Findings) Error() string {
	var lines []string
	for _, one := range f {
		lines = append(lines, one.String())
	}
	return strings.Join(lines, "\n")
}

// asFindings returns err, as a Findings where it is about a file.
func asFindings(err error) error {
	var all diag.Findings
	if errors.As(err, &all) {
		return findingsOf(all)
	}
	return err
}

func findingsOf(all diag.Findings) Findings {
	var out Findings
	for _, f := range all {
		out = append(out, Finding{File: f.Position.File, Line: f.Position.Line, Column: f.Position.Column, Path: f.Path, Message: f.Message,
			Hint: f.Hint, Warning: f.Severity == diag.Warning, text: f.String()})
	}
	return out
}
