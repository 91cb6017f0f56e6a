package vz

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	vzf "github.com/Code-Hex/vz/v3"
	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/undo"
	"github.com/vzcompose/vzcompose/vmm"
)

// Limits of phases of Boot.
const startLimit = 30 * time.Second // for the framework to start a machine

// leastOS is the major version of macOS that this driver needs.
const leastOS = 13

// Driver boots machines with Virtualization.framework. It keeps no state.
type Driver struct{}

var (
	_ vmm.Driver    = (*Driver)(nil)
	_ vmm.Describer = (*Driver)(nil)
)

// New allocates a driver.
func New() *Driver { return &Driver{} }

// Check answers what this driver cannot do of cfg.
func (d *Driver) Check(cfg *vmm.Config) error {
	if err := checkOS(); err != nil {
		return err
	}
	_, err := plan(cfg, hostLimits())
	return err
}

func hostLimits() limits {
	return limits{
		minCPUs:   vzf.VirtualMachineConfigurationMinimumAllowedCPUCount(),
		maxCPUs:   vzf.VirtualMachineConfigurationMaximumAllowedCPUCount(),
		minMemory: vzf.VirtualMachineConfigurationMinimumAllowedMemorySize(),
		maxMemory: vzf.VirtualMachineConfigurationMaximumAllowedMemorySize(),
		nested:    vzf.IsNestedVirtualizationSupported(),
	}
}

func checkOS() error {
	v, err := unix.Sysctl("kern.osproductversion")
	if err != nil {
		return errs.New(errs.Unsupported, "find the version of macOS: %w", err)
	}
	major, _, _ := strings.Cut(v, ".")
	if n, err := strconv.Atoi(major); err != nil || n < leastOS {
		return errs.New(errs.Unsupported, "macOS %s is too old: %d is needed", v, leastOS)
	}
	return nil
}

// Describe says what was found on this host.
func (d *Driver) Describe(ctx context.Context) vmm.Description {
	r := vmm.Description{Driver: "vz", Acceleration: "hvf", Reason: "Virtualization.framework has no other"}
	v, err := unix.Sysctl("kern.osproductversion")
	if err == nil {
		r.Version = "macOS " + v
		err = checkOS()
	}
	if err == nil {
		err = checkSigned(ctx)
	}
	if err != nil {
		r.Problems, r.Remedy = append(r.Problems, err.Error()), errs.HintOf(err)
	}
	return r
}

// signLimit is how long codesign may take to print.
const signLimit = 10 * time.Second

// checkSigned asks for the entitlement, without which the framework calls every
// machine invalid.
func checkSigned(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, signLimit)
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find vzcompose itself: %w", err)
	}
	printed, err := exec.CommandContext(ctx, "/usr/bin/codesign", "-d", "--entitlements", "-", "--xml", self).Output()
	switch {
	case err != nil: // it is not signed at all, or codesign is not there
		err = errs.New(errs.PermissionDenied, "ask how this program is signed: %w", err)
	case !entitled(printed):
		err = errs.New(errs.PermissionDenied, "this program is not signed with %s", entitlement)
	default:
		return nil
	}
	return errs.WithHint(err, "%s", howToSign)
}

// Boot makes a machine and starts it.
func (d *Driver) Boot(ctx context.Context, cfg *vmm.Config) (_ vmm.Machine, err error) {
	if err := d.Check(cfg); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("boot machine %s: %w", cfg.Name, context.Cause(ctx))
	}
	dev, err := plan(cfg, hostLimits())
	if err != nil {
		return nil, err
	}
	var un undo.Stack
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("boot machine %s: %w", cfg.Name, err), un.Run(ctx, undoLimit))
		}
	}()
	if err := checkKernel(dev.kernel, runtime.GOARCH); err != nil {
		return nil, err
	}
	if err := makeConsole(dev.console, &un); err != nil {
		return nil, err
	}
	var kept undo.Stack // what the machine has until its end
	defer func() {
		if err != nil {
			err = errors.Join(err, kept.Run(ctx, undoLimit))
		}
	}()
	if err := openShares(dev.shares, &kept); err != nil {
		return nil, err
	}
	ours, theirs, err := frameSockets(len(dev.cards), &kept)
	if err != nil {
		return nil, err
	}
	config, err := configure(dev, theirs)
	if err != nil {
		return nil, explain(err)
	}
	vm, err := vzf.NewVirtualMachine(config)
	if err != nil {
		return nil, explain(err)
	}
	m := newMachine(cfg.Name, vm)
	m.ours, m.theirs, m.vsock = ours, theirs, cfg.Vsock
	m.life.kept, kept = kept, undo.Stack{}
	un.Push("start the machine", m.Stop)
	if err := m.start(ctx); err != nil {
		return nil, err
	}
	un.Release()
	return m, nil
}

// makeConsole makes the console's file before the framework does, so that it is
// its owner's only.
func makeConsole(path string, un *undo.Stack) error {
	if path == "" {
		return nil
	}
	_, err := os.Stat(path)
	isNew := errors.Is(err, os.ErrNotExist)
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make console: %w", err)
	}
	if isNew {
		un.Push("make the console", func(context.Context) error { return os.Remove(path) })
	}
	return f.Close()
}
