package vmmfake_test

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/wire"
	"github.com/vzcompose/vzcompose/vmm"
	"github.com/vzcompose/vzcompose/vmm/vmmfake"
)

func boot(t *testing.T, d *vmmfake.Driver, cfg vmm.Config) *vmmfake.Machine {
	t.Helper()
	m, err := d.Boot(t.Context(), &cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return m.(*vmmfake.Machine)
}

// greeted answers the agent of a machine with a running container.
func greeted(t *testing.T, m *vmmfake.Machine, args ...string) *agentproto.Client {
	t.Helper()
	c, err := m.Dial(t.Context(), vmm.AgentPort)
	if err != nil {
		t.Fatal(err)
	}
	agent, err := agentproto.NewClient(t.Context(), c, agentproto.Notices{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { agent.Close() })
	if _, err := agent.Setup(t.Context(), agentproto.Setup{Entropy: make([]byte, 32), Root: agentproto.Root{Lower: "root"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := agent.Start(t.Context(), initStart(args...)); err != nil {
		t.Fatal(err)
	}
	return agent
}

func initStart(args ...string) agentproto.Start {
	return agentproto.Start{ID: agentproto.InitID, Stdin: "in", Stdout: "out", Stderr: "err",
		Spec: &specs.Spec{Root: &specs.Root{Path: agentproto.RootPath}, Process: &specs.Process{Args: args}}}
}

func open(t *testing.T, m *vmmfake.Machine, token string) *wire.Stream {
	t.Helper()
	c, err := m.Dial(t.Context(), vmm.AgentPort)
	if err != nil {
		t.Fatal(err)
	}
	s, err := agentproto.OpenStream(t.Context(), c, token)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestCrashIsWhatWaitAnswers(t *testing.T) {
	d := vmmfake.New(vmmfake.Options{})
	m := boot(t, d, config(t))
	agent := greeted(t, m, "sleep", "infinity")
	crash := errors.New("power supply on fire")
	m.Crash(crash)
	for range 2 {
		if err := m.Wait(t.Context()); err != crash {
			t.Errorf("got %v", err)
		}
	}
	<-agent.Done()
	if err := agent.Err(); !errs.Is(err, errs.Unavailable) {
		t.Errorf("got %v", err)
	}
	if len(d.Machines()) != 0 || d.Booted() != 1 {
		t.Errorf("%d machines, %d booted", len(d.Machines()), d.Booted())
	}
}

func TestPanicIsOnTheConsole(t *testing.T) {
	cfg := config(t)
	cfg.Console = place(t, "console")
	m := boot(t, vmmfake.New(vmmfake.Options{}), cfg)
	greeted(t, m, "sleep", "infinity")
	m.Panic("attempted to kill init")
	if err := m.Wait(t.Context()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("got %v", err)
	}
	if text, _ := os.ReadFile(cfg.Console); !strings.HasSuffix(string(text), "Kernel panic - not syncing: attempted to kill init\n") {
		t.Errorf("console: %q", text)
	}
}

func TestBootFails(t *testing.T) {
	want := errors.New("no more machines")
	d := vmmfake.New(vmmfake.Options{Boot: func(context.Context, *vmm.Config) error { return want }})
	cfg := config(t)
	if _, err := d.Boot(t.Context(), &cfg); !errors.Is(err, want) {
		t.Errorf("got %v", err)
	}
	if len(d.Machines()) != 0 {
		t.Error("a machine is left")
	}
}

func TestDialWaitsForALateAgent(t *testing.T) {
	cfg := config(t)
	synctest.Test(t, func(t *testing.T) {
		d := vmmfake.New(vmmfake.Options{Ready: func(ctx context.Context, _ *vmmfake.Machine) error {
			select {
			case <-time.After(3 * time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}})
		m := boot(t, d, cfg)
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := m.Dial(ctx, vmm.AgentPort); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		c, err := m.Dial(t.Context(), vmm.AgentPort)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if d := time.Since(begin); d != 3*time.Second {
			t.Errorf("it answered after %v", d)
		}
	})
}

func TestKillWhileBooting(t *testing.T) {
	cfg := config(t)
	synctest.Test(t, func(t *testing.T) {
		m := boot(t, vmmfake.New(vmmfake.Options{Ready: func(ctx context.Context, _ *vmmfake.Machine) error {
			<-ctx.Done()
			return ctx.Err()
		}}), cfg)
		dialled := make(chan error)
		go func() { _, err := m.Dial(t.Context(), vmm.AgentPort); dialled <- err }()
		synctest.Wait()
		m.Kill()
		if err := <-dialled; !errs.Is(err, errs.Unavailable) {
			t.Errorf("got %v", err)
		}
		if err := m.Wait(t.Context()); err != nil {
			t.Errorf("got %v", err)
		}
	})
}

func TestSleepTakesItsTime(t *testing.T) {
	cfg := config(t)
	synctest.Test(t, func(t *testing.T) {
		m := boot(t, vmmfake.New(vmmfake.Options{}), cfg)
		begin := time.Now()
		agent := greeted(t, m, "/bin/sleep", "1.5")
		e, err := agent.Wait(t.Context(), agentproto.InitID)
		if err != nil || e.Code != 0 || time.Since(begin) != 1500*time.Millisecond {
			t.Errorf("got %+v, %v after %v", e, err, time.Since(begin))
		}
	})
}

func TestADiskHasOneWriter(t *testing.T) {
	d := vmmfake.New(vmmfake.Options{})
	cfg := config(t)
	cfg.Disks = append(cfg.Disks, vmm.Disk{ID: "upper", Path: place(t, "upper")})
	m := boot(t, d, cfg)
	if _, err := d.Boot(t.Context(), &cfg); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("a second writer: got %v", err)
	}
	if err := m.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	boot(t, d, cfg)
}

func TestSetUpWaitsForADisk(t *testing.T) {
	cfg := config(t)
	disk := cfg.Disks[0]
	cfg.Disks = nil
	synctest.Test(t, func(t *testing.T) {
		m := boot(t, vmmfake.New(vmmfake.Options{}), cfg)
		done := make(chan struct{})
		go func() { greeted(t, m, "true"); close(done) }()
		synctest.Wait()
		if err := m.AttachDisk(t.Context(), disk); err != nil {
			t.Error(err)
		}
		<-done
		if err := m.DetachDisk(t.Context(), "other"); !errs.Is(err, errs.NotFound) {
			t.Errorf("got %v", err)
		}
		if err := m.DetachDisk(t.Context(), disk.ID); err != nil {
			t.Error(err)
		}
	})
}

func TestOutputWaitsAndIsTakenUpAgain(t *testing.T) {
	m := boot(t, vmmfake.New(vmmfake.Options{}), config(t))
	agent := greeted(t, m, "cat")
	in := open(t, m, "in")
	if _, err := io.WriteString(in, "one\n"); err != nil {
		t.Fatal(err)
	}
	out := open(t, m, "out") // later than what was written
	if b := make([]byte, 4); readFull(t, out, b) != "one\n" {
		t.Errorf("got %q", b)
	}
	out.Close()
	in.Close() // cut off: not the end of stdin
	again := open(t, m, "out")
	in = open(t, m, "in")
	if _, err := io.WriteString(in, "two\n"); err != nil {
		t.Fatal(err)
	}
	if err := in.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(again); err != nil || string(b) != "two\n" {
		t.Errorf("got %q, %v", b, err)
	}
	if e, err := agent.Wait(t.Context(), agentproto.InitID); err != nil || e.Code != 0 {
		t.Errorf("got %+v, %v", e, err)
	}
	// After the end there is an end to read, as often as one asks.
	if b, err := io.ReadAll(open(t, m, "out")); err != nil || len(b) != 0 {
		t.Errorf("got %q, %v", b, err)
	}
}

func readFull(t *testing.T, r io.Reader, b []byte) string {
	t.Helper()
	if _, err := io.ReadFull(r, b); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestSignals(t *testing.T) {
	m := boot(t, vmmfake.New(vmmfake.Options{Programs: map[string]vmmfake.Program{
		"polite": func(ctx context.Context, p *vmmfake.Process) int {
			term := p.Trap(15)
			io.WriteString(p.Stdout, "ready\n")
			select {
			case n := <-term:
				return n
			case <-ctx.Done():
				return 0
			}
		},
		"hungry": func(ctx context.Context, p *vmmfake.Process) int {
			p.OutOfMemory()
			<-ctx.Done()
			return 0
		},
	}}), config(t))
	agent := greeted(t, m, "stubborn")
	for _, id := range []string{"polite", "hungry", "cat"} { // cat has no stdin: it ends at once
		if _, err := agent.Start(t.Context(), agentproto.Start{ID: id, Stdout: id, Process: &specs.Process{Args: []string{id}}}); err != nil {
			t.Fatal(err)
		}
	}
	for id, want := range map[string]agentproto.Exit{
		"polite": {Code: 15}, "hungry": {Code: 137, Signal: 9, OOM: true}, "cat": {Code: 0},
	} {
		if id == "polite" {
			readFull(t, open(t, m, "polite"), make([]byte, 6))
			if err := agent.Signal(t.Context(), agentproto.Signal{ID: id, Signal: 15}); err != nil {
				t.Error(err)
			}
		}
		e, err := agent.Wait(t.Context(), id)
		e.ID, e.At = "", time.Time{}
		if err != nil || e != want {
			t.Errorf("%s: got %+v, %v", id, e, err)
		}
	}
	readFull(t, open(t, m, "out"), make([]byte, 6))
	for _, sig := range []int{15, 1, 9} {
		if err := agent.Signal(t.Context(), agentproto.Signal{ID: agentproto.InitID, Signal: sig}); err != nil {
			t.Error(err)
		}
	}
	if e, err := agent.Wait(t.Context(), agentproto.InitID); err != nil || e.Code != 137 {
		t.Errorf("got %+v, %v", e, err)
	}
	if _, err := agent.Start(t.Context(), agentproto.Start{ID: "late", Process: &specs.Process{Args: []string{"true"}}}); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("after the end of the container: got %v", err)
	}
}

func TestTheEndOfTheFirstIsTheEndOfAll(t *testing.T) {
	m := boot(t, vmmfake.New(vmmfake.Options{}), config(t))
	agent := greeted(t, m, "cat")
	if _, err := agent.Start(t.Context(), agentproto.Start{ID: "other", Process: &specs.Process{Args: []string{"sleep", "infinity"}}}); err != nil {
		t.Fatal(err)
	}
	if err := open(t, m, "in").CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if e, err := agent.Wait(t.Context(), "other"); err != nil || e.Signal != 9 {
		t.Errorf("got %+v, %v", e, err)
	}
}

func TestStartRefuses(t *testing.T) {
	m := boot(t, vmmfake.New(vmmfake.Options{}), config(t))
	agent := greeted(t, m, "sleep", "infinity")
	good := specs.Process{Args: []string{"true"}}
	for name, c := range map[string]struct {
		start agentproto.Start
		want  errs.Class
	}{
		"twice":     {initStart("true"), errs.AlreadyExists},
		"bad id":    {agentproto.Start{ID: "A b", Process: &good}, errs.InvalidArgument},
		"neither":   {agentproto.Start{ID: "x"}, errs.InvalidArgument},
		"no args":   {agentproto.Start{ID: "x", Process: &specs.Process{}}, errs.InvalidArgument},
		"not there": {agentproto.Start{ID: "x", Process: &specs.Process{Args: []string{"/bin/nope"}}}, errs.NotFound},
		"token":     {agentproto.Start{ID: "x", Process: &good, Stdout: "out"}, errs.AlreadyExists},
	} {
		if _, err := agent.Start(t.Context(), c.start); !errs.Is(err, c.want) {
			t.Errorf("%s: got %v, want class %s", name, err, c.want)
		}
	}
	if err := agent.Release(t.Context(), agentproto.InitID); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("release of what runs: got %v", err)
	}
	if n := len(m.Starts()); n != 1 {
		t.Errorf("%d starts", n)
	}
}
