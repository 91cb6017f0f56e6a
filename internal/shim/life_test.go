package shim

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/internal/wire"
	"github.com/vzcompose/vzcompose/vmm/vmmfake"
)

func TestRestartPolicies(t *testing.T) {
	for name, x := range map[string]struct {
		policy   store.Restart
		codes    []int // of its lives; the last is the end
		restarts int
	}{
		"no":                     {store.Restart{Policy: "no"}, []int{1}, 0},
		"on-failure, well":       {store.Restart{Policy: "on-failure"}, []int{0}, 0},
		"on-failure, then well":  {store.Restart{Policy: "on-failure"}, []int{3, 4, 0}, 2},
		"on-failure, but enough": {store.Restart{Policy: "on-failure", Max: 2}, []int{3, 4, 5}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			var lives atomic.Int32
			r := newRig(t, program(func(context.Context, *vmmfake.Process) int { return x.codes[lives.Add(1)-1] }), "prog")
			r.launch.Instance.Restart = x.policy
			r.run()
			r.end()
			rec := r.record()
			if int(lives.Load()) != len(x.codes) || rec.State != lifecycle.Stopped || rec.Restarts != x.restarts ||
				rec.Boots != len(x.codes) || rec.Exit.Code != x.codes[len(x.codes)-1] {
				t.Errorf("%d lives, on record is %+v, %+v", lives.Load(), rec, rec.Exit)
			}
		})
	}
}

// A lost machine comes again too, and each time in a machine of its own.
func TestRestartOfALostMachine(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "sleep", "infinity")
	r.launch.Instance.Restart = store.Restart{Policy: "always"}
	c, news, m := r.started()
	m.Crash(errors.New("power supply on fire"))
	st := r.until(c, news, lifecycle.Restarting)
	if !strings.Contains(st.Cause, "power supply") || st.Restarts != 1 {
		t.Errorf("it waits as %+v", st)
	}
	r.until(c, news, lifecycle.Started)
	if _, err := c.Stop(t.Context(), shimproto.Stop{}); err != nil {
		t.Error(err)
	}
	r.end()
	if rec := r.record(); rec.State != lifecycle.Stopped || !rec.Exit.Requested || rec.Boots != 2 {
		t.Errorf("on record is %+v", rec)
	}
}

func TestStopWhileItWaitsToComeAgain(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "exit", "9")
	r.launch.Instance.Restart = store.Restart{Policy: "always"}
	r.run()
	c, news := r.client()
	for st := (shimproto.Status{}); st.Restarts < 3; {
		st = r.until(c, news, lifecycle.Restarting)
	}
	st, err := c.Stop(t.Context(), shimproto.Stop{})
	if err != nil || st.State != lifecycle.Stopped {
		t.Errorf("stop: %+v, %v", st, err)
	}
	r.end()
	if rec := r.record(); rec.State != lifecycle.Stopped || rec.Exit == nil || rec.Exit.Code != 9 || !rec.Exit.Requested {
		t.Errorf("on record is %+v, %+v", rec, rec.Exit)
	}
}

// attach opens streams and attaches them.
func (r *rig) attach(c *shimproto.Client, in, end bool) (stdin, stdout *wire.Stream) {
	r.t.Helper()
	open := func() (*wire.Stream, string) {
		token := shimproto.AttachToken()
		s, err := c.OpenStream(r.t.Context(), token)
		if err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(func() { _ = s.Close() })
		return s, token
	}
	p := shimproto.Attach{EndStdin: end}
	stdout, p.Stdout = open()
	if in {
		stdin, p.Stdin = open()
	}
	if _, err := c.Attach(r.t.Context(), p); err != nil {
		r.t.Fatal(err)
	}
	return stdin, stdout
}

// What is attached while the machine starts misses nothing, and the log has it
// too.
func TestAttachBeforeTheStart(t *testing.T) {
	goOn := make(chan struct{})
	o := vmmfake.Options{Ready: func(context.Context, *vmmfake.Machine) error { <-goOn; return nil }}
	r := newRig(t, o, "cat")
	r.launch.Instance.Stdin = true
	r.run()
	c, _ := r.client()
	in, out := r.attach(c, true, true)
	close(goOn)
	text := rand.Text() + "\n"
	if _, err := io.WriteString(in, text); err != nil {
		t.Fatal(err)
	}
	if err := in.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(out)
	if err != nil || string(got) != text {
		t.Errorf("heard %q, %v; want %q", got, err, text)
	}
	r.end()
	if got := r.output("stdout"); got != text {
		t.Errorf("logged %q, want %q", got, text)
	}
}

// An input that ends may be followed by another, and a reader that goes away
// costs the process nothing.
func TestAttachAgain(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "cat")
	r.launch.Instance.Stdin = true
	c, _, _ := r.started()
	for i, text := range []string{"one\n", "two\n"} {
		in, out := r.attach(c, true, i == 1)
		if _, err := io.WriteString(in, text); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(text))
		if _, err := io.ReadFull(out, got); err != nil || string(got) != text {
			t.Errorf("heard %q, %v", got, err)
		}
		_ = in.CloseWrite()
		_ = out.Close()
	}
	r.end()
	if got := r.output("stdout"); got != "one\ntwo\n" {
		t.Errorf("logged %q", got)
	}
}

func TestHealth(t *testing.T) {
	var sick atomic.Bool
	o := vmmfake.Options{Programs: map[string]vmmfake.Program{"check": func(ctx context.Context, p *vmmfake.Process) int {
		if sick.Load() {
			_, _ = io.WriteString(p.Stderr, "it coughs\n")
			return 1
		}
		return 0
	}}}
	r := newRig(t, o, "sleep", "infinity")
	r.launch.Instance.Health = &store.Health{Args: []string{"check"}, Interval: time.Millisecond, Timeout: time.Minute, Retries: 2}
	c, news, _ := r.started()
	feels := func(want string) shimproto.Status {
		t.Helper()
		for {
			st := r.until(c, news, lifecycle.Started)
			if st.Health == want {
				return st
			}
		}
	}
	feels("healthy")
	sick.Store(true)
	if st := feels("unhealthy"); !strings.Contains(st.Cause, "ended with 1: it coughs") {
		t.Errorf("it is ill for %q", st.Cause)
	}
	sick.Store(false)
	if st := feels("healthy"); st.Cause != "" {
		t.Errorf("it is well, and ill for %q", st.Cause)
	}
	if _, err := c.Stop(t.Context(), shimproto.Stop{}); err != nil {
		t.Error(err)
	}
	r.end()
}

// A check that hangs is ended, and counts as one that failed.
func TestHealthCheckThatHangs(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "sleep", "infinity")
	r.launch.Instance.Health = &store.Health{Args: []string{"stubborn"}, Interval: time.Millisecond, Timeout: 10 * time.Millisecond, Retries: 1}
	c, news, _ := r.started()
	for {
		if st := r.until(c, news, lifecycle.Started); st.Health == "unhealthy" {
			if !strings.Contains(st.Cause, "not done within 10ms") {
				t.Errorf("it is ill for %q", st.Cause)
			}
			break
		}
	}
	if _, err := c.Stop(t.Context(), shimproto.Stop{}); err != nil {
		t.Error(err)
	}
	r.end()
}

func TestHooks(t *testing.T) {
	t.Run("a start", func(t *testing.T) {
		r := newRig(t, vmmfake.Options{}, "sleep", "infinity")
		r.launch.Instance.PostStart = []store.Hook{{Args: []string{"true"}}, {Args: []string{"exit", "4"}}}
		r.run()
		r.end()
		if rec := r.record(); rec.State != lifecycle.Errored || !strings.Contains(rec.Cause, "hook post_start[1]: it ended with 4") {
			t.Errorf("on record is %+v", rec)
		}
	})
	t.Run("a stop", func(t *testing.T) {
		r := newRig(t, vmmfake.Options{}, "sleep", "infinity")
		r.launch.Instance.PreStop = []store.Hook{{Args: []string{"false"}}}
		c, _, _ := r.started()
		_, err := c.Stop(t.Context(), shimproto.Stop{})
		if err == nil || !strings.Contains(err.Error(), "hook pre_stop[0]: it ended with 1") {
			t.Errorf("stop: %v", err)
		}
		r.end()
		if rec := r.record(); rec.State != lifecycle.Stopped {
			t.Errorf("on record is %+v", rec)
		}
	})
}

// Line 43 of what containers do: a stop goes on whatever fails, and answers all
// that did, the first leading.
func TestStopRunsEveryStep(t *testing.T) {
	var r *rig
	var m *vmmfake.Machine
	var there = make(chan struct{})
	r = newRig(t, program(func(_ context.Context, p *vmmfake.Process) int {
		<-p.Trap(agentproto.SIGTERM)
		<-there
		m.Crash(errors.New("power supply on fire"))
		return 0
	}), "prog")
	r.launch.Instance.StopTimeout = time.Hour
	r.launch.Instance.PreStop = []store.Hook{{Args: []string{"exit", "3"}}, {Args: []string{"true"}}, {Args: []string{"exit", "4"}}}
	c, _, machine := r.started()
	m = machine
	close(there)
	_, err := c.Stop(t.Context(), shimproto.Stop{})
	if err == nil {
		t.Fatal("nothing is told")
	}
	rest := err.Error()
	for _, want := range []string{"hook pre_stop[0]: it ended with 3", "hook pre_stop[2]: it ended with 4", "power supply on fire"} {
		_, after, found := strings.Cut(rest, want)
		if !found {
			t.Errorf("%q is not there, or not in its place: %v", want, err)
		}
		rest = after
	}
	r.end()
	if rec := r.record(); rec.State != lifecycle.Errored {
		t.Errorf("on record is %+v", rec)
	}
}
