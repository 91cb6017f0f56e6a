package shim

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/wire"
	"github.com/vzcompose/vzcompose/vmm"
	"github.com/vzcompose/vzcompose/vmm/vmmfake"
)

func grace(d time.Duration) shimproto.Stop { return shimproto.Stop{Grace: &d} }

// Whatever a boot waits for, a stop ends it, and nothing is left.
func TestStopOfABoot(t *testing.T) {
	reached := make(chan struct{}, 1)
	wait := func(ctx context.Context) error {
		reached <- struct{}{}
		<-ctx.Done()
		return context.Cause(ctx)
	}
	for name, o := range map[string]vmmfake.Options{
		"driver":  {Boot: func(ctx context.Context, _ *vmm.Config) error { return wait(ctx) }},
		"kernel":  {Ready: func(ctx context.Context, _ *vmmfake.Machine) error { return wait(ctx) }},
		"set-up":  {Setup: func(ctx context.Context, _ agentproto.Setup) error { return wait(ctx) }},
		"process": {Start: func(ctx context.Context, _ agentproto.Start) error { return wait(ctx) }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, o, "sleep", "infinity")
			r.run()
			<-reached
			c, _ := r.client()
			st, err := c.Stop(t.Context(), shimproto.Stop{})
			if err != nil || st.State != lifecycle.Stopped || st.Exit != nil || st.Cause != "stopped before it was started" {
				t.Errorf("got %+v, %v", st, err)
			}
			r.end()
			if rec := r.record(); rec.State != lifecycle.Stopped || rec.Cause != st.Cause {
				t.Errorf("on record is %+v", rec)
			}
		})
	}
}

// A process whose start comes through although a stop was asked for is stopped.
func TestStopThatComesWithTheStart(t *testing.T) {
	reached, goOn := make(chan struct{}), make(chan struct{})
	r := newRig(t, vmmfake.Options{Start: func(context.Context, agentproto.Start) error {
		close(reached)
		<-goOn // whatever the caller thinks
		return nil
	}}, "sleep", "infinity")
	r.run()
	<-reached
	c, news := r.client()
	stopped := make(chan error, 1)
	go func() { _, err := c.Stop(t.Context(), shimproto.Stop{}); stopped <- err }()
	r.until(c, news, lifecycle.Stopping)
	close(goOn)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	r.end()
	if rec := r.record(); rec.State != lifecycle.Stopped {
		t.Errorf("on record is %+v", rec)
	}
}

func TestStopOfARunningProcess(t *testing.T) {
	r := newRig(t, program(func(ctx context.Context, p *vmmfake.Process) int {
		select {
		case <-p.Trap(agentproto.SIGTERM):
			return 5
		case <-ctx.Done():
			return 0
		}
	}), "prog")
	r.launch.Instance.StopTimeout = time.Hour
	c, _, _ := r.started()
	var wg sync.WaitGroup
	for range 2 { // the second joins the first
		wg.Go(func() {
			st, err := c.Stop(t.Context(), shimproto.Stop{})
			if err != nil || st.State != lifecycle.Stopped || st.Exit == nil || !st.Exit.Requested || st.Exit.Signal != "" && st.Exit.Signal != "SIGTERM" {
				t.Errorf("got %+v (%+v), %v", st, st.Exit, err)
			}
		})
	}
	wg.Wait()
	r.end()
}

func TestKillOfAStubbornProcess(t *testing.T) {
	killed := func(t *testing.T, st shimproto.Status, err error) {
		t.Helper()
		if err != nil || st.State != lifecycle.Stopped || st.Exit == nil || st.Exit.Signal != "SIGKILL" || st.Exit.Code != 137 || !st.Exit.Requested {
			t.Errorf("got %+v (%+v), %v", st, st.Exit, err)
		}
	}
	t.Run("after the declared time", func(t *testing.T) {
		r := newRig(t, vmmfake.Options{}, "stubborn")
		r.launch.Instance.StopTimeout = time.Millisecond
		c, _, _ := r.started()
		st, err := c.Stop(t.Context(), shimproto.Stop{})
		killed(t, st, err)
		r.end()
	})
	t.Run("at once", func(t *testing.T) {
		r := newRig(t, vmmfake.Options{}, "stubborn")
		c, _, _ := r.started()
		st, err := c.Stop(t.Context(), grace(0))
		killed(t, st, err)
		r.end()
	})
	t.Run("a second stop is in a hurry", func(t *testing.T) {
		r := newRig(t, vmmfake.Options{}, "stubborn")
		c, news, _ := r.started()
		var wg sync.WaitGroup
		wg.Go(func() {
			st, err := c.Stop(t.Context(), grace(time.Hour))
			killed(t, st, err)
		})
		r.until(c, news, lifecycle.Stopping)
		for range 2 {
			wg.Go(func() {
				st, err := c.Stop(t.Context(), grace(0))
				killed(t, st, err)
			})
		}
		wg.Wait()
		r.end()
	})
}

func TestTerminationStopsInOrder(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "sleep", "infinity")
	r.started()
	r.stop()
	r.end()
	if rec := r.record(); rec.State != lifecycle.Stopped || rec.Exit == nil || rec.Exit.Signal != "SIGTERM" || !rec.Exit.Requested {
		t.Errorf("on record is %+v (%+v)", rec, rec.Exit)
	}
}

func TestOneShimAnInstance(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "sleep", "infinity")
	c, _, _ := r.started()
	err := Run(t.Context(), r.driver, r.launch, func() { t.Error("a second shim was ready") })
	if !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("a second shim: %v", err)
	}
	if st, err := c.Status(t.Context()); err != nil || st.State != lifecycle.Started {
		t.Errorf("the first: %+v, %v", st, err)
	}
}

func TestRecordThatCannotBeReadIsSetAside(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "true")
	path := r.launch.Home.Instance("shop", "web-1") + "/state.json"
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), r.driver, r.launch, func() {}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path + ".damaged"); string(b) != "{" || err != nil {
		t.Errorf("what was set aside is %q, %v", b, err)
	}
	rec := r.record()
	if rec.State != lifecycle.Stopped || !slices.ContainsFunc(rec.Notes, func(n string) bool { return strings.Contains(n, path) }) {
		t.Errorf("on record is %+v", rec)
	}
}

func TestFiftyClientsHearTheLastStatus(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "sleep", "infinity")
	c, _, _ := r.started()
	var wg sync.WaitGroup
	for range 50 {
		c, news := r.client()
		wg.Go(func() { r.until(c, news, lifecycle.Stopped) })
	}
	if _, err := c.Stop(t.Context(), shimproto.Stop{}); err != nil {
		t.Error(err)
	}
	wg.Wait()
	r.end()
}

func TestSilentConnectionDoesNotHoldUpTheEnd(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "sleep", "infinity")
	c, _, _ := r.started()
	conn, err := net.Dial("unix", r.launch.Home.Socket("shop", "web-1"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	begin := time.Now()
	if _, err := c.Stop(t.Context(), shimproto.Stop{}); err != nil {
		t.Error(err)
	}
	r.end()
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("it took %s", d)
	}
}

// execute starts a process with three streams.
func execute(t *testing.T, c *shimproto.Client, args ...string) (id string, in, out, errOut *wire.Stream) {
	t.Helper()
	var all [3]*wire.Stream
	for i, token := range []string{"i", "o", "e"} {
		s, err := c.OpenStream(t.Context(), token)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		all[i] = s
	}
	e, err := c.Exec(t.Context(), shimproto.Exec{Args: args, Env: []string{"B=3", "C=4"}, User: "web", Cwd: "/tmp",
		Stdin: "i", Stdout: "o", Stderr: "e"})
	if err != nil {
		t.Fatal(err)
	}
	return e.ID, all[0], all[1], all[2]
}

func TestExecWithThreeStreams(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "sleep", "infinity")
	c, _, m := r.started()
	id, in, out, errOut := execute(t, c, "cat")
	p := m.Process(id)
	if p.User != "web" || p.Dir != "/tmp" || len(p.Env) != 3 || p.Env[1] != "B=3" || p.Env[2] != "C=4" {
		t.Errorf("it is run as %q in %q with %q", p.User, p.Dir, p.Env)
	}
	data := bytes.Repeat([]byte("0123456789"), 100_000)
	go func() { _, _ = in.Write(data); _ = in.CloseWrite() }()
	if got, err := io.ReadAll(out); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
	if got, err := io.ReadAll(errOut); err != nil || len(got) != 0 {
		t.Errorf("stderr: %q, %v", got, err)
	}
	if e, err := c.Wait(t.Context(), id); err != nil || e.Code != 0 {
		t.Errorf("it ended with %+v, %v", e, err)
	}
	if _, err := c.Wait(t.Context(), id); !errs.Is(err, errs.NotFound) {
		t.Errorf("it was not forgotten: %v", err)
	}
	if _, err := c.Exec(t.Context(), shimproto.Exec{Args: []string{"nothing"}}); !errs.Is(err, errs.NotFound) {
		t.Errorf("an unknown executable: %v", err)
	}
}

func TestOnlyARunningInstanceIsTalkedTo(t *testing.T) {
	reached := make(chan struct{})
	r := newRig(t, vmmfake.Options{Ready: func(ctx context.Context, _ *vmmfake.Machine) error {
		close(reached)
		<-ctx.Done()
		return errors.New("ended")
	}}, "true")
	r.run()
	<-reached
	c, _ := r.client()
	if err := c.Signal(t.Context(), 1); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("signal: %v", err)
	}
	if _, err := c.Exec(t.Context(), shimproto.Exec{Args: []string{"x"}}); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("exec: %v", err)
	}
	if s, err := c.OpenStream(t.Context(), "x"); err == nil {
		if _, err = s.Read(make([]byte, 1)); !errs.Is(err, errs.FailedPrecondition) {
			t.Errorf("stream: %v", err)
		}
	}
}

// A signal that ends the process may end the machine before the agent has said that
// it was delivered.
func TestSignalWhoseReplyIsLost(t *testing.T) {
	r := newRig(t, vmmfake.Options{Signal: func(ctx context.Context, s agentproto.Signal) {
		if !s.All {
			<-ctx.Done() // the connection's end
		}
	}}, "sleep", "infinity")
	c, _, _ := r.started()
	if err := c.Signal(t.Context(), agentproto.SIGKILL); err != nil {
		t.Error(err)
	}
}
