// Package vmmtest is the suite that every vmm.Driver passes, the one in memory
// included. It says in tests what package vmm says in words.
//
// Boots are dear (seconds, where machines are emulated), so the rows share two
// machines that run at once, and a third that is stopped before its agent
// answers. The rows of one machine run in order; a row that fails does not keep
// the next from running, unless there is no machine left to run it on.
package vmmtest

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/vmm"
)

// Harness is a driver under test and what its machines need.
type Harness struct {
	// Origin is how machines have to have come to be; "": the driver does not tell.
	Origin vmm.Origin
	Driver vmm.Driver
	// Config is the base of every machine: all but Name, Console and Disks.
	Config vmm.Config
	// Root is a read-only root filesystem (erofs) with busybox's echo, cat,
	// sleep, true and false in /bin. It is not written to.
	Root string
	// Blank is an empty ext4 image, of which the suite makes copies; "" keeps
	// the changes in memory.
	Blank string

	// Shell: /bin/sh, mknod and dd are in Root and are executed.
	Shell bool
	// Console: the driver writes Config.Console.
	Console bool
	// Leftovers, where set, answers what is left of machines on this host:
	// processes, sockets, files. It must be empty when none runs.
	Leftovers func() []string
	// GuestDial, where set, connects from inside m to a host port.
	GuestDial func(m vmm.Machine, port uint32) (net.Conn, error)
	// Sockets is the program in the container that uses virtual sockets: "Sockets
	// echo PORT" prints "listening", answers what it is told on that port, and ends
	// with its standard input; "Sockets dial PORT TEXT" tells the host's port the
	// text and prints as many bytes of the answer. "" has no such program.
	Sockets string
	// SocketsFile is its file on this host, which is copied into the container; "":
	// it is there.
	SocketsFile string
	// Limit is how long one step may take, a boot to the agent included; 0 is a
	// minute.
	Limit time.Duration
}

// Run is the suite.
func Run(t *testing.T, h Harness) {
	if h.Limit == 0 {
		h.Limit = time.Minute
	}
	s := &suite{Harness: h}
	t.Run("describe", s.describe)
	t.Run("refuse", s.refuse)
	t.Run("stop", s.stop)
	s.shared(t)
	t.Run("prepare", s.prepare)
	t.Run("leave nothing", s.leaveNothing)
}

type suite struct{ Harness }

// shared runs the rows of the two machines. A has its disks from the start and
// is killed; B gets its root while it runs, where the driver can, and is
// powered off by its agent.
func (s *suite) shared(t *testing.T) {
	rootBefore := sum(t, s.Root)
	a, b := s.newBox(t, "a"), s.newBox(t, "b")
	t.Run("boot", func(t *testing.T) {
		cfgA := s.config(t, "a")
		cfgA.Disks, cfgA.Vsock, cfgA.Cards = s.disks(t, a), true, 1
		a.interfaces = []agentproto.Interface{cardInterface()}
		a.boot(t, cfgA)
		cfgB := s.config(t, "b")
		if _, ok := a.m.(vmm.Attacher); !ok {
			cfgB.Disks = s.disks(t, b)
		}
		b.boot(t, cfgB)
	})
	if a.m == nil || b.m == nil {
		t.Fatal("no machines to go on with")
	}
	t.Run("dial is cancelled", a.dialCancelled)
	t.Run("greet", a.greet)
	if a.agent == nil {
		t.Fatal("no agent to go on with")
	}
	for _, r := range []struct {
		name string
		row  func(*testing.T)
	}{
		{"dial a port nobody listens on", a.dialNobody},
		{"set up", a.setUp},
		{"run true and false", a.exitCodes},
		{"run echo", a.echo},
		{"run what is not there", a.unknownExecutable},
		{"end by signal", a.signalled},
		{"stream both ways", a.stream},
		{"reader goes away", a.readerGone},
		{"guest dials host", a.guestDials},
		{"network card", a.card},
		{"pause", a.pause},
		{"virtual sockets", a.vsock},
		{"virtual sockets both ways", a.vsockBothWays},
		{"no virtual sockets", b.noVsock},
		{"write to a read-only disk", a.writeReadOnly},
		{"attach a disk", b.attach},
		{"reset and adopt", b.adopt},
		{"two machines are two", func(t *testing.T) { a.apart(t, b) }},
		{"kill", a.kill},
		{"power off", b.powerOff},
		{"console", b.console},
	} {
		t.Run(r.name, r.row)
	}
	if sum(t, s.Root) != rootBefore {
		t.Errorf("the read-only root %s has changed", s.Root)
	}
}

func (s *suite) describe(t *testing.T) {
	d, ok := s.Driver.(vmm.Describer)
	if !ok {
		t.Skip("the driver does not describe itself")
	}
	got := d.Describe(s.limit(t))
	t.Logf("%+v", got)
	if got.Driver == "" || got.Version == "" || got.Acceleration == "" || got.Reason == "" {
		t.Errorf("incomplete: %+v", got)
	}
	if len(got.Problems) > 0 {
		t.Errorf("problems: %q", got.Problems)
	}
}

// limit is a context for one step.
func (s *suite) limit(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), s.Limit)
	t.Cleanup(cancel)
	return ctx
}

// config is a machine without disks.
func (s *suite) config(t *testing.T, name string) *vmm.Config {
	cfg := s.Config
	cfg.Name = "suite-" + name
	cfg.Disks = nil
	cfg.Console = filepath.Join(t.TempDir(), "console.log")
	return &cfg
}

// disks are the root and, where there is one, a writable layer of its own.
func (s *suite) disks(t *testing.T, b *box) []vmm.Disk {
	ds := []vmm.Disk{{ID: rootID, Path: s.Root, ReadOnly: true}}
	if s.Blank == "" {
		return ds
	}
	upper := filepath.Join(b.dir, "upper.img")
	if err := copyFile(upper, s.Blank); err != nil {
		t.Fatal(err)
	}
	return append(ds, vmm.Disk{ID: upperID, Path: upper})
}

func (s *suite) leaveNothing(t *testing.T) {
	if s.Leftovers == nil {
		t.Skip("the harness does not look")
	}
	if left := s.Leftovers(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// refuse boots what cannot be booted.
func (s *suite) refuse(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	for _, c := range []struct {
		name  string
		spoil func(*vmm.Config)
		check bool // the driver's Check says so, too
	}{
		{"no cpus", func(c *vmm.Config) { c.CPUs = 0 }, true},
		{"no memory", func(c *vmm.Config) { c.Memory = 0 }, true},
		{"odd memory", func(c *vmm.Config) { c.Memory++ }, true},
		{"no kernel", func(c *vmm.Config) { c.Kernel = "" }, true},
		{"missing kernel", func(c *vmm.Config) { c.Kernel = missing }, false},
		{"missing initramfs", func(c *vmm.Config) { c.Initramfs = missing }, false},
		{"same disk id twice", func(c *vmm.Config) {
			c.Disks = []vmm.Disk{{ID: "x", Path: s.Root, ReadOnly: true}, {ID: "x", Path: s.Root, ReadOnly: true}}
		}, true},
		{"bad disk id", func(c *vmm.Config) { c.Disks = []vmm.Disk{{ID: "A,b", Path: s.Root, ReadOnly: true}} }, true},
		{"missing disk", func(c *vmm.Config) { c.Disks = []vmm.Disk{{ID: "x", Path: missing}} }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := s.config(t, "refused")
			c.spoil(cfg)
			if err := s.Driver.Check(cfg); c.check && err == nil {
				t.Error("Check finds nothing wrong")
			}
			if m, err := s.Driver.Boot(s.limit(t), cfg); err == nil {
				end(t, m)
				t.Error("it booted")
			}
			if _, err := os.Stat(missing); err == nil {
				t.Error("the missing file was made")
			}
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if m, err := s.Driver.Boot(ctx, s.config(t, "cancelled")); err == nil {
			end(t, m)
			t.Error("it booted")
		}
	})
	if s.Leftovers != nil {
		if left := s.Leftovers(); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	}
}
