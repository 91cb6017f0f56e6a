package planner

import (
	"testing"

	"github.com/vzcompose/vzcompose/spec"
)

// Virtual sockets are a device of the machine, whose memory has to be where the
// shim can see it: there is no plugging them into one that runs.
func TestVsockTakesARestart(t *testing.T) {
	changes := spec.Diff(spec.Container{}, spec.Container{Vsock: true})
	if len(changes) != 1 || changes[0].Field != "vsock" || classOf(changes[0]) != restart {
		t.Errorf("got %v", changes)
	}
}
