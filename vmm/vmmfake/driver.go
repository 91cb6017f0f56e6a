package vmmfake

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm"
)

// Options script the machines of a driver. The zero value is a host on which
// all goes well. The functions may be called by several goroutines.
type Options struct {
	// Programs are what processes can execute besides the built-in ones (see
	// Builtin), by the last element of argv[0].
	Programs map[string]Program
	// Boot runs in Driver.Boot, which fails with its error; it may wait.
	Boot func(ctx context.Context, cfg *vmm.Config) error
	// Ready runs in the machine before the agent listens; it may wait. An
	// error ends the machine, and Wait answers it. ctx ends with the machine.
	Ready func(ctx context.Context, m *Machine) error
	// Setup runs in the agent's set-up, which fails with its error.
	Setup func(ctx context.Context, s agentproto.Setup) error
	// Start runs before a process starts, which fails with its error.
	Start func(ctx context.Context, s agentproto.Start) error
	// Signal runs when a signal was delivered, before the agent says so.
	Signal func(ctx context.Context, s agentproto.Signal)
	// Adopt runs in Machine.Adopt, which fails with its error.
	Adopt func(cfg *vmm.Config) error
	// Pause runs in Machine.Pause, which fails with its error.
	Pause func(m *Machine) error
	// Clock runs when the agent is told the time, which fails with its error.
	Clock func(ctx context.Context, c agentproto.Clock) error
	// Templates is the folder for what machines are restored from; "": they boot.
	Templates string
}

// Driver makes machines in memory.
type Driver struct {
	o Options

	mu       sync.Mutex // guards the following
	machines []*Machine // that are not gone
	writers  map[string]*Machine
	booted   int
}

var (
	_ vmm.Driver    = (*Driver)(nil)
	_ vmm.Describer = (*Driver)(nil)
)

// New allocates a driver.
func New(o Options) *Driver { return &Driver{o: o, writers: map[string]*Machine{}} }

// Describe says what this is.
func (d *Driver) Describe(context.Context) vmm.Description {
	return vmm.Description{Driver: "fake", Version: build, Acceleration: "none", Reason: "machines are goroutines"}
}

// Check answers what is wrong with cfg for any driver.
func (d *Driver) Check(cfg *vmm.Config) error { return cfg.Check() }

// Boot makes a machine. Its kernel, initramfs and disks must exist; they are
// not read.
func (d *Driver) Boot(ctx context.Context, cfg *vmm.Config) (vmm.Machine, error) {
	begin := time.Now()
	if err := d.Check(cfg); err != nil {
		return nil, err
	}
	for _, p := range []string{cfg.Kernel, cfg.Initramfs} {
		if _, err := os.Stat(p); err != nil {
			return nil, fmt.Errorf("boot machine %s: %w", cfg.Name, err)
		}
	}
	if d.o.Boot != nil {
		if err := d.o.Boot(ctx, cfg); err != nil {
			return nil, fmt.Errorf("boot machine %s: %w", cfg.Name, err)
		}
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("boot machine %s: %w", cfg.Name, context.Cause(ctx))
	}
	m := newMachine(d, cfg)
	if err := m.make(); err != nil {
		m.cancel()
		m.closeCards()
		d.forget(m)
		return nil, fmt.Errorf("boot machine %s: %w", cfg.Name, err)
	}
	d.mu.Lock()
	d.machines = append(d.machines, m)
	d.booted++
	d.mu.Unlock()
	m.trace.Phases = []vmm.Phase{{Name: "machine started", Duration: time.Since(begin)}}
	m.start()
	return m, nil
}

// make gives the machine what its Config asks for, and what was saved for it.
func (m *Machine) make() error {
	for _, disk := range m.cfg.Disks {
		if err := m.plug(disk); err != nil {
			return err
		}
	}
	if err := m.addCards(m.cfg.Cards); err != nil {
		return err
	}
	return m.restore()
}

// Machines answers the machines that are not gone, in order of their boots.
func (d *Driver) Machines() []*Machine {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.machines)
}

// Machine answers the newest machine of that name that is not gone, or nil.
func (d *Driver) Machine(name string) *Machine {
	for _, m := range slices.Backward(d.Machines()) {
		if m.cfg.Name == name {
			return m
		}
	}
	return nil
}

// Booted answers how many machines there ever were.
func (d *Driver) Booted() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.booted
}

// claim gives m a disk: several machines may read one, one may write it.
func (d *Driver) claim(m *Machine, disk vmm.Disk) error {
	mode := os.O_RDWR
	if disk.ReadOnly {
		mode = os.O_RDONLY
	}
	f, err := os.OpenFile(disk.Path, mode, 0)
	if err != nil {
		return fmt.Errorf("open disk %s: %w", disk.ID, err)
	}
	_ = f.Close() // it was opened to see whether it can be
	if disk.ReadOnly {
		return nil
	}
	path, err := filepath.Abs(disk.Path)
	if err != nil {
		return fmt.Errorf("open disk %s: %w", disk.ID, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.writers[path] != nil {
		return errs.New(errs.FailedPrecondition, "disk %s is written by machine %s", disk.ID, d.writers[path].cfg.Name)
	}
	d.writers[path] = m
	return nil
}

// release takes a disk from m.
func (d *Driver) release(m *Machine, disk vmm.Disk) {
	path, err := filepath.Abs(disk.Path)
	if err != nil {
		return // then it was not claimed either
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !disk.ReadOnly && d.writers[path] == m {
		delete(d.writers, path)
	}
}

// forget lets go of all that m held.
func (d *Driver) forget(m *Machine) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.machines = slices.DeleteFunc(d.machines, func(x *Machine) bool { return x == m })
	for p, w := range d.writers {
		if w == m {
			delete(d.writers, p)
		}
	}
}
