package vmmtest

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm"
)

const (
	deadPort = 7 // on which no machine listens
	hostPort = 5000
)

// end puts a machine away, whatever its state.
func end(t *testing.T, m vmm.Machine) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
	defer cancel()
	if err := m.Stop(ctx); err != nil {
		t.Errorf("stop machine: %v", err)
	}
}

// stop ends a machine whose agent nobody has waited for.
func (s *suite) stop(t *testing.T) {
	ctx := s.limit(t)
	m, err := s.Driver.Boot(ctx, s.config(t, "stopped"))
	if err != nil {
		t.Fatal(err)
	}
	defer end(t, m)
	wctx, cancel := context.WithCancel(ctx)
	cancel()
	if err := m.Wait(wctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled Wait answers %v", err)
	}
	waiting := make(chan error, 1)
	go func() {
		_, err := m.Dial(ctx, deadPort)
		waiting <- err
	}()
	if err := m.Stop(ctx); err != nil {
		t.Fatalf("stop: %v", err)
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	for range 16 { // a Wait that lets select choose answers rightly half the time
		if err := m.Wait(over); err != nil {
			t.Fatalf("Stop did not wait, or Wait does not answer at once: %v", err)
		}
	}
	if err := <-waiting; !errs.Is(err, errs.Unavailable) {
		t.Errorf("a dial that waited answers %v, want class unavailable", err)
	}
	goneForGood(ctx, t, m)
}

// goneForGood is what is true of every machine after its orderly end.
func goneForGood(ctx context.Context, t *testing.T, m vmm.Machine) {
	t.Helper()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 2 {
				if err := m.Wait(ctx); err != nil {
					t.Errorf("Wait answers %v", err)
				}
			}
		})
	}
	all.Wait()
	if _, err := m.Dial(ctx, vmm.AgentPort); !errs.Is(err, errs.Unavailable) {
		t.Errorf("Dial answers %v, want class unavailable", err)
	}
	if l, err := m.Listen(hostPort); !errs.Is(err, errs.Unavailable) {
		if err == nil {
			_ = l.Close()
		}
		t.Errorf("Listen answers %v, want class unavailable", err)
	}
	if err := m.Kill(); err != nil {
		t.Errorf("Kill answers %v", err)
	}
	if err := m.Stop(ctx); err != nil {
		t.Errorf("Stop answers %v", err)
	}
}

// dialCancelled gives up a dial at once. The machine may not have come up yet,
// or have, with nobody on the port: both are an error, and neither may hang.
func (b *box) dialCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(b.s.limit(t))
	cancel()
	c, err := b.m.Dial(ctx, vmm.AgentPort)
	if err == nil {
		_ = c.Close()
		t.Fatal("it connected")
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

// dialNobody expects a refusal long before the limit.
func (b *box) dialNobody(t *testing.T) {
	ctx := b.s.limit(t)
	_, err := b.m.Dial(ctx, deadPort)
	if !errs.Is(err, errs.Unavailable) || ctx.Err() != nil {
		t.Errorf("got %v, want class unavailable", err)
	}
}

func (b *box) guestDials(t *testing.T) {
	if b.s.GuestDial == nil {
		t.Skip("the harness has no way to dial from the machine")
	}
	if _, err := b.s.GuestDial(b.m, hostPort); err == nil {
		t.Error("connected to a port on which nobody listens")
	}
	l, err := b.m.Listen(hostPort)
	if err != nil {
		t.Fatal(err)
	}
	echoed := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = io.CopyN(c, c, 5)
			err = errors.Join(err, c.Close())
		}
		echoed <- err
	}()
	c, err := b.s.GuestDial(b.m, hostPort)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(b.s.Limit))
	got := make([]byte, 5)
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := <-echoed; err != nil {
		t.Error(err)
	}
	accept := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		accept <- err
	}()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := <-accept; err == nil {
		t.Error("Accept answered a connection after Close")
	}
	if _, err := b.s.GuestDial(b.m, hostPort); err == nil {
		t.Error("connected after Close")
	}
}

// console expects the kernel's last words in the console's file of a machine
// that has powered off: it was written to from the beginning to the end.
func (b *box) console(t *testing.T) {
	if !b.s.Console {
		t.Skip("the driver has no console")
	}
	text, err := os.ReadFile(b.consoleFile)
	if err != nil || !strings.Contains(string(text), "Power down") {
		t.Errorf("no word of the kernel's end on the console (%v): %q", err, text)
	}
}

// attach plugs B's disks in, and the agent finds them by their IDs.
func (b *box) attach(t *testing.T) {
	if a, ok := b.m.(vmm.Attacher); ok {
		for _, d := range b.s.disks(t, b) {
			if err := a.AttachDisk(b.s.limit(t), d); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.AttachDisk(b.s.limit(t), vmm.Disk{ID: "no good", Path: b.s.Root}); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("a bad id: got %v", err)
		}
	}
	b.greet(t)
	b.setUp(t)
	b.exitCodes(t)
	if _, ok := b.m.(vmm.Attacher); !ok {
		t.Skip("the driver does not plug disks into a running machine; it had them from the start")
	}
}

// adopt makes B another's: what was in it is gone, and it works as it did.
func (b *box) adopt(t *testing.T) {
	a, ok := b.m.(vmm.Adopter)
	if !ok || b.s.Blank == "" {
		t.Skip("the driver's machines stay what they were booted as, or there is nothing to write to")
	}
	ctx := b.s.limit(t)
	if b.s.Shell {
		if r, err := b.run(t, nil, nil, "touch", "/of-before"); err != nil || r.exit.Code != 0 {
			t.Fatalf("touch: %+v, %v", r, err)
		}
		<-b.exits
	}
	if err := b.agent.Reset(ctx); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("reset while the container runs: got %v, want class failed precondition", err)
	}
	if err := b.agent.Signal(ctx, agentproto.Signal{ID: agentproto.InitID, Signal: 9}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.agent.Wait(ctx, agentproto.InitID); err != nil {
		t.Fatal(err)
	}
	<-b.exits
	if err := b.agent.Release(ctx, agentproto.InitID); err != nil {
		t.Fatal(err)
	}
	if err := b.agent.Reset(ctx); err != nil {
		t.Fatal(err)
	}
	cfg := b.s.config(t, "b")
	cfg.Console = filepath.Join(b.dir, "console.adopted")
	b.consoleFile = cfg.Console
	b.dir = t.TempDir() // for another disk
	cfg.Disks = b.s.disks(t, b)
	cfg.CPUs++
	if err := a.Adopt(ctx, cfg); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("a machine with more processors: got %v, want class failed precondition", err)
	}
	cfg.CPUs--
	if err := a.Adopt(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	b.setUp(t)
	b.exitCodes(t)
	if b.s.Shell {
		if r, err := b.run(t, nil, nil, "cat", "/of-before"); err != nil || r.exit.Code == 0 {
			t.Errorf("what was written before is there: %+v, %v", r, err)
		}
		<-b.exits
	}
	b.adoptAgain(t, a, cfg)
}

// adoptAgain gives the machine what it has, by another name: nothing changes for
// what runs in it.
func (b *box) adoptAgain(t *testing.T, a vmm.Adopter, cfg *vmm.Config) {
	next := *cfg
	next.Disks = slices.Clone(cfg.Disks)
	for i, d := range next.Disks {
		if d.ReadOnly {
			continue
		}
		next.Disks[i].Path = d.Path + ".moved"
		if err := os.Rename(d.Path, next.Disks[i].Path); err != nil {
			t.Fatal(err)
		}
	}
	if b.s.Shell {
		if r, err := b.run(t, nil, nil, "touch", "/of-before"); err != nil || r.exit.Code != 0 {
			t.Fatalf("touch: %+v, %v", r, err)
		}
		<-b.exits
	}
	if err := a.Adopt(b.s.limit(t), &next); err != nil {
		t.Fatal(err)
	}
	if b.s.Shell {
		if r, err := b.run(t, nil, nil, "sh", "-c", "sync && cat /of-before"); err != nil || r.exit.Code != 0 {
			t.Errorf("what was written before: %+v, %v", r, err)
		}
		<-b.exits
	}
}

// apart sees to it that what is in one machine is not in the other.
func (b *box) apart(t *testing.T, other *box) {
	ctx := b.s.limit(t)
	b.start(t, "only-here", "sleep", "1000")
	if _, err := other.agent.Wait(ctx, "only-here"); !errs.Is(err, errs.NotFound) {
		t.Errorf("the other machine answers %v for a process of this one", err)
	}
	if b.s.GuestDial != nil {
		l, err := b.m.Listen(hostPort)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if c, err := b.s.GuestDial(other.m, hostPort); err == nil {
			_ = c.Close()
			t.Error("the other machine reached a listener of this one")
		}
	}
}

// kill ends A: all that is open breaks, and B does not notice.
func (b *box) kill(t *testing.T) {
	ctx := b.s.limit(t)
	idle, err := b.m.Dial(ctx, vmm.AgentPort)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	read := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, idle)
		read <- err // EOF or a reset: either is an end
	}()
	call := make(chan error, 1)
	go func() {
		_, err := b.agent.Wait(ctx, "init")
		call <- err
	}()
	for range 2 {
		if err := b.m.Kill(); err != nil {
			t.Fatalf("kill: %v", err)
		}
	}
	if err := b.m.Wait(ctx); err != nil {
		t.Errorf("Wait after Kill answers %v", err)
	}
	select {
	case <-read:
	case <-ctx.Done():
		t.Error("a connection outlived the machine")
	}
	if err := <-call; !errs.Is(err, errs.Unavailable) {
		t.Errorf("a call under way answers %v, want class unavailable", err)
	}
	goneForGood(ctx, t, b.m)
	b.agent.Close()
}

func (b *box) powerOff(t *testing.T) {
	if b.agent == nil {
		t.Skip("no agent to ask")
	}
	ctx := b.s.limit(t)
	waits := make(chan error, 3)
	for range cap(waits) {
		go func() { waits <- b.m.Wait(ctx) }()
	}
	if err := b.agent.PowerOff(ctx); err != nil && !errs.Is(err, errs.Unavailable) {
		t.Errorf("power off: %v", err)
	}
	for range cap(waits) {
		if err := <-waits; err != nil {
			t.Errorf("Wait answers %v", err)
		}
	}
	goneForGood(ctx, t, b.m)
	b.agent.Close()
}
