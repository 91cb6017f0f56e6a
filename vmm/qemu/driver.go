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

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/undo"
	"github.com/vzcompose/vzcompose/vmm"
	"github.com/vzcompose/vzcompose/vmm/qemu/vsock"
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
}

// Driver boots machines with QEMU. It keeps no state.
type Driver struct{ o Options }

var (
	_ vmm.Driver    = (*Driver)(nil)
	_ vmm.Describer = (*Driver)(nil)
)

// New allocates a driver.
func New(o Options) *Driver { return &Driver{o: o} }

// guestCID is the same in every machine: each has its own device.
const guestCID = 3

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

// Check answers what this driver cannot do of cfg.
func (d *Driver) Check(cfg *vmm.Config) error {
	if err := cfg.Check(); err != nil {
		return err
	}
	if _, err := d.find(); err != nil {
		return err
	}
	_, err := chooseAcceleration(d.o.Acceleration, probeKVM)
	return err
}

// Boot starts QEMU and returns once its monitor answers.
func (d *Driver) Boot(ctx context.Context, cfg *vmm.Config) (_ vmm.Machine, err error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	path, err := d.find()
	if err != nil {
		return nil, err
	}
	accel, err := chooseAcceleration(d.o.Acceleration, probeKVM)
	if err != nil {
		return nil, err
	}
	args, err := arguments(cfg, host{accel: accel.accel, arch: runtime.GOARCH})
	if err != nil {
		return nil, err
	}
	var un undo.Stack
	defer func() {
		if err != nil {
			err = errors.Join(err, un.Run(ctx, undoLimit))
		}
	}()
	monitor, monitorEnd, err := socketPair("monitor")
	if err != nil {
		return nil, err
	}
	un.PushFunc("open the monitor", func() { _ = monitor.Close() })
	vs, vsEnd, err := socketPair("vsock")
	if err != nil {
		_ = monitorEnd.Close()
		return nil, err
	}
	un.PushFunc("open the virtual socket device", func() { _ = vs.Close() })

	m := newMachine(cfg.Name, vsock.New(guestCID))
	m.start(path, args, []*os.File{monitorEnd, vsEnd}, vs)
	un.Push("start qemu", func(ctx context.Context) error { return m.Stop(ctx) })

	qctx, cancel := context.WithTimeoutCause(ctx, monitorLimit,
		errs.New(errs.DeadlineExceeded, "qemu did not open its monitor within %s", monitorLimit))
	defer cancel()
	if m.qmp, err = dialQMP(qctx, monitor, m.takeEvent); err != nil {
		return nil, m.explain(fmt.Errorf("boot machine %s: %w", cfg.Name, err))
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
