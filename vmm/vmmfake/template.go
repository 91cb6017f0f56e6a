package vmmfake

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/durable"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm"
)

var (
	_ vmm.Templater = (*Driver)(nil)
	_ vmm.Preparer  = (*Driver)(nil)
)

// templateSuffix ends the name of a template's file; before it is its ID.
const templateSuffix = ".fake"

// Where an ext4 filesystem says how often it was mounted (fs/ext4/ext4.h).
const (
	superblock = 1024
	mountCount = superblock + 0x34 // 16 bits
	magicAt    = superblock + 0x38
	magic      = 0xEF53
	headSize   = 4096 // bytes that hold all that a machine in memory writes to a disk
)

// template is a machine on disk: an empty one, or one in which a container is
// held.
type template struct {
	vmm.Template
	Setup agentproto.Setup  `json:"setup"`
	Held  *agentproto.Start `json:"held,omitempty"`
	Heads map[string][]byte `json:"heads,omitempty"` // of the writable disks, by ID
}

// templateID names the template of machines like cfg, which hold what is prepared.
func templateID(cfg *vmm.Config, prepared string) (string, error) {
	parts := []any{cfg.Kernel, cfg.Initramfs, cfg.KernelArgs, cfg.CPUs, cfg.Memory}
	if prepared != "" {
		parts = append(parts, prepared)
		for _, d := range cfg.Disks {
			fi, err := os.Stat(d.Path)
			if err != nil {
				return "", errs.As(errs.FailedPrecondition, fmt.Errorf("disk %s: %w", d.ID, err))
			}
			if parts = append(parts, d.ID, d.ReadOnly, fi.Size()); d.ReadOnly {
				parts = append(parts, d.Path)
			}
		}
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%#v", parts))
	return hex.EncodeToString(sum[:12]), nil
}

func (d *Driver) templatePath(id string) string {
	return filepath.Join(d.o.Templates, id+templateSuffix)
}

// open reads a template. Its file's time is that of its last use.
func (d *Driver) open(id string) (*template, error) {
	path := d.templatePath(id)
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	t := new(template)
	err = json.Unmarshal(b, t)
	if err != nil {
		t, err = &template{Template: vmm.Template{Problem: err.Error()}}, errs.New(errs.DataLoss, "template %s: %w", id, err)
	}
	t.ID, t.Used, t.Size = id, fi.ModTime(), fi.Size()
	return t, err
}

// Templates implements vmm.Templater.
func (d *Driver) Templates() (all []vmm.Template, err error) {
	files, err := os.ReadDir(d.o.Templates)
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("list templates: %w", err)
	}
	for _, f := range files {
		if id, ok := strings.CutSuffix(f.Name(), templateSuffix); ok {
			if t, err := d.open(id); t != nil {
				all = append(all, t.Template)
			} else if !os.IsNotExist(err) { // removed just now
				return nil, err
			}
		}
	}
	slices.SortFunc(all, func(a, b vmm.Template) int { return b.Used.Compare(a.Used) })
	return all, nil
}

// RemoveTemplate implements vmm.Templater.
func (d *Driver) RemoveTemplate(id string) error {
	err := os.Remove(d.templatePath(id))
	if os.IsNotExist(err) {
		return errs.New(errs.NotFound, "no template %s", id)
	}
	return err
}

// Prewarm implements vmm.Templater.
func (d *Driver) Prewarm(_ context.Context, cfg *vmm.Config) (vmm.Template, error) {
	if err := cfg.Check(); err != nil {
		return vmm.Template{}, err
	}
	if d.o.Templates == "" {
		return vmm.Template{}, errs.New(errs.FailedPrecondition, "templates are turned off")
	}
	id, err := templateID(cfg, "")
	if err != nil {
		return vmm.Template{}, err
	}
	return d.keep(cfg, id, template{})
}

// keep writes the template t, which is of machines like cfg, if it is not there.
func (d *Driver) keep(cfg *vmm.Config, id string, t template) (vmm.Template, error) {
	if old, err := d.open(id); err == nil {
		return old.Template, nil
	}
	t.CPUs, t.Memory, t.Kernel, t.Made = cfg.CPUs, cfg.Memory, cfg.Kernel, time.Now()
	b, err := json.Marshal(t)
	if err != nil {
		return vmm.Template{}, err
	}
	if err := durable.MkdirAll(d.o.Templates); err != nil {
		return vmm.Template{}, err
	}
	if err := durable.Replace(d.templatePath(id), b); err != nil {
		return vmm.Template{}, err
	}
	kept, err := d.open(id)
	if err != nil {
		return vmm.Template{}, err
	}
	return kept.Template, nil
}

// Prepare implements vmm.Preparer.
func (d *Driver) Prepare(ctx context.Context, cfg *vmm.Config, ready func(context.Context, vmm.Machine) error) (_ vmm.Template, err error) {
	switch {
	case cfg.Check() != nil:
		return vmm.Template{}, cfg.Check()
	case len(cfg.Shares) > 0 || cfg.Vsock || cfg.Cards > 1 || cfg.Cold || cfg.Nested:
		return vmm.Template{}, errs.New(errs.Unsupported, "a machine like %s cannot be prepared", cfg.Name)
	case d.o.Templates == "" || cfg.Prepared == "":
		return vmm.Template{}, errs.New(errs.FailedPrecondition, "templates are turned off, or nothing to prepare is named")
	}
	id, err := templateID(cfg, cfg.Prepared)
	if err != nil {
		return vmm.Template{}, err
	}
	if t, err := d.open(id); err == nil {
		return t.Template, nil
	}
	empty := *cfg
	empty.Prepared = ""
	booted, err := d.Boot(ctx, &empty)
	if err != nil {
		return vmm.Template{}, err
	}
	m := booted.(*Machine)
	if err := ready(ctx, m); err != nil {
		return vmm.Template{}, errors.Join(err, m.Stop(context.WithoutCancel(ctx)))
	}
	t, err := m.save()
	if err = errors.Join(err, m.Stop(context.WithoutCancel(ctx))); err != nil {
		return vmm.Template{}, err
	}
	if t.Heads, err = heads(cfg.Disks); err != nil {
		return vmm.Template{}, err
	}
	t.Root = cfg.Disks[0].Path
	return d.keep(cfg, id, t)
}

// Discard implements vmm.Preparer.
func (d *Driver) Discard(_ context.Context, cfg *vmm.Config) error {
	id, err := templateID(cfg, cfg.Prepared)
	if err != nil {
		return err
	}
	if err := d.RemoveTemplate(id); !errs.Is(err, errs.NotFound) {
		return err
	}
	return nil
}

// save returns what is in the machine. Nothing is open to it.
func (m *Machine) save() (t template, err error) {
	m.mu.Lock()
	open := len(m.conns)
	m.mu.Unlock()
	a := m.agent
	a.mu.Lock()
	defer a.mu.Unlock()
	if open > 0 || a.held == nil {
		return t, errs.New(errs.FailedPrecondition, "machine %s has %d connections; a container is held: %v", m.cfg.Name, open, a.held != nil)
	}
	return template{Setup: a.setups[len(a.setups)-1], Held: a.held}, nil
}

// restore gives the machine what was saved of one like it, if anything was.
func (m *Machine) restore() error {
	d, cfg := m.driver, &m.cfg
	m.trace.Origin = vmm.Booted
	if d.o.Templates == "" || cfg.Cold || cfg.Nested {
		return nil
	}
	if cfg.Prepared != "" {
		switch err := m.restorePrepared(); {
		case err == nil:
			m.trace.Origin = vmm.Prepared
			return nil
		case !errors.Is(err, os.ErrNotExist):
			m.trace.Notes = append(m.trace.Notes, "not from the prepared template: "+err.Error())
			if err := d.Discard(m.ctx, cfg); err != nil {
				return err
			}
		}
	}
	t, err := d.Prewarm(m.ctx, cfg)
	if err != nil {
		return err
	}
	m.trace.Origin = vmm.Restored
	return d.use(t.ID)
}

func (m *Machine) restorePrepared() error {
	id, err := templateID(&m.cfg, m.cfg.Prepared)
	if err != nil {
		return err
	}
	t, err := m.driver.open(id)
	if err != nil {
		return err
	}
	for _, disk := range m.cfg.Disks {
		if head := t.Heads[disk.ID]; head != nil {
			if err := writeHead(disk.Path, head); err != nil {
				return err
			}
		}
	}
	a := m.agent // nobody talks to it yet
	a.setups, a.isSetUp, a.held = []agentproto.Setup{t.Setup}, true, t.Held
	return m.driver.use(id)
}

// use notes that the template was used.
func (d *Driver) use(id string) error {
	now := time.Now()
	if err := os.Chtimes(d.templatePath(id), now, now); err != nil && !os.IsNotExist(err) { // removed just now
		return err
	}
	return nil
}

// Trace implements vmm.Tracer.
func (m *Machine) Trace() vmm.Trace { return m.trace }

// mount does to the filesystem on the disk id what a kernel does that mounts it,
// where there is one: it counts.
func (m *Machine) mount(id string) error {
	m.mu.Lock()
	path := m.disks[id].Path
	m.mu.Unlock()
	if id == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("mount disk %s: %w", id, err)
	}
	var b [magicAt + 2 - mountCount]byte
	n, _ := f.ReadAt(b[:], mountCount) // a file that is shorter has none
	if n == len(b) && binary.LittleEndian.Uint16(b[magicAt-mountCount:]) == magic {
		binary.LittleEndian.PutUint16(b[:], binary.LittleEndian.Uint16(b[:])+1)
		_, err = f.WriteAt(b[:2], mountCount)
	}
	return errors.Join(err, f.Close())
}

// heads are the beginnings of the writable disks.
func heads(disks []vmm.Disk) (map[string][]byte, error) {
	all := map[string][]byte{}
	for _, d := range disks {
		if d.ReadOnly {
			continue
		}
		f, err := os.Open(d.Path)
		if err != nil {
			return nil, fmt.Errorf("save disk %s: %w", d.ID, err)
		}
		b := make([]byte, headSize)
		n, _ := f.ReadAt(b, 0) // a shorter file is saved whole
		_ = f.Close()          // only read
		all[d.ID] = b[:n]
	}
	return all, nil
}

func writeHead(path string, head []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(head, 0)
	return errors.Join(err, f.Close())
}
