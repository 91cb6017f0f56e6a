//go:build linux

package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
)

// waiting answers the spare stage, which stays where it is.
func (b *bench) waiting() *stageProcess {
	b.t.Helper()
	s := b.agent.spare
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stage == nil {
		b.t.Fatalf("no spare stage waits: %s", b.agent.log.bytes())
	}
	return s.stage
}

// startInit answers the pid of the container's process.
func (b *bench) startInit(spec *specs.Spec) int {
	b.t.Helper()
	s, err := b.host.Start(b.ctx(), agentproto.Start{ID: "init", Spec: spec})
	if err != nil {
		b.t.Fatal(err)
	}
	return s.PID
}

func (b *bench) endInit() {
	b.t.Helper()
	if err := b.host.Signal(b.ctx(), agentproto.Signal{ID: "init", Signal: 9}); err != nil {
		b.t.Fatal(err)
	}
	if e := <-b.exits; e.ID != "init" {
		b.t.Fatalf("%+v", e)
	}
	if err := b.host.Release(b.ctx(), "init"); err != nil {
		b.t.Fatal(err)
	}
}

func TestSpareIsUsedOnce(t *testing.T) {
	b := newBench(t)
	spare := b.waiting().child.pid
	if pid := b.startInit(containerSpec([]string{"sleep", "1000"})); pid != spare {
		t.Errorf("the container is process %d, the spare stage was %d", pid, spare)
	}
	if b.agent.spare.take() != nil {
		t.Error("a spare stage is left beside the container")
	}
	b.endInit()
	if pid := b.startInit(containerSpec([]string{"sleep", "1000"})); pid == spare {
		t.Errorf("process %d again", pid)
	}
}

// The pid namespace is all that a spare stage has of the container's.
func TestSpareForFewNamespaces(t *testing.T) {
	b := newBench(t)
	spare := b.waiting().child.pid
	pid := b.startInit(containerSpec([]string{"sleep", "1000"}, func(s *specs.Spec) {
		s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "mount"}, {Type: "pid"}}
	}))
	if pid != spare {
		t.Errorf("process %d, want %d", pid, spare)
	}
	for name, same := range map[string]bool{"uts": true, "ipc": true, "cgroup": true, "net": true, "mnt": false, "pid": false} {
		ours, err := os.Readlink("/proc/self/ns/" + name)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
		if err != nil || (ours == theirs) != same {
			t.Errorf("%s: %s, ours is %s: %v", name, theirs, ours, err)
		}
	}
}

func TestSpareThatDied(t *testing.T) {
	b := newBench(t)
	s := b.waiting()
	if err := s.child.signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-s.child.reaped
	if pid := b.startInit(containerSpec([]string{"sleep", "1000"})); pid == s.child.pid {
		t.Errorf("process %d is dead", pid)
	}
	b.endInit() // its end holds up no other's
}

// A stage without an agent has no reason to be.
func TestStageEndsWithItsSocket(t *testing.T) {
	b := newBench(t)
	s := b.waiting()
	_ = s.socket.Close()
	<-s.child.reaped
	if ws := s.child.status; ws.Signaled() {
		t.Errorf("ended by %s", describe(ws))
	}
	b.startInit(containerSpec([]string{"sleep", "1000"}))
}

func TestSpareThatCannotBe(t *testing.T) {
	b := newBench(t)
	a := newAgent(b.agent.log.born)
	a.reaper, a.exe = b.agent.reaper, "/nowhere"
	a.keepSpare(a.spare)
	<-a.spare.ready
	if !strings.Contains(string(a.log.bytes()), "spare stage: fork") || a.spare.take() != nil {
		t.Errorf("%s", a.log.bytes())
	}
	late := newAgent(b.agent.log.born)
	late.reaper = b.agent.reaper
	late.spare.take()
	late.keepSpare(late.spare) // nobody wants it
	<-late.spare.ready
	if late.spare.take() != nil || len(late.log.bytes()) != 0 {
		t.Errorf("%s", late.log.bytes())
	}
}

func TestSpareSeesLaterMounts(t *testing.T) {
	b := newBench(t)
	spare := b.waiting().child.pid
	at := filepath.Join(b.root, "tmp")
	if err := unix.Mount("tmpfs", at, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	}()
	writeFile(t, filepath.Join(at, "late"), "mounted\n", 0o644)
	out := b.collect("o")
	s, err := b.host.Start(b.ctx(), agentproto.Start{ID: "init", Spec: containerSpec([]string{"cat", "/tmp/late"}), Stdout: "o"})
	if err != nil {
		t.Fatal(err)
	}
	if s.PID != spare {
		t.Errorf("process %d, want %d", s.PID, spare)
	}
	if text := <-out; text != "mounted\n" {
		t.Errorf("%q", text)
	}
	<-b.exits // the mount is free
}

// A stage is in the agent's cgroup until it has orders.
func TestSpareEntersTheCgroup(t *testing.T) {
	b := newBench(t)
	spare := b.waiting().child.pid
	cgroupOf := func(file string) string {
		t.Helper()
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for l := range strings.Lines(string(text)) {
			if p, ok := strings.CutPrefix(l, "0::"); ok {
				return strings.TrimSpace(p)
			}
		}
		t.Fatalf("%s: %s", file, text)
		return ""
	}
	if ours, its := cgroupOf("/proc/self/cgroup"), cgroupOf(fmt.Sprintf("/proc/%d/cgroup", spare)); ours != its {
		t.Errorf("the spare stage is in %s, we are in %s", its, ours)
	}
	b.startInit(containerSpec([]string{"sleep", "1000"}))
	dir := b.agent.container.cgroup.dir
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil || string(procs) != fmt.Sprintf("%d\n", spare) {
		t.Errorf("%q %v", procs, err)
	}
	if its := cgroupOf(fmt.Sprintf("/proc/%d/cgroup", spare)); filepath.Base(its) != filepath.Base(dir) {
		t.Errorf("the container is in %s, not %s", its, dir)
	}
}

func TestPowerOffEndsTheSpare(t *testing.T) {
	b := newBench(t)
	s := b.waiting()
	off := make(chan struct{})
	b.agent.off = func() { close(off) }
	if err := b.host.PowerOff(b.ctx()); err != nil {
		t.Fatal(err)
	}
	<-off
	<-s.child.reaped
	if text := string(b.agent.log.bytes()); text != "" {
		t.Errorf("%s", text)
	}
}

// What the drill exercises is what a host sends.
func TestSampleOrders(t *testing.T) {
	o, err := newAgent(testTime()).sampleOrders()
	if err != nil {
		t.Fatal(err)
	}
	c := o.Container
	if c == nil || len(c.Mounts) == 0 || c.resources == nil || c.Namespaces != unix.CLONE_NEWNS|unix.CLONE_NEWUTS|unix.CLONE_NEWIPC|unix.CLONE_NEWCGROUP ||
		len(o.Process.Rlimits) == 0 || !slices.Equal(o.Process.Args, []string{"a"}) {
		t.Errorf("%+v", o)
	}
}
