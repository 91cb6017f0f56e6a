package ui

import (
	"fmt"
	"strings"
	"time"

	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/state"
)

// Instance is an instance as JSON and templates show it: its state is the word that
// the table and --status have. The name in lifecycle is that of records and of the
// wire.
type Instance struct {
	state.Instance
	State string `json:"state"`
}

// InstanceOf returns i as it is shown.
func InstanceOf(i state.Instance) Instance { return Instance{i, StateWord(i.State)} }

// StateWord is what people call a state.
func StateWord(s lifecycle.State) string {
	switch s {
	case lifecycle.Initialized:
		return "created"
	case lifecycle.Booting, lifecycle.Created:
		return "starting"
	case lifecycle.Started:
		return "running"
	case lifecycle.Stopped:
		return "exited"
	}
	return s.String()
}

// State says in a few words how an instance is: "running (healthy)",
// "exited (137, out of memory)", "errored: shim was lost".
func State(i state.Instance) string {
	switch {
	case i.Unfinished:
		return "errored: " + visible(i.Broken)
	case i.Broken != "" && i.State == lifecycle.Errored:
		return "errored: its record cannot be used: " + visible(i.Broken)
	case i.Broken != "":
		return stateWords(i) + ", its record cannot be used: " + visible(i.Broken)
	}
	return stateWords(i)
}

func stateWords(i state.Instance) string {
	switch i.State {
	case lifecycle.Started:
		if i.Stall != "" {
			return "stalled (" + visible(i.Stall) + ")"
		}
		if i.Health != "" {
			return "running (" + visible(i.Health) + ")"
		}
	case lifecycle.Stopped:
		return exited(i.Exit)
	case lifecycle.Errored:
		if i.Cause == "" {
			return "errored"
		}
		return "errored: " + visible(i.Cause)
	case lifecycle.Restarting:
		return fmt.Sprintf("restarting (%d), %s", i.Restarts, exited(i.Exit))
	}
	return StateWord(i.State)
}

func exited(e *state.Exit) string {
	switch {
	case e == nil:
		return "stopped"
	case e.OOM:
		return fmt.Sprintf("exited (%d, out of memory)", e.Code)
	case e.Full:
		return fmt.Sprintf("exited (%d, writable layer is full)", e.Code)
	case e.Signal != "":
		return fmt.Sprintf("exited (%d, %s)", e.Code, visible(e.Signal))
	}
	return fmt.Sprintf("exited (%d)", e.Code)
}

// Since says how long an instance has been so: "Up 3 minutes", "2 hours ago".
func Since(i state.Instance, now time.Time) string {
	switch {
	case i.State == lifecycle.Started || i.State == lifecycle.Paused:
		if i.Started.IsZero() {
			return ""
		}
		return "Up " + Span(now.Sub(i.Started))
	case i.State.Live():
		return ""
	}
	at := i.Finished
	if at.IsZero() && i.Exit != nil {
		at = i.Exit.At
	}
	if at.IsZero() {
		at = i.Created
	}
	if at.IsZero() {
		return ""
	}
	return Span(now.Sub(at)) + " ago"
}

// Span says a duration in one unit, rounded down: "3 minutes".
func Span(d time.Duration) string {
	const day = 24 * time.Hour
	for _, u := range []struct {
		of   time.Duration
		name string
	}{{365 * day, "year"}, {30 * day, "month"}, {7 * day, "week"}, {day, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		if d >= u.of {
			return count(int(d/u.of), u.name)
		}
	}
	return "less than a second"
}

// count says n things.
func count(n int, name string) string {
	if n == 1 {
		return "1 " + name
	}
	return fmt.Sprintf("%d %ss", n, name)
}

// Bytes says a size: "12.3 MiB".
func Bytes(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	units := "KMGTPE"
	f := float64(n) / 1024
	for f >= 1023.95 && len(units) > 1 {
		f /= 1024
		units = units[1:]
	}
	return fmt.Sprintf("%.1f %ciB", f, units[0])
}

// seconds says a duration of a step: "0.8s".
func seconds(d time.Duration) string { return fmt.Sprintf("%.1fs", max(0, d).Seconds()) }

// subjectName is what the user calls a step's subject: "web-1", "image busybox".
func subjectName(subject string) string {
	kind, name, ok := strings.Cut(subject, "/")
	switch {
	case !ok, kind != "container" && kind != "image" && kind != "volume" && kind != "network":
		return visible(subject)
	case kind == "container":
		return visible(name)
	}
	return kind + " " + visible(name)
}

// wordsOf answers what an operation is called while it runs and when it is done.
func wordsOf(operation string) (doing, done string) {
	if condition, ok := strings.CutPrefix(operation, "await "); ok {
		return "waiting until " + visible(condition), visible(condition)
	}
	switch operation {
	case "pull":
		return "pulling", "pulled"
	case "create":
		return "creating", "created"
	case "remove":
		return "removing", "removed"
	case "update":
		return "updating", "updated"
	case "start":
		return "starting", "started"
	case "stop":
		return "stopping", "stopped"
	}
	operation = visible(operation)
	return operation, operation + " done"
}

// because answers a cause for brackets: "because db-1 failed".
func because(cause string) string {
	if subject, ok := strings.CutPrefix(cause, "because "); ok {
		if name, failed := strings.CutSuffix(subject, " failed"); failed {
			return "because " + subjectName(name) + " failed"
		}
	}
	return visible(cause)
}
