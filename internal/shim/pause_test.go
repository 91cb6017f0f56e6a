package shim

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/vmm"
	"github.com/vzcompose/vzcompose/vmm/vmmfake"
)

// pausing is a driver whose machine can be paused.
type pausing struct {
	vmm.Driver
	m *pausable
}

type pausable struct {
	vmm.Machine

	mu     sync.Mutex // guards the following
	held   bool
	refuse error // of Pause, which holds it all the same
}

func (d pausing) Boot(ctx context.Context, cfg *vmm.Config) (vmm.Machine, error) {
	m, err := d.Driver.Boot(ctx, cfg)
	d.m.Machine = m
	return d.m, err
}

func (m *pausable) Unwrap() vmm.Machine { return m.Machine }

func (m *pausable) Pause(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held = true
	return m.refuse
}

func (m *pausable) Resume(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held = false
	return ctx.Err()
}

func (m *pausable) is() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.held
}

// A machine that goes on is on record as one that does, also where its clock could
// not be set: the fake agent sets none.
func TestResumeWhoseClockFails(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "sleep", "infinity")
	m := &pausable{}
	r.over = pausing{r.driver, m}
	c, _, _ := r.started()
	if st, err := c.Pause(t.Context()); err != nil || st.State != lifecycle.Paused || !m.is() {
		t.Fatalf("%+v, %v", st, err)
	}
	if _, err := c.Resume(t.Context()); err == nil || !strings.Contains(err.Error(), "it runs, but its clock is behind") {
		t.Errorf("got %v", err)
	}
	if st, err := c.Status(t.Context()); err != nil || st.State != lifecycle.Started || m.is() || r.record().State != lifecycle.Started {
		t.Errorf("%+v, %v; held: %v, on record %s", st, err, m.is(), r.record().State)
	}
}

// A pause that fails leaves nothing held: whether it took effect is not known. One
// that cannot be recorded is known to the shim, and the record follows.
func TestPauseThatFails(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "sleep", "infinity")
	m := &pausable{refuse: errors.New("no answer")}
	r.over = pausing{r.driver, m}
	c, _, _ := r.started()
	started := func(what, want string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", what, err)
		}
		if st, err := c.Status(t.Context()); err != nil || st.State != lifecycle.Started || m.is() {
			t.Errorf("%s: %+v, %v; held: %v", what, st, err, m.is())
		}
	}
	_, err := c.Pause(t.Context())
	started("the machine does not answer", "no answer", err)
	m.refuse = nil
	folder := r.launch.Home.Instance("shop", "web-1")
	if err := os.Rename(folder, folder+"-away"); err != nil {
		t.Fatal(err)
	}
	if st, err := c.Pause(t.Context()); err != nil || st.State != lifecycle.Paused || !m.is() {
		t.Errorf("the record cannot be written: %+v, %v; held: %v", st, err, m.is())
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
