//go:build linux

package qemu

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/vzcompose/vzcompose/internal/boot"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/undo"
	"github.com/vzcompose/vzcompose/vmm"
)

// A prepared machine is restored from a template of a machine that was restored,
// brought further by its agent, and saved again, with what was on its writable
// disks at that moment.

// preparedKey answers the ID of the template for cfg as cfg.Prepared names it:
// beside what the template of the empty machine depends on, what the root disk
// is and how large the writable ones are.
func (p *plant) preparedKey(ctx context.Context, cfg *vmm.Config) (string, error) {
	empty, err := p.templateKey(ctx, cfg)
	if err != nil {
		return "", err
	}
	parts := []string{"prepared", empty, cfg.Prepared}
	for _, d := range cfg.Disks {
		what, err := identity(d.Path)
		if err == nil && !d.ReadOnly {
			var fi os.FileInfo
			if fi, err = os.Stat(d.Path); err == nil {
				what = fmt.Sprint(fi.Size())
			}
		}
		if err != nil {
			return "", errs.As(errs.FailedPrecondition, fmt.Errorf("disk %s: %w", d.ID, err))
		}
		parts = append(parts, d.ID, fmt.Sprint(d.ReadOnly), what)
	}
	b, err := json.Marshal(parts)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:12]), nil
}

// preparable says why a machine of cfg cannot be saved with its disks.
func preparable(cfg *vmm.Config) error {
	_, rest := fillBays(cfg.Disks)
	if len(rest) > 0 || servesDevices(cfg) || cfg.Cards > 1 || cfg.Cold || cfg.Nested {
		return errs.New(errs.Unsupported, "a machine with shares or virtual sockets, or with more disks or cards than a template has, cannot be prepared")
	}
	return nil
}

// bootPrepared makes a machine from the template that cfg.Prepared names. There
// is none, and no error, where it cannot be had that way; a template that is no
// good goes.
func (p *plant) bootPrepared(ctx context.Context, cfg *vmm.Config, t *tracer) (*machine, error) {
	if preparable(cfg) != nil {
		return nil, nil
	}
	id, err := p.preparedKey(ctx, cfg)
	if err != nil {
		return nil, nil // who boots it otherwise will say so
	}
	tpl, err := p.templates.open(id)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		defer tpl.close()
		var m *machine
		if m, err = p.restorePrepared(ctx, cfg, tpl, t); err == nil {
			return m, nil
		}
	}
	if ctx.Err() != nil {
		return nil, err
	}
	t.note("not from the prepared template: " + oneLine(err))
	if isTemplateFault(err) {
		if err := p.templates.remove(id); err != nil && !errs.Is(err, errs.NotFound) {
			t.note(fmt.Sprintf("throw the template away: %v", err))
		}
	}
	return nil, nil
}

func (p *plant) restorePrepared(ctx context.Context, cfg *vmm.Config, tpl *template, t *tracer) (*machine, error) {
	for _, d := range cfg.Disks {
		if d.ReadOnly {
			continue
		}
		if err := tpl.restoreDisk(d); err != nil {
			return nil, err
		}
	}
	m, err := p.restore(ctx, cfg, tpl, t)
	if err != nil {
		return nil, err
	}
	t.trace.Origin = vmm.Prepared
	return m, nil
}

// Prepare makes the template that cfg.Prepared names.
func (d *Driver) Prepare(ctx context.Context, cfg *vmm.Config, ready func(context.Context, vmm.Machine) error) (vmm.Template, error) {
	if err := cfg.Check(); err != nil {
		return vmm.Template{}, err
	}
	if err := preparable(cfg); err != nil {
		return vmm.Template{}, err
	}
	if d.o.Templates == "" || cfg.Prepared == "" {
		return vmm.Template{}, errs.New(errs.FailedPrecondition, "templates are turned off, or nothing to prepare is named")
	}
	p, err := d.plant()
	if err != nil {
		return vmm.Template{}, err
	}
	id, err := p.preparedKey(ctx, cfg)
	if err != nil {
		return vmm.Template{}, err
	}
	lock, err := p.templates.lock(ctx, id)
	if err != nil {
		return vmm.Template{}, err
	}
	defer lock.Release()
	tpl, err := p.templates.open(id)
	if err == nil {
		tpl.close()
		return p.templates.find(id)
	}
	if err := p.prepare(ctx, cfg, id, ready); err != nil {
		return vmm.Template{}, fmt.Errorf("prepare machine %s: %w", cfg.Name, err)
	}
	if err := p.templates.makeRoom(id); err != nil {
		return vmm.Template{}, fmt.Errorf("make room for templates: %w", err)
	}
	return p.templates.find(id)
}

// Discard deletes the template that cfg.Prepared names.
func (d *Driver) Discard(ctx context.Context, cfg *vmm.Config) error {
	p, err := d.plant()
	if err != nil {
		return err
	}
	id, err := p.preparedKey(ctx, cfg)
	if err != nil {
		return err
	}
	if err := p.templates.remove(id); err != nil && !errs.Is(err, errs.NotFound) {
		return fmt.Errorf("throw the template away: %w", err)
	}
	return nil
}

// prepare makes the template id. Its lock is held.
func (p *plant) prepare(ctx context.Context, cfg *vmm.Config, id string, ready func(context.Context, vmm.Machine) error) (err error) {
	var un undo.Stack
	defer func() { err = errors.Join(err, un.Run(ctx, undoLimit)) }()
	if err := p.templates.sweep(id); err != nil {
		return err
	}
	t := newTracer()
	empty, err := p.template(ctx, cfg, t)
	if err != nil {
		return err
	}
	un.PushFunc("open the template", empty.close)
	if err := empty.checkRAM(); err != nil {
		return err
	}
	ram, err := empty.copyRAM()
	if err != nil {
		return err
	}
	un.PushFunc("make RAM", func() { _ = ram.Close() })
	m, err := p.launch(ctx, cfg, asPrepared, ram)
	if err != nil {
		return err
	}
	un.Push("start qemu", m.Stop)
	if err := m.load(ctx, empty); err != nil {
		return err
	}
	if err := m.wake(ctx); err != nil {
		return err
	}
	state, err := m.saveReady(ctx, ready)
	if err != nil {
		return m.lost(ctx, err)
	}
	if err := m.Stop(ctx); err != nil {
		return err
	}
	disks, err := saveDisks(cfg.Disks)
	if err != nil {
		return err
	}
	return p.keep(cfg, header{Key: id, Root: cfg.Disks[0].Path}, ram, state, disks)
}

// saveReady has ready bring the machine to where it is to be saved, and saves it
// when the agent has said that it may.
func (m *machine) saveReady(ctx context.Context, ready func(context.Context, vmm.Machine) error) ([]byte, error) {
	ctx, cancel := within(ctx, readyLimit, "prepare the machine")
	defer cancel()
	if err := ready(ctx, m); err != nil {
		return nil, err
	}
	if err := m.port.Close(); err != nil { // the agent hears of it
		return nil, err
	}
	if err := m.con.await(ctx, boot.Ready); err != nil {
		return nil, err
	}
	return m.save(ctx)
}
