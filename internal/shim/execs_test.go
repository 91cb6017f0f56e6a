package shim

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/vmm/vmmfake"
)

// forgotten waits until the agent knows only the container's own process.
func forgotten(t *testing.T, m *vmmfake.Machine) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; <-time.After(time.Millisecond) {
		var left []string
		for _, s := range m.Starts() {
			if s.ID != agentproto.InitID && m.Process(s.ID) != nil {
				left = append(left, s.ID)
			}
		}
		if left == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the agent still keeps %q", left)
		}
	}
}

// What has ended is forgotten, whoever has started it and does not wait.
func TestEndedExecsAreForgotten(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "sleep", "infinity")
	c, _, m := r.started()
	for range 20 {
		if _, err := c.Exec(t.Context(), shimproto.Exec{Args: []string{"true"}, Detach: true}); err != nil {
			t.Fatal(err)
		}
	}
	forgotten(t, m)
	gone, _ := r.client()
	for range 20 {
		if _, err := gone.Exec(t.Context(), shimproto.Exec{Args: []string{"true"}}); err != nil {
			t.Fatal(err)
		}
	}
	_ = gone.Close()
	forgotten(t, m)
	if _, err := c.Exec(t.Context(), shimproto.Exec{Args: []string{"nothing"}}); !errs.Is(err, errs.NotFound) {
		t.Errorf("what cannot be started: %v", err)
	}
	forgotten(t, m)
}

// A check that takes too long is ended and forgotten too.
func TestChecksAreForgotten(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "sleep", "infinity")
	r.launch.Instance.Health = &store.Health{Args: []string{"stubborn"}, Interval: time.Millisecond, Timeout: 10 * time.Millisecond, Retries: 2}
	c, news, m := r.started()
	for st := range news {
		if st.Health == healthUnhealthy {
			break
		}
	}
	for _, s := range m.Starts()[:3] { // later ones may be under way
		for end := time.Now().Add(20 * time.Second); s.ID != agentproto.InitID && m.Process(s.ID) != nil; <-time.After(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the agent still keeps %s", s.ID)
			}
		}
	}
	if _, err := c.Stop(t.Context(), shimproto.Stop{}); err != nil {
		t.Error(err)
	}
	r.end()
}

// A reader that goes away ends who writes, and the command still has the status.
func TestExecWhoseReaderGoesAway(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "sleep", "infinity")
	c, _, m := r.started()
	id, _, out, errOut := execute(t, c, "yes")
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "y\n" || err != nil {
		t.Errorf("got %q, %v", line, err)
	}
	_ = out.Close()
	e, err := c.Wait(t.Context(), id)
	if err != nil || e.Code != 128+13 {
		t.Errorf("it ended with %+v, %v; want SIGPIPE", e, err)
	}
	if _, err := io.ReadAll(errOut); err != nil {
		t.Errorf("its other stream: %v", err)
	}
	forgotten(t, m)
}

// A process is its command's: it ends when that goes away, unless it was let go.
func TestExecWhoseCommandGoesAway(t *testing.T) {
	got := make(chan int, 1)
	r := newRig(t, program(func(ctx context.Context, p *vmmfake.Process) int {
		hup := p.Trap(agentproto.SIGHUP)
		_, _ = io.WriteString(p.Stdout, "ready\n")
		select {
		case s := <-hup:
			got <- s
		case <-ctx.Done():
		}
		return 0
	}), "sleep", "infinity")
	_, _, m := r.started()
	gone, _ := r.client()
	_, in, out, errOut := execute(t, gone, "prog")
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	_ = gone.Close()
	for _, s := range []io.Closer{in, out, errOut} {
		_ = s.Close()
	}
	if s := <-got; s != agentproto.SIGHUP {
		t.Errorf("signal %d", s)
	}
	forgotten(t, m)
}

// What was detached goes on: it is not signalled, its input does not end, and its
// output is read.
func TestExecThatIsDetached(t *testing.T) {
	wrote, goOn := make(chan error, 1), make(chan struct{})
	inputEnded := make(chan struct{})
	r := newRig(t, program(func(_ context.Context, p *vmmfake.Process) int {
		go func() { _, _ = io.Copy(io.Discard, p.Stdin); close(inputEnded) }()
		<-goOn
		_, err := p.Stdout.Write(make([]byte, 4<<20)) // far more than waits anywhere
		select {
		case <-inputEnded:
			err = fmt.Errorf("its input has ended (%v)", err)
		default:
		}
		wrote <- err
		return 0
	}), "sleep", "infinity")
	_, _, m := r.started()
	gone, _ := r.client()
	id, in, out, errOut := execute(t, gone, "prog")
	if err := gone.Detach(t.Context(), id); err != nil {
		t.Error(err)
	}
	for _, s := range []interface{ Abort(error) error }{in, out, errOut} {
		if err := s.Abort(errs.New(errs.Canceled, "detached")); err != nil {
			t.Error(err)
		}
	}
	_ = gone.Close()
	close(goOn)
	if err := <-wrote; err != nil {
		t.Error(err)
	}
	<-inputEnded
	forgotten(t, m)
}

// stubAgent takes signals, of which SIGKILL ends a process.
type stubAgent struct {
	agentproto.Agent
	notify func(string, any) error

	mu    sync.Mutex
	heard []agentproto.Signal
	at    []time.Time
}

func (*stubAgent) Start(context.Context, agentproto.Start) (agentproto.Started, error) {
	return agentproto.Started{PID: 2}, nil
}

func (*stubAgent) Release(context.Context, agentproto.Release) (agentproto.Empty, error) {
	return agentproto.Empty{}, nil
}

func (a *stubAgent) Signal(_ context.Context, s agentproto.Signal) (agentproto.Empty, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.heard, a.at = append(a.heard, s), append(a.at, time.Now())
	if s.Signal == agentproto.SIGKILL && len(a.heard) > 2 {
		return agentproto.Empty{}, a.notify(agentproto.NoticeExit, agentproto.Exit{ID: s.ID, Code: 137})
	}
	return agentproto.Empty{}, nil
}

// A process that SIGHUP does not end is killed, and killed again where the machine
// did not take that.
func TestHangUpEndsInKill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host, guest := net.Pipe()
		a := &stubAgent{}
		srv := agentproto.NewServer(a, "", nil, func(_ context.Context, notify func(string, any) error) { a.notify = notify })
		served := make(chan error)
		go func() { served <- srv.ServeConn(t.Context(), guest) }()
		s := &shim{ctx: t.Context(), final: make(chan struct{})}
		agent, err := agentproto.NewClient(t.Context(), host, agentproto.Notices{Exit: s.execs.end})
		if err != nil {
			t.Fatal(err)
		}
		owner, leave := context.WithCancel(t.Context())
		e, err := s.startExec(t.Context(), owner, agent, agentproto.Start{ID: "exec-1"}, hangUpLimit)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		leave()
		s.tasks.Wait()
		if e.exit.Code != 137 {
			t.Errorf("it ended with %+v, %v", e.exit, e.lost)
		}
		want := []agentproto.Signal{{ID: "exec-1", Signal: 1, Group: true}, {ID: "exec-1", Signal: 9, Group: true}, {ID: "exec-1", Signal: 9, Group: true}}
		if !slices.Equal(a.heard, want) {
			t.Errorf("it was sent %+v", a.heard)
		}
		if d := a.at[1].Sub(begin); d != hangUpLimit {
			t.Errorf("SIGKILL after %s", d)
		}
		if len(s.execs.byID) > 0 {
			t.Errorf("kept: %v", s.execs.byID)
		}
		_ = agent.Close()
		<-served
	})
}

// A guest that floods its shim with notices has a bounded cost, and loses its own.
func TestNoticesWithoutEnd(t *testing.T) {
	var r relays
	ctx := t.Context()
	one, err := r.reserve(ctx, state.Relay{Direction: string(agentproto.Into), Source: "/a", Destination: "/b"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100_000 {
		r.accepted(agentproto.Accepted{Relay: one.id, Token: fmt.Sprint(i)})
		r.accepted(agentproto.Accepted{Relay: "relay-9", Token: "x"})
		r.accepted(agentproto.Accepted{Relay: one.id, Token: string(make([]byte, maxToken+1))})
	}
	if n := len(one.accepted); n != maxAccepted {
		t.Errorf("%d connections wait", n)
	}
	oom := make(chan agentproto.OOM, 1)
	for i := range 1000 {
		replace(oom, agentproto.OOM{Kills: uint64(i)})
	}
	if o := <-oom; o.Kills != 999 {
		t.Errorf("the latest is %+v", o)
	}
}
