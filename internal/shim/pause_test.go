package shim

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/vmm/vmmfake"
)

// A machine that goes on is told what time it has become.
func TestPauseAndResume(t *testing.T) {
	var told []time.Time
	r := newRig(t, vmmfake.Options{Clock: func(_ context.Context, c agentproto.Clock) error {
		told = append(told, c.Time)
		return nil
	}}, "sleep", "infinity")
	c, _, m := r.started()
	if _, err := c.Resume(t.Context()); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("resume what is not paused: %v", err)
	}
	if st, err := c.Pause(t.Context()); err != nil || st.State != lifecycle.Paused || !m.Paused() || r.record().State != lifecycle.Paused {
		t.Errorf("%+v, %v; held: %v, on record %s", st, err, m.Paused(), r.record().State)
	}
	if _, err := c.Pause(t.Context()); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("a second pause: %v", err)
	}
	before := time.Now()
	if st, err := c.Resume(t.Context()); err != nil || st.State != lifecycle.Started || m.Paused() {
		t.Errorf("%+v, %v; held: %v", st, err, m.Paused())
	}
	if len(told) != 1 || told[0].Before(before) {
		t.Errorf("it was told %v, resumed after %v", told, before)
	}
}

// A machine that goes on is on record as one that does, also where its clock could
// not be set.
func TestResumeWhoseClockFails(t *testing.T) {
	r := newRig(t, vmmfake.Options{Clock: func(context.Context, agentproto.Clock) error { return errors.New("no clock") }}, "sleep", "infinity")
	c, _, m := r.started()
	if st, err := c.Pause(t.Context()); err != nil || st.State != lifecycle.Paused || !m.Paused() {
		t.Fatalf("%+v, %v", st, err)
	}
	if _, err := c.Resume(t.Context()); err == nil || !strings.Contains(err.Error(), "it runs, but its clock is behind") {
		t.Errorf("got %v", err)
	}
	if st, err := c.Status(t.Context()); err != nil || st.State != lifecycle.Started || m.Paused() || r.record().State != lifecycle.Started {
		t.Errorf("%+v, %v; held: %v, on record %s", st, err, m.Paused(), r.record().State)
	}
}

// A pause that fails leaves nothing held: whether it took effect is not known. One
// that cannot be recorded is known to the shim, and the record follows.
func TestPauseThatFails(t *testing.T) {
	refuse := errors.New("no answer")
	r := newRig(t, vmmfake.Options{Pause: func(*vmmfake.Machine) error { return refuse }}, "sleep", "infinity")
	c, _, m := r.started()
	started := func(what, want string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", what, err)
		}
		if st, err := c.Status(t.Context()); err != nil || st.State != lifecycle.Started || m.Paused() {
			t.Errorf("%s: %+v, %v; held: %v", what, st, err, m.Paused())
		}
	}
	_, err := c.Pause(t.Context())
	started("the machine does not answer", "no answer", err)
	refuse = nil
	folder := r.launch.Home.Instance("shop", "web-1")
	if err := os.Rename(folder, folder+"-away"); err != nil {
		t.Fatal(err)
	}
	if st, err := c.Pause(t.Context()); err != nil || st.State != lifecycle.Paused || !m.Paused() {
		t.Errorf("the record cannot be written: %+v, %v; held: %v", st, err, m.Paused())
	}
	if err := os.Rename(folder+"-away", folder); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Stop(t.Context(), grace(0)); err != nil {
		t.Error(err)
	}
	r.end()
	if rec := r.record(); rec.State != lifecycle.Stopped {
		t.Errorf("on record is %s", rec.State)
	}
}
