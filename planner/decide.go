package planner

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/vzcompose/vzcompose/internal/diag"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/spec"
)

// change is what is to be done to one instance. Each text but was is the cause of one step; where it is empty there is no such step. They are
// done in the order of the fields.
type change struct {
	Target
	spec spec.Container // what it is to be, for create, update and start

	// was is the instance in whose place it comes, where that has another name.
	was string

	stop, remove, create, update, start string

	// live: the update takes effect without a restart.
	live bool
	// done: it need not run, since its work is done; nothing waits for it.
	done bool
	// healthy: it runs, and its health check says so.
	healthy bool
}

// interrupts reports whether an instance that was there is taken away for a
// while, as those that depend on it would see it.
func (c *change) interrupts() bool {
	return (c.stop != "" || c.remove != "") && (c.create != "" || c.start != "")
}

// there is the instance as it is now.
func (c *change) there() Target {
	t := c.Target
	if c.was != "" {
		t.Instance = c.was
	}
	return t
}

// class is how much must be done for a change to take effect.
type class int

const (
	same    class = iota
	live          // the record, and the shim is told
	restart       // a new process, and as it is a new machine; the writable layer is kept
	disk          // a new root filesystem: the writable layer goes
)

// classOf says what a change of a field takes. The process and the machine are
// one class, for a machine lives as long as its process. A field that is not
// known here is of that class: a restart makes any declaration true but that of
// the root filesystem.
func classOf(c spec.Change) class {
	switch fieldOf(c) {
	case "restart", "labels", "stop_grace_period", "depends_on", "replicas", "container_name", "pull":
		return live
	case "image", "rootfs", "writable_layer":
		return disk
	}
	return restart
}

// fieldOf is the key of the language that a change is under.
func fieldOf(c spec.Change) string {
	if i := strings.IndexAny(c.Field, ".["); i >= 0 {
		return c.Field[:i]
	}
	return c.Field
}

// compare says how far o is from the declaration, and the difference in words.
// encoded is the declaration as it is stored. digest is what the declared image
// means here, "" where that is not known.
func compare(o *state.Instance, want spec.Container, encoded []byte, digest string) (class, string) {
	moved := o.Image != "" && digest != "" && o.Image != digest
	if !moved && bytes.Equal(o.Spec, encoded) { // the common case; Diff costs more
		return same, ""
	}
	have, err := spec.DecodeContainer(o.Spec)
	if err != nil {
		if o.Image != "" && o.Image == digest { // the writable layer can be kept
			return restart, whyUnreadable(o, err)
		}
		return disk, whyUnreadable(o, err)
	}
	changes := spec.Diff(have, want)
	most := same
	for _, c := range changes {
		cl := classOf(c)
		if c.Field == "image" && o.Image != "" && o.Image == digest {
			cl = live // another name of the same image
		}
		most = max(most, cl)
	}
	why := differences(changes)
	if moved && have.Image == want.Image {
		most = disk
		why = digestWords(want.Image, o.Image, digest)
		if len(changes) > 0 {
			why += ", " + differences(changes)
		}
	}
	return most, why
}

// decide says what is to be done to an instance that is there and is declared.
func (u *up) decide(o *state.Instance, ch *change) {
	force := u.o.ForceRecreate && u.named[ch.Container]
	switch {
	case o.Broken != "" && u.o.NoRecreate:
		u.warn("%s stays as it is: %s", o.Name, whyBroken(o))
		ch.done = true
	case o.Unfinished:
		u.replace(ch, false, o.Broken)
	case o.Broken != "" && !force:
		u.refuse(o, whyBroken(o))
	case o.Broken != "":
		u.replace(ch, o.State.Live(), whyBroken(o))
	case force:
		u.replace(ch, o.State.Live(), causeForced)
	default:
		u.converge(o, ch)
	}
}

// converge brings a readable instance to its declaration with the least harm.
func (u *up) converge(o *state.Instance, ch *change) {
	cl, why := compare(o, ch.spec, u.encoded[ch.Container], u.digests[ch.spec.Image])
	if cl == disk && !u.o.NoRecreate {
		if _, err := spec.DecodeContainer(o.Spec); err != nil {
			u.refuse(o, whyUnreadable(o, err))
			return
		}
	}
	if u.o.NoRecreate && cl != same {
		have, err := spec.DecodeContainer(o.Spec)
		if err != nil {
			u.warn("%s stays as it is: %s", o.Name, whyUnreadable(o, err))
			ch.done = true
			return
		}
		cl, ch.spec = same, have
	}
	switch cl {
	case disk:
		u.replace(ch, o.State.Live(), why)
		return
	case restart:
		if o.State.Live() {
			ch.stop = why
		}
		ch.update, ch.start = why, why
		return
	case live:
		ch.update, ch.live = why, true
	}
	u.revive(o, ch)
}

// revive starts an instance that is as it is declared and should run but does
// not.
func (u *up) revive(o *state.Instance, ch *change) {
	switch {
	case o.State == lifecycle.Started:
		if o.Stall != "" {
			u.warn("%s stands still: %s; it goes on by itself when there is room", o.Name, o.Stall)
		}
		ch.healthy = o.Health == "healthy"
		return
	case completed(o, ch.spec):
		ch.done = true
		return
	case o.State == lifecycle.Stopping:
		// The stop may belong to a command that died: join it, then start.
		ch.stop = whyStart(o)
	}
	// Booting and created need no stop: whoever began may be at it still, and
	// a second start joins the first. If its shim died with the command, the
	// instance is not live any more and was found errored.
	ch.start = whyStart(o)
}

// completed reports whether an instance did its work: it ended well, by
// itself, and nothing says that it should run again.
func completed(o *state.Instance, c spec.Container) bool {
	if o.State != lifecycle.Stopped || o.Exit == nil || o.Exit.Code != 0 || o.Exit.Requested {
		return false
	}
	switch c.Restart.Policy {
	case "always", "unless-stopped":
		return false
	}
	return true
}

// refuse keeps the plan from being made: whether the instance's root filesystem is
// the declared one is not known, and to make it anew would destroy what it wrote
// because our own record of it is damaged. That is the user's to decide.
func (u *up) refuse(o *state.Instance, why string) {
	t := u.target(o)
	u.refused = append(u.refused, diag.Finding{
		Position: diag.Position{File: o.Name}, Message: why + "; what it wrote is kept",
		Hint: fmt.Sprintf("vzcompose rm --stop %s removes it with what it wrote, up --force-recreate %s makes it anew, up --no-recreate leaves it as it is", o.Name, t.Container),
	})
}

func (u *up) replace(ch *change, stop bool, why string) {
	if stop {
		ch.stop = why
	}
	ch.remove, ch.create, ch.start = why, why, why
}

func (u *up) warn(format string, args ...any) {
	u.warnings = append(u.warnings, fmt.Sprintf(format, args...))
}
