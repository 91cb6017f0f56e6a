//go:build linux

package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/boot"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/undo"
	"github.com/vzcompose/vzcompose/vmm"
)

// Limits of the phases of making and using a template.
const (
	readyLimit = 3 * time.Minute  // from exec to a machine that may be saved
	saveLimit  = 30 * time.Second // its state's way out
	loadLimit  = 1 * time.Minute  // and in
	wakeLimit  = 2 * time.Minute  // a hundred machines may wake at once
)

// bootWarm makes a machine from its template. What is wrong with the template
// is mended by a new one, once; where there is no having one the machine boots.
func (p *plant) bootWarm(ctx context.Context, cfg *vmm.Config, t *tracer) (*machine, error) {
	if err := checkDisks(cfg.Disks); err != nil {
		return nil, err
	}
	if cfg.Prepared != "" {
		if m, err := p.bootPrepared(ctx, cfg, t); m != nil || err != nil {
			return m, err
		}
	}
	for range 2 {
		tpl, err := p.template(ctx, cfg, t)
		if err != nil {
			if ctx.Err() != nil || errs.Is(err, errs.InvalidArgument) {
				return nil, err
			}
			t.note("no template: " + oneLine(err))
			break
		}
		m, err := p.restore(ctx, cfg, tpl, t)
		if err != nil && isTemplateFault(err) {
			t.note("template thrown away: " + oneLine(err))
			if derr := p.templates.discard(ctx, tpl); derr != nil {
				t.note(fmt.Sprintf("throw the template away: %v", derr))
			}
			tpl.close()
			continue
		}
		tpl.close()
		return m, err
	}
	t.note("booted, not restored")
	return p.boot(ctx, cfg, t)
}

// oneLine is err for a note: what QEMU says may have several.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// template opens the template for cfg, or makes it. Several that want one at
// the same time make it once.
func (p *plant) template(ctx context.Context, cfg *vmm.Config, t *tracer) (*template, error) {
	id, err := p.templateKey(ctx, cfg)
	if err != nil {
		return nil, err
	}
	tpl, err := p.templates.open(id)
	if err == nil {
		return tpl, nil
	}
	if cfg.Progress != nil {
		cfg.Progress("making a template of the machine, once")
	}
	lock, err := p.templates.lock(ctx, id)
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	tpl, err = p.templates.open(id) // made meanwhile
	if isTemplateFault(err) {
		t.note(fmt.Sprintf("template made anew: %v", err))
	}
	if err != nil {
		if err := p.makeTemplate(ctx, cfg, id); err != nil {
			return nil, fmt.Errorf("make a template: %w", err)
		}
		if err := p.templates.makeRoom(id); err != nil {
			t.note(fmt.Sprintf("make room for templates: %v", err))
		}
		if tpl, err = p.templates.open(id); err != nil {
			return nil, err
		}
	}
	t.lap("template made")
	return tpl, nil
}

// makeTemplate boots a machine like cfg's, until its agent can do no more
// without an instance, and saves it. The lock of id is held.
func (p *plant) makeTemplate(ctx context.Context, cfg *vmm.Config, id string) (err error) {
	generic := vmm.Config{Name: "template-" + id, CPUs: cfg.CPUs, Memory: cfg.Memory, Kernel: cfg.Kernel,
		Initramfs: cfg.Initramfs, KernelArgs: cfg.KernelArgs}
	var un undo.Stack
	defer func() { err = errors.Join(err, un.Run(ctx, undoLimit)) }()
	if err := p.templates.sweep(id); err != nil {
		return err
	}
	ram, err := newRAM(cfg.Memory)
	if err != nil {
		return err
	}
	un.PushFunc("make RAM", func() { _ = ram.Close() })
	m, err := p.launch(ctx, &generic, asTemplate, ram)
	if err != nil {
		return err
	}
	un.Push("start qemu", m.Stop)
	rctx, cancel := within(ctx, readyLimit, "boot the machine that is to be saved")
	defer cancel()
	if err := m.con.await(rctx, boot.Ready); err != nil {
		return m.lost(ctx, err)
	}
	state, err := m.save(ctx)
	if err != nil {
		return m.lost(ctx, err)
	}
	if err := m.Stop(ctx); err != nil {
		return err
	}
	return p.keep(cfg, header{Key: id}, ram, state, nil)
}

// keep writes the template of a machine that has been saved. What head does not
// say is cfg's.
func (p *plant) keep(cfg *vmm.Config, head header, ram *os.File, state []byte, disks []savedDisk) error {
	b, err := unix.Mmap(int(ram.Fd()), 0, int(cfg.Memory), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the machine's RAM: %w", err)
	}
	defer func() { _ = unix.Munmap(b) }()
	data, err := dataOf(ram, int64(cfg.Memory))
	if err != nil {
		return fmt.Errorf("look for the holes of the machine's RAM: %w", err)
	}
	head.Made, head.CPUs, head.Kernel, head.QEMU = time.Now(), cfg.CPUs, cfg.Kernel, p.qemu
	return writeTemplate(p.templates.path(head.Key), draftOf(head.Key), head, b, indexRAM(b, data), state, disks)
}

// capabilities are those of both sides of a migration: RAM that is in a file is
// left there, and its end is an event.
func (m *machine) capabilities(ctx context.Context) error {
	type capability struct {
		Capability string `json:"capability"`
		State      bool   `json:"state"`
	}
	return m.qmp.call(ctx, "migrate-set-capabilities",
		map[string]any{"capabilities": []capability{{"x-ignore-shared", true}, {"events", true}}}, nil)
}

// save stops the machine for good and answers the state of its devices.
func (m *machine) save(ctx context.Context) ([]byte, error) {
	ctx, cancel := within(ctx, saveLimit, "save the machine's state")
	defer cancel()
	if err := m.qmp.call(ctx, "stop", nil, nil); err != nil {
		return nil, err
	}
	if err := m.capabilities(ctx); err != nil {
		return nil, err
	}
	f, err := memoryFile("state")
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // memory
	if err := m.qmp.call(ctx, "getfd", map[string]any{"fdname": "state"}, nil, int(f.Fd())); err != nil {
		return nil, err
	}
	if err := m.qmp.call(ctx, "migrate", map[string]any{"uri": "fd:state"}, nil); err != nil {
		return nil, err
	}
	select {
	case status := <-m.migrated:
		if status != "completed" {
			return nil, m.migrationError(ctx)
		}
	case <-m.gone:
		return nil, errs.New(errs.Unavailable, "qemu ended while its state was saved")
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if fi.Size() == 0 || fi.Size() > maxState {
		return nil, errs.New(errs.Internal, "a state of %d bytes", fi.Size())
	}
	b := make([]byte, fi.Size())
	_, err = f.ReadAt(b, 0)
	return b, err
}

// migrationError asks QEMU why.
func (m *machine) migrationError(ctx context.Context) error {
	var info struct {
		Desc string `json:"error-desc"`
	}
	if err := m.qmp.call(ctx, "query-migrate", nil, &info); err != nil {
		return err
	}
	return errs.New(errs.Unavailable, "qemu cannot save the machine: %s", info.Desc)
}

// restore makes a machine from a template. The error is a template's fault where
// a new template may help.
func (p *plant) restore(ctx context.Context, cfg *vmm.Config, tpl *template, t *tracer) (_ *machine, err error) {
	var un undo.Stack
	defer func() {
		if err != nil {
			err = errors.Join(err, un.Run(ctx, undoLimit))
		}
	}()
	checked := make(chan error, 1)
	go func() { checked <- tpl.checkRAM() }() // while QEMU starts
	ram := tpl.f
	if servesDevices(cfg) {
		if ram, err = tpl.copyRAM(); err != nil {
			return nil, errors.Join(err, <-checked)
		}
		defer func() { _ = ram.Close() }() // QEMU has its own
	}
	m, err := p.launch(ctx, cfg, asRestored, ram)
	bad := <-checked
	if err != nil { // of the console, a disk, QEMU: not of the template but where it says so itself
		return nil, errors.Join(err, bad)
	}
	un.Push("start qemu", m.Stop)
	t.lap("qemu started")
	if bad != nil {
		return nil, bad
	}
	if err := m.load(ctx, tpl); err != nil {
		return nil, err
	}
	t.lap("state loaded")
	if err := m.wake(ctx); err != nil {
		return nil, err
	}
	t.trace.Origin = vmm.Restored
	t.lap("agent answers")
	un.Release()
	return m, nil
}

// load gives QEMU the state and returns when it has taken it. The machine does
// not run yet.
func (m *machine) load(ctx context.Context, tpl *template) error {
	lctx, cancel := within(ctx, loadLimit, "load the machine's state")
	defer cancel()
	state, err := tpl.openState()
	if err != nil {
		return err
	}
	defer func() { _ = state.Close() }() // QEMU has its own
	if err := m.capabilities(lctx); err != nil {
		return err
	}
	if err := m.qmp.call(lctx, "getfd", map[string]any{"fdname": "state"}, nil, int(state.Fd())); err != nil {
		return err
	}
	if err := m.qmp.call(lctx, "migrate-incoming", map[string]any{"uri": "fd:state"}, nil); err != nil {
		return m.templateFault(ctx, err)
	}
	select {
	case status := <-m.migrated:
		if status != "completed" {
			return m.templateFault(ctx, errs.New(errs.Unavailable, "qemu did not take the saved state"))
		}
		return nil
	case <-m.gone:
		return m.templateFault(ctx, errs.New(errs.Unavailable, "qemu did not take the saved state"))
	case <-lctx.Done():
		return m.templateFault(ctx, context.Cause(lctx))
	}
}

// nobody is a port on which no agent listens.
const nobody = 0

// wake lets the machine run, and returns when its agent has answered, if only
// that nobody listens: a machine that does not come to itself is the template's
// fault.
func (m *machine) wake(ctx context.Context) error {
	wctx, cancel := within(ctx, wakeLimit, "wake the restored machine")
	defer cancel()
	if err := m.qmp.call(wctx, "cont", nil, nil); err != nil {
		return m.templateFault(ctx, err)
	}
	c, err := m.port.Dial(wctx, nobody)
	switch {
	case err == nil:
		_ = c.Close() // somebody does; it is an answer too
	case m.port.Err() != nil || wctx.Err() != nil:
		return m.templateFault(ctx, err)
	}
	return nil
}

// templateFault is blame, with why the machine is gone if it is. ctx is the
// caller's, not that of a phase with a limit of its own.
func (m *machine) templateFault(ctx context.Context, err error) error {
	return blame(ctx, m.lost(ctx, err))
}

// blame blames the template for err, unless the caller gave up or had no time.
func blame(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	return errTemplate{err}
}

// lost is err, or why the machine is gone if it is.
func (m *machine) lost(ctx context.Context, err error) error {
	if !errs.Is(err, errs.Unavailable) {
		return err
	}
	wctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if werr := m.Wait(wctx); werr != nil && wctx.Err() == nil {
		return fmt.Errorf("%w: %w", err, werr)
	}
	return m.explain(err)
}

// checkDisks opens the disks as QEMU will, so that one that is missing is not
// taken for a template's fault.
func checkDisks(disks []vmm.Disk) error {
	for _, d := range disks {
		flags := os.O_RDWR
		if d.ReadOnly {
			flags = os.O_RDONLY
		}
		f, err := os.OpenFile(d.Path, flags, 0)
		if err != nil {
			return errs.As(errs.FailedPrecondition, fmt.Errorf("disk %s: %w", d.ID, err))
		}
		_ = f.Close() // only looked at
	}
	return nil
}

// within is ctx with a limit whose error names the phase.
func within(ctx context.Context, d time.Duration, phase string) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, errs.New(errs.DeadlineExceeded, "%s: not done within %s", phase, d))
}

// Templates lists the templates.
func (d *Driver) Templates() ([]vmm.Template, error) {
	return templates{dir: d.o.Templates}.list()
}

// RemoveTemplate deletes one.
func (d *Driver) RemoveTemplate(id string) error {
	return templates{dir: d.o.Templates}.remove(id)
}

// Prewarm makes the template for machines like cfg.
func (d *Driver) Prewarm(ctx context.Context, cfg *vmm.Config) (vmm.Template, error) {
	if err := cfg.Check(); err != nil {
		return vmm.Template{}, err
	}
	if d.o.Templates == "" {
		return vmm.Template{}, errs.New(errs.FailedPrecondition, "templates are turned off")
	}
	p, err := d.plant()
	if err != nil {
		return vmm.Template{}, err
	}
	tpl, err := p.template(ctx, cfg, newTracer())
	if err != nil {
		return vmm.Template{}, err
	}
	tpl.close()
	return p.templates.find(tpl.head.Key)
}
