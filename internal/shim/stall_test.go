package shim

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/journal"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/vmm/vmmfake"
)

// untilStall waits for a status that says, or does not say, that the machine
// stands still.
func (r *rig) untilStall(news <-chan shimproto.Status, stalled bool) shimproto.Status {
	r.t.Helper()
	for {
		select {
		case st := <-news:
			if (st.Stall != "") == stalled {
				return st
			}
		case <-time.After(20 * time.Second):
			r.t.Fatalf("nobody is told that stalled is %v", stalled)
		}
	}
}

// actions are those of the journal.
func (r *rig) actions() (all []string) {
	r.t.Helper()
	jr, err := journal.Open(r.launch.Home.Journal("shop"), journal.ReadOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	defer jr.Close()
	for {
		e, err := jr.Next(r.t.Context())
		if err != nil {
			return all
		}
		all = append(all, strings.TrimSpace(e.Action+" "+e.Attributes["cause"]))
	}
}

// A full host disk: everybody is told, what needs the machine fails at once, also
// where it was under way, and the machine goes on by itself when there is room.
func TestStalledMachine(t *testing.T) {
	starting, never := make(chan struct{}), make(chan struct{})
	r := newRig(t, vmmfake.Options{Start: func(ctx context.Context, s agentproto.Start) error {
		if s.ID != agentproto.InitID && s.Process.Args[0] == "slow" {
			close(starting)
			<-never
		}
		return nil
	}}, "sleep", "infinity")
	c, news, m := r.started()
	defer close(never)
	path := r.launch.Home.Writable("shop", "web-1")
	want := "host disk full: " + path
	under := make(chan error, 1)
	go func() { _, err := c.Exec(t.Context(), shimproto.Exec{Args: []string{"slow"}}); under <- err }()
	<-starting
	m.Fill(path)
	if st := r.untilStall(news, true); st.Stall != want || st.State != lifecycle.Started {
		t.Errorf("told %+v", st)
	}
	refused := func(what string, err error) {
		t.Helper()
		if !errs.Is(err, errs.ResourceExhausted) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("exec that was under way", <-under)
	_, err := c.Exec(t.Context(), shimproto.Exec{Args: []string{"true"}})
	refused("exec", err)
	_, err = c.Stats(t.Context())
	refused("stats", err)
	_, err = c.Top(t.Context())
	refused("top", err)
	_, err = c.Stat(t.Context(), "/")
	refused("stat", err)
	_, err = c.Pause(t.Context())
	refused("pause", err)
	refused("signal", c.Signal(t.Context(), agentproto.SIGTERM))
	if st, err := c.Status(t.Context()); err != nil || st.Stall != want {
		t.Errorf("status is %+v, %v", st, err)
	}
	if rec := r.record(); rec.Stall != want || rec.State != lifecycle.Started {
		t.Errorf("on record is %+v", rec)
	}
	m.Free()
	r.untilStall(news, false)
	if _, err := c.Exec(t.Context(), shimproto.Exec{Args: []string{"sleep", "0"}}); err != nil {
		t.Errorf("when there is room again: %v", err)
	}
	if rec := r.record(); rec.Stall != "" {
		t.Errorf("on record is %+v", rec)
	}
	if got := r.actions(); !slices.Contains(got, "stall "+want) || !slices.Contains(got, "unstall") {
		t.Errorf("in the journal is %q", got)
	}
}

// Room that is none does not make it go on for a moment, as far as anybody sees.
func TestStalledAgainAtOnceIsStillStalled(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "sleep", "infinity")
	_, news, m := r.started()
	m.Fill(r.launch.Home.Writable("shop", "web-1"))
	r.untilStall(news, true)
	for m.Proceeds() < 2 {
		select {
		case st := <-news:
			t.Fatalf("told %+v", st)
		case <-time.After(10 * time.Millisecond):
		}
	}
	m.Free()
	r.untilStall(news, false)
	stalls := 0
	for _, a := range r.actions() {
		if strings.HasPrefix(a, "stall") {
			stalls++
		}
	}
	if stalls != 1 {
		t.Errorf("%d stalls in the journal: %q", stalls, r.actions())
	}
}

// stop, with any grace, and kill end a machine that stands still at once.
func TestEndOfAStalledMachine(t *testing.T) {
	for name, end := range map[string]func(*shimproto.Client) error{
		"stop": func(c *shimproto.Client) error { _, err := c.Stop(t.Context(), grace(time.Hour)); return err },
		"kill": func(c *shimproto.Client) error { return c.Signal(t.Context(), agentproto.SIGKILL) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, vmmfake.Options{}, "sleep", "infinity")
			c, news, m := r.started()
			m.Fill("/full/disk")
			r.untilStall(news, true)
			began := time.Now()
			if err := end(c); err != nil {
				t.Error(err)
			}
			r.end()
			if d := time.Since(began); d > 5*time.Second {
				t.Errorf("it took %s", d)
			}
			rec := r.record()
			if rec.State != lifecycle.Stopped || rec.Exit == nil || rec.Exit.Code != 137 || rec.Exit.Requested != (name == "stop") ||
				rec.Stall != "" || !strings.Contains(rec.Cause, "host disk full: /full/disk") {
				t.Errorf("on record is %+v, %+v", rec, rec.Exit)
			}
		})
	}
}

// A disk that fills while a stop waits for the process ends it too.
func TestStallDuringAStop(t *testing.T) {
	trapped := make(chan struct{})
	r := newRig(t, program(func(ctx context.Context, p *vmmfake.Process) int {
		p.Trap(agentproto.SIGTERM)
		close(trapped)
		<-ctx.Done()
		return 0
	}), "prog")
	c, news, m := r.started()
	<-trapped
	stopped := make(chan error, 1)
	go func() { _, err := c.Stop(t.Context(), grace(time.Hour)); stopped <- err }()
	r.until(c, news, lifecycle.Stopping)
	m.Fill("/full/disk")
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	r.end()
	if rec := r.record(); rec.State != lifecycle.Stopped || !strings.Contains(rec.Cause, "/full/disk") {
		t.Errorf("on record is %+v", rec)
	}
}

// A boot that needs room that there is not fails at once, and says why.
func TestStallDuringABoot(t *testing.T) {
	var r *rig
	r = newRig(t, vmmfake.Options{Setup: func(ctx context.Context, _ agentproto.Setup) error {
		r.driver.Machine("shop-web-1").Fill("/full/disk")
		<-ctx.Done()
		return context.Cause(ctx)
	}}, "sleep", "infinity")
	began := time.Now()
	r.run()
	r.end()
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("it took %s", d)
	}
	if rec := r.record(); rec.State != lifecycle.Errored || rec.Cause != "host disk full: /full/disk" {
		t.Errorf("on record is %+v", rec)
	}
	if n := len(r.driver.Machines()); n != 0 {
		t.Errorf("%d machines are left", n)
	}
}

// A machine that stood still for want of room which there is again boots.
func TestBootOfAMachineThatWasStalled(t *testing.T) {
	var r *rig
	r = newRig(t, vmmfake.Options{Ready: func(_ context.Context, m *vmmfake.Machine) error {
		m.Fill(r.launch.Home.Writable("shop", "web-1"))
		m.Free()
		return nil
	}}, "sleep", "infinity")
	c, _, _ := r.started()
	if st, err := c.Status(t.Context()); err != nil || st.Stall != "" {
		t.Errorf("status is %+v, %v", st, err)
	}
}

// Where the record and the journal cannot be written, the shim answers what is
// true, and they follow.
func TestRecordThatCannotBeWritten(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "sleep", "infinity")
	c, news, m := r.started()
	home := r.launch.Home
	record, entries := filepath.Join(home.Instance("shop", "web-1"), "state.json"), home.Journal("shop")
	for _, path := range []string{record, entries} { // a folder takes no file's place
		if err := os.Rename(path, path+".old"); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(path, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	m.Fill("/full/disk")
	r.untilStall(news, true)
	if st, err := c.Status(t.Context()); err != nil || st.Stall == "" {
		t.Errorf("status is %+v, %v", st, err)
	}
	for _, path := range []string{record, entries} {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Stop(t.Context(), shimproto.Stop{}); err != nil {
		t.Error(err)
	}
	r.end()
	if rec := r.record(); rec.State != lifecycle.Stopped {
		t.Errorf("on record is %+v", rec)
	}
	got := r.actions()
	for _, want := range []string{"stall host disk full: /full/disk", "stop"} {
		if !slices.Contains(got, want) {
			t.Errorf("in the journal is %q, not %q", got, want)
		}
	}
}

// A journal that cannot be written is no failure of what it would tell.
func TestJournalThatCannotBeWritten(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "sleep", "infinity")
	c, _, _ := r.started()
	entries := r.launch.Home.Journal("shop")
	if err := os.Remove(entries); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(entries, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Stop(t.Context(), grace(0)); err != nil {
		t.Error(err)
	}
	r.end()
	if rec := r.record(); rec.State != lifecycle.Stopped || len(rec.Notes) != 1 || !strings.Contains(rec.Notes[0], "not in the journal") {
		t.Errorf("on record is %+v", rec)
	}
}

// An end that cannot be recorded is told to whoever asked for it.
func TestEndThatCannotBeRecorded(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "sleep", "infinity")
	c, _, _ := r.started()
	record := filepath.Join(r.launch.Home.Instance("shop", "web-1"), "state.json")
	if err := os.Remove(record); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(record, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	st, err := c.Stop(t.Context(), grace(0))
	if err == nil || !strings.Contains(err.Error(), "write the record") {
		t.Errorf("got %+v, %v", st, err)
	}
	r.end()
}
