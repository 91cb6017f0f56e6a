//go:build linux

package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm"
)

// stand is a driver whose QEMU is a script, and a machine to ask it for.
type stand struct {
	*Driver
	ts  templates
	cfg *vmm.Config
}

// newStand makes one. do is what QEMU does, beside saying its version.
func newStand(t *testing.T, do string) stand {
	t.Helper()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	o := Options{Program: file("qemu", "#!/bin/sh\n[ \"$1\" = --version ] && exit\n"+do+"\n"), Acceleration: TCG, Templates: filepath.Join(dir, "templates")}
	if err := os.Mkdir(o.Templates, 0o700); err != nil {
		t.Fatal(err)
	}
	return stand{New(o), templates{dir: o.Templates}, &vmm.Config{Name: "m", CPUs: 1, Memory: 1 << 20, Kernel: file("kernel", "k"), Initramfs: file("initramfs", "i")}}
}

// key is that of the stand's template.
func (s stand) key(t *testing.T, spoil func(*vmm.Config)) string {
	t.Helper()
	cfg := *s.cfg
	spoil(&cfg)
	p, err := s.plant()
	if err != nil {
		t.Fatal(err)
	}
	id, err := p.templateKey(t.Context(), &cfg)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func same(*vmm.Config) {}

// putTemplate makes the template of the stand, sound as a file, and answers its ID.
func (s stand) putTemplate(t *testing.T) (id string) {
	t.Helper()
	id = s.key(t, same)
	if err := writeTemplate(s.ts.path(id), draftOf(id), header{Key: id}, make([]byte, s.cfg.Memory), nil, []byte("s"), nil); err != nil {
		t.Fatal(err)
	}
	return id
}

// What is not the template's fault does not cost it, and is told as it is.
func TestATemplateIsNotBlamedForOthers(t *testing.T) {
	const locked = `echo "Failed to get write lock" >&2; exit 1`
	for name, c := range map[string]struct {
		qemu  string
		spoil func(*vmm.Config)
		limit time.Duration // 0: none
		says  string
	}{
		"a disk that is locked":     {qemu: locked, says: "qemu closed its monitor"},
		"a console's folder":        {qemu: locked, spoil: func(c *vmm.Config) { c.Console = "/no/such/folder" }, says: "console: open /no/such/folder"},
		"a disk that is missing":    {qemu: locked, spoil: func(c *vmm.Config) { c.Disks = []vmm.Disk{{ID: "d", Path: "/no/disk"}} }, says: "disk d: open /no/disk"},
		"a caller who has no time":  {qemu: "exec sleep 1000", limit: 300 * time.Millisecond, says: "deadline exceeded"},
		"a QEMU that is not one":    {qemu: "exec /no/such/program", says: "qemu closed its monitor"},
		"a QEMU that ends in order": {qemu: "exit 0", says: "qemu closed its monitor"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, c.qemu)
			id := s.putTemplate(t)
			if c.spoil != nil {
				c.spoil(s.cfg)
			}
			ctx := t.Context()
			if c.limit != 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, c.limit)
				defer cancel()
			}
			m, err := s.Boot(ctx, s.cfg)
			if err == nil {
				_ = m.Stop(t.Context())
				t.Fatal("it booted")
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q in it", err, c.says)
			}
			if got := s.ts.names(t); got != id {
				t.Errorf("there is %q, want the template %s", got, id)
			}
		})
	}
}

// A template that is damaged goes, also where QEMU does not start.
func TestADamagedTemplateIsThrownAway(t *testing.T) {
	s := newStand(t, "exit 1")
	id := s.putTemplate(t)
	xor(t, s.ts.path(id), page, 1)
	if _, err := s.Boot(t.Context(), s.cfg); err == nil {
		t.Fatal("it booted")
	}
	if got := s.ts.names(t); got != "" {
		t.Errorf("there is %s", got)
	}
}

func TestOnlyWhoHadTimeBlamesTheTemplate(t *testing.T) {
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	cause := errors.New("qemu ended")
	if err := blame(t.Context(), cause); !isTemplateFault(err) || !errors.Is(err, cause) {
		t.Errorf("got %v, want a template's fault", err)
	}
	for _, ctx := range []context.Context{gone, late} {
		if err := blame(ctx, cause); isTemplateFault(err) || !errors.Is(err, cause) {
			t.Errorf("%v: got %v, want it as it was", ctx.Err(), err)
		}
	}
}

// Boot takes nothing with it when it fails.
func TestAFailedBootKeepsNoFiles(t *testing.T) {
	files := func() string {
		links, err := filepath.Glob("/proc/self/fd/*")
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, l := range links {
			if to, err := os.Readlink(l); err == nil && !strings.Contains(to, "/proc/") {
				names = append(names, to)
			}
		}
		return fmt.Sprint(len(names), names)
	}
	s := newStand(t, "exit 1")
	s.putTemplate(t)
	fail := func() {
		t.Helper()
		for _, console := range []string{"", "/no/such/folder"} {
			for _, cold := range []bool{true, false} {
				s.cfg.Cold, s.cfg.Console = cold, console
				if _, err := s.Boot(t.Context(), s.cfg); err == nil {
					t.Fatal("it booted")
				} else if console != "" && !errs.Is(err, errs.FailedPrecondition) {
					t.Errorf("got %v, want class failed precondition", err)
				}
			}
		}
	}
	fail() // with what the runtime opens for itself
	before := files()
	fail()
	if after := files(); strings.Fields(after)[0] != strings.Fields(before)[0] {
		t.Errorf("open before: %s, after: %s", before, after)
	}
}

// The key of a template is of all that its machine is made of, and of nothing else.
func TestTheKeyOfATemplate(t *testing.T) {
	s := newStand(t, "exit 1")
	key := s.key(t, same)
	if strings.Trim(key, "0123456789abcdef") != "" || len(key) != 24 {
		t.Errorf("it is %q", key)
	}
	for what, spoil := range map[string]func(*vmm.Config){
		"the name": func(c *vmm.Config) { c.Name = "other" }, "the console": func(c *vmm.Config) { c.Console = "/c" },
		"the disks": func(c *vmm.Config) { c.Disks = []vmm.Disk{{ID: "d", Path: "/d"}} }, "the listener": func(c *vmm.Config) { c.Progress = func(string) {} },
	} {
		if got := s.key(t, spoil); got != key {
			t.Errorf("%s is in it", what)
		}
	}
	keys := map[string]string{key: "as it was"}
	other := func(what, key string) {
		if was := keys[key]; was != "" {
			t.Errorf("%s: the key is that of %s", what, was)
		}
		keys[key] = what
	}
	other("processors", s.key(t, func(c *vmm.Config) { c.CPUs++ }))
	other("memory", s.key(t, func(c *vmm.Config) { c.Memory *= 2 }))
	other("arguments", s.key(t, func(c *vmm.Config) { c.KernelArgs = []string{"x"} }))
	other("arguments of other words", s.key(t, func(c *vmm.Config) { c.KernelArgs = []string{"x y"} }))
	other("another kernel", s.key(t, func(c *vmm.Config) { c.Kernel = c.Initramfs }))
	for _, path := range []string{s.cfg.Kernel, s.cfg.Initramfs} {
		if err := os.Chtimes(path, time.Time{}, time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		other("a newer "+filepath.Base(path), s.key(t, same))
	}
	if err := os.WriteFile(s.o.Program, []byte("#!/bin/sh\nexit\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	other("another script", s.key(t, same))
	if err := os.WriteFile(s.o.Program, []byte("#!/bin/sh\necho 2\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	other("another version", s.key(t, same))
}

// A template is made without anything of the instance for which it is made.
func TestATemplateHasNothingOfAnInstance(t *testing.T) {
	s := newStand(t, `echo "$@" >>"$0.args"; exit 1`)
	disk := filepath.Join(t.TempDir(), "instance.img")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.cfg.Name, s.cfg.Console = "instance-1", filepath.Join(t.TempDir(), "instance.log")
	s.cfg.Disks = []vmm.Disk{{ID: "instance-disk", Path: disk}}
	if _, err := s.Boot(t.Context(), s.cfg); err == nil {
		t.Fatal("it booted")
	}
	b, err := os.ReadFile(s.o.Program + ".args")
	if err != nil {
		t.Fatal(err)
	}
	template, booted, _ := strings.Cut(string(b), "\n")
	if strings.Contains(template, "instance") || !strings.Contains(template, s.key(t, same)) {
		t.Errorf("the template: %s", template)
	}
	if !strings.Contains(booted, "instance-1") || !strings.Contains(booted, disk) {
		t.Errorf("the machine: %s", booted)
	}
}
