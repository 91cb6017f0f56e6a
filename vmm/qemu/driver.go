//go:build linux

package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/boot"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/undo"
	"github.com/vzcompose/vzcompose/vmm"
)

// Limits of phases of Boot.
const (
	monitorLimit = 30 * time.Second // from exec to QEMU's monitor
	undoLimit    = 10 * time.Second
)

// Options say how machines are made.
type Options struct {
	// Program is QEMU's path; "" finds the one for the host's architecture.
	Program string
	// Acceleration, Auto by default.
	Acceleration Acceleration
	// Templates is the folder in which templates are kept; "" keeps none, and
	// boots every machine.
	Templates string
	// TemplatesLimit bounds the folder, in bytes; 0 is DefaultTemplatesLimit.
	TemplatesLimit int64
}

// Driver boots machines with QEMU. It keeps no state but on disk.
type Driver struct{ o Options }

var (
	_ vmm.Driver    = (*Driver)(nil)
	_ vmm.Describer = (*Driver)(nil)
	_ vmm.Prober    = (*Driver)(nil)
	_ vmm.Templater = (*Driver)(nil)
	_ vmm.Preparer  = (*Driver)(nil)
)

// New allocates a driver.
func New(o Options) *Driver { return &Driver{o: o} }

func program(arch string) (name, pkg string, err error) {
	switch arch {
	case "amd64":
		return "qemu-system-x86_64", "qemu-system-x86", nil
	case "arm64":
		return "qemu-system-aarch64", "qemu-system-arm", nil
	}
	return "", "", errs.New(errs.Unsupported, "no machines on %s", arch)
}

// find answers QEMU's path.
func (d *Driver) find() (string, error) {
	name, pkg, err := program(runtime.GOARCH)
	if err != nil {
		return "", err
	}
	if d.o.Program != "" {
		name = d.o.Program
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", errs.WithHint(errs.New(errs.Unavailable, "%s is not installed", name),
			"apt-get install -y --no-install-recommends %s", pkg)
	}
	return path, nil
}

// Probe returns what keeps this host from running machines.
func (d *Driver) Probe() error {
	if _, err := d.find(); err != nil {
		return err
	}
	_, err := chooseAcceleration(d.o.Acceleration, probeKVM)
	return err
}

// Check answers what this driver cannot do of cfg.
func (d *Driver) Check(cfg *vmm.Config) error {
	if err := cfg.Check(); err != nil {
		return err
	}
	return d.Probe()
}

// Boot makes a machine: from its template, which is made if it is missing, or by
// booting its kernel where there is to be none. The booted one is there once
// QEMU's monitor answers, the restored one once its agent does.
func (d *Driver) Boot(ctx context.Context, cfg *vmm.Config) (vmm.Machine, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	p, err := d.plant()
	if err != nil {
		return nil, err
	}
	if err := p.host.nests(cfg); err != nil {
		return nil, err
	}
	if err := checkFree(cfg.Disks); err != nil {
		return nil, fmt.Errorf("boot machine %s: %w", cfg.Name, err)
	}
	t := newTracer()
	var m *machine
	if d.o.Templates == "" || cfg.Cold || cfg.Nested {
		m, err = p.boot(ctx, cfg, t)
	} else {
		m, err = p.bootWarm(ctx, cfg, t)
	}
	if err == nil && (cfg.Cards > len(m.cards) || servesDevices(cfg)) {
		if err = m.plugIn(ctx, cfg); err != nil {
			err = errors.Join(err, m.discard(ctx))
		}
		t.lap("cards and served devices plugged in")
	}
	if err != nil { // not m: an interface with a nil machine in it is not nil
		return nil, fmt.Errorf("boot machine %s: %w", cfg.Name, err)
	}
	m.trace = t.trace
	return m, nil
}

// plugIn gives the machine what no template has.
func (m *machine) plugIn(ctx context.Context, cfg *vmm.Config) error {
	err := errors.Join(m.addCards(ctx, cfg.Cards), m.addShares(ctx, cfg.Shares))
	if err != nil || !cfg.Vsock {
		return err
	}
	if err := m.addVsock(ctx); err != nil {
		return fmt.Errorf("plug in the virtual sockets: %w", err)
	}
	return nil
}

// plant is what machines are made with on this host.
type plant struct {
	qemu      string // path
	host      host
	templates templates
}

func (d *Driver) plant() (*plant, error) {
	path, err := d.find()
	if err != nil {
		return nil, err
	}
	c, err := chooseAcceleration(d.o.Acceleration, probeKVM)
	if err != nil {
		return nil, err
	}
	return &plant{path, host{accel: c.accel, arch: runtime.GOARCH, strict: countsMapped()}, templates{d.o.Templates, d.o.TemplatesLimit}}, nil
}

// boot makes a machine that boots its kernel.
func (p *plant) boot(ctx context.Context, cfg *vmm.Config, t *tracer) (*machine, error) {
	var ram *os.File
	if servesDevices(cfg) {
		var err error
		if ram, err = sealedRAM(cfg.Memory); err != nil {
			return nil, err
		}
		defer func() { _ = ram.Close() }() // QEMU has its own
	}
	m, err := p.launch(ctx, cfg, asBooted, ram)
	if err != nil {
		return nil, err
	}
	t.trace.Origin = vmm.Booted
	t.lap("qemu started")
	return m, nil
}

// launch starts QEMU and returns once its monitor answers. ram, where the
// machine has RAM in a file, stays the caller's.
func (p *plant) launch(ctx context.Context, cfg *vmm.Config, b birth, ram *os.File) (_ *machine, err error) {
	args, err := arguments(cfg, p.host, b)
	if err != nil {
		return nil, err
	}
	var un undo.Stack
	defer func() {
		if err != nil {
			err = errors.Join(err, un.Run(ctx, undoLimit))
		}
	}()
	var ends []*os.File // QEMU's
	un.PushFunc("make socket pairs", func() {
		for _, f := range ends {
			_ = f.Close()
		}
	})
	var ours [3]*net.UnixConn
	for i, name := range []string{"monitor", "agent's port", "console"} { // in the order of fdMonitor...
		c, end, err := socketPair(name)
		if err != nil {
			return nil, err
		}
		un.PushFunc("open the "+name, func() { _ = c.Close() })
		ours[i], ends = c, append(ends, end)
	}
	frames, end, err := framePair()
	if err != nil {
		return nil, err
	}
	un.PushFunc("open the frame socket", func() { _ = frames.Close() })
	ends = append(ends, end)
	con, err := newConsole(ours[2], cfg.Console, boot.Ready)
	if err != nil {
		return nil, err
	}
	m := newMachine(cfg, ours[1], con)
	if b == asPrepared { // QEMU must see its peer until the machine is saved, since the state says whether there is one
		if m.lasting, err = ours[1].File(); err != nil {
			return nil, fmt.Errorf("keep the agent's port: %w", err)
		}
	}
	m.cards = []*os.File{frames}
	m.start(p.qemu, args, ends, ram)
	ends = nil // m has them
	un.Push("start qemu", func(ctx context.Context) error { return m.Stop(ctx) })

	qctx, cancel := context.WithTimeoutCause(ctx, monitorLimit,
		errs.New(errs.DeadlineExceeded, "qemu did not open its monitor within %s", monitorLimit))
	defer cancel()
	if m.qmp, err = dialQMP(qctx, ours[0], m.takeEvent); err != nil {
		return nil, m.lost(ctx, err)
	}
	close(m.monitored)
	un.Release()
	return m, nil
}

// Describe says what was found on this host.
func (d *Driver) Describe(ctx context.Context) vmm.Description {
	r := vmm.Description{Driver: "qemu"}
	path, err := d.find()
	if err != nil {
		r.Problems = append(r.Problems, err.Error())
		r.Remedy = errs.HintOf(err)
	} else {
		out, err := exec.CommandContext(ctx, path, "--version").Output()
		if err != nil {
			r.Problems = append(r.Problems, fmt.Sprintf("%s --version: %v", path, err))
		}
		r.Version, _, _ = strings.Cut(string(out), "\n")
	}
	c, err := chooseAcceleration(d.o.Acceleration, probeKVM)
	if err != nil {
		r.Problems = append(r.Problems, err.Error())
	}
	r.Acceleration, r.Reason = string(c.accel), c.reason
	return r
}

// socketPair answers our end, as a connection, and the other, for a child.
func socketPair(name string) (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair for the %s: %w", name, err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name)
	defer ours.Close() // FileConn has its own
	c, err := net.FileConn(ours)
	if err != nil {
		_ = theirs.Close()
		return nil, nil, fmt.Errorf("use socket pair for the %s: %w", name, err)
	}
	return c.(*net.UnixConn), theirs, nil
}
