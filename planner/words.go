package planner

import (
	"fmt"
	"strings"

	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/spec"
)

// Causes that more than one decision gives.
const (
	causeAbsent = "does not exist"
	causeRun    = "asked to run"
	causeNew    = "new"
	causeForced = "asked to recreate"
	causeDown   = "down"
)

const (
	maxListed = 3  // items of a list in a cause
	maxValue  = 48 // runes of a value in a cause
)

// list joins items: at most maxListed of them, then "and N more".
func list(items []string) string {
	if len(items) <= maxListed {
		return strings.Join(items, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(items[:maxListed], ", "), len(items)-maxListed)
}

// differences says changes in words.
func differences(changes []spec.Change) string {
	items := make([]string, len(changes))
	for i, c := range changes {
		items[i] = difference(c)
	}
	return list(items)
}

// difference says one change. Values of the environment are kept out of it:
// plans are printed and pasted, and that is where people put passwords.
func difference(c spec.Change) string {
	if fieldOf(c) == "environment" {
		switch {
		case c.Old == absent:
			return c.Field + " added"
		case c.New == absent:
			return c.Field + " removed"
		}
		return c.Field + " changed"
	}
	return fmt.Sprintf("%s %s → %s", c.Field, short(c.Old), short(c.New))
}

// absent is how spec.Diff writes what is not there.
const absent = "none"

func short(s string) string {
	if r := []rune(s); len(r) > maxValue {
		return string(r[:maxValue-1]) + "…"
	}
	return s
}

// digestWords says that the meaning of an image reference changed.
func digestWords(ref, from, to string) string {
	return fmt.Sprintf("image %s %s → %s", short(ref), shortDigest(from), shortDigest(to))
}

// shortDigest keeps the algorithm and the first 12 digits.
func shortDigest(d string) string {
	algorithm, hex, ok := strings.Cut(d, ":")
	if !ok || len(hex) <= 12 {
		return short(d)
	}
	return algorithm + ":" + hex[:12] + "…"
}

// whyStart says why an instance that does not run is to be started.
func whyStart(o *state.Instance) string {
	switch o.State {
	case lifecycle.Initialized:
		return "created, never started"
	case lifecycle.Booting, lifecycle.Created:
		return "an earlier start did not finish: " + o.State.String()
	case lifecycle.Paused:
		return "paused"
	case lifecycle.Stopping:
		return "was being stopped"
	case lifecycle.Restarting:
		return "its restart policy has it wait"
	case lifecycle.Stopped:
		return whyStopped(o)
	case lifecycle.Errored:
		if o.Cause != "" {
			return oneLine(o.Cause)
		}
		return "was lost"
	}
	return "does not run: " + o.State.String()
}

func whyStopped(o *state.Instance) string {
	switch e := o.Exit; {
	case e == nil && o.Cause != "":
		return oneLine(o.Cause)
	case e == nil:
		return "stopped"
	case e.Requested:
		return "was stopped"
	case e.OOM:
		return "ran out of memory"
	case e.Signal != "":
		return "ended by " + e.Signal
	default:
		return fmt.Sprintf("exited with %d", e.Code)
	}
}

// oneLine keeps a text that others wrote from breaking the lines of a plan.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func whyBroken(o *state.Instance) string {
	return "its record cannot be used: " + oneLine(o.Broken)
}

// size says bytes in the largest binary unit that leaves no rest.
func size(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for n > 0 && n%1024 == 0 && i < len(units)-1 {
		n, i = n/1024, i+1
	}
	return fmt.Sprintf("%d%s", n, units[i])
}

func whyUnreadable(o *state.Instance, err error) string {
	if o.Broken != "" {
		return whyBroken(o)
	}
	return "its stored spec cannot be read: " + oneLine(err.Error())
}
