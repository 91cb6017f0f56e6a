package engine

import (
	"testing"

	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/state"
)

// A start that joins an instance whose machine was just lost, and that comes again
// by its policy, waits for that, and no longer than for the next boot.
func TestWhatComesAgainIsWaitedFor(t *testing.T) {
	lost := func(boots int) shimproto.Status {
		return shimproto.Status{State: lifecycle.Restarting, Boots: boots, Phase: "again in 100ms"}
	}
	booting := shimproto.Status{State: lifecycle.Booting, Boots: 4}
	runs := shimproto.Status{State: lifecycle.Started, Boots: 4}
	exited := shimproto.Status{State: lifecycle.Restarting, Boots: 3, Exit: &state.Exit{Code: 1}}
	for what, x := range map[string]struct {
		seen []shimproto.Status
		at   int // which of them is the end
	}{
		"it comes":                   {[]shimproto.Status{lost(3), booting, runs}, 2},
		"it is lost again":           {[]shimproto.Status{lost(3), booting, lost(4)}, 2},
		"it is lost while it boots":  {[]shimproto.Status{booting, lost(4), lost(5)}, 2},
		"its process has ended":      {[]shimproto.Status{booting, exited}, 1},
		"it runs already":            {[]shimproto.Status{runs}, 0},
		"the same word twice, which": {[]shimproto.Status{lost(3), lost(3), runs}, 2},
	} {
		c := &coming{report: func(event.Progress) {}}
		for i, st := range x.seen {
			if got := c.came(st); got != (i == x.at) {
				t.Errorf("%s: status %d: %v", what, i, got)
			}
		}
	}
}
