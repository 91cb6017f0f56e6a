//go:build linux

package qemu

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/filelock"
	"github.com/vzcompose/vzcompose/vmm"
)

// DefaultTemplatesLimit is how many bytes of templates are kept.
const DefaultTemplatesLimit = 2 << 30

// templateSuffix ends the name of a template; before it is its ID.
const templateSuffix = ".template"

// templates is the folder of them.
type templates struct {
	dir   string
	limit int64 // bytes
}

func (ts templates) path(id string) string { return filepath.Join(ts.dir, id+templateSuffix) }

// draftOf begins the names of files that are to become the template id. Only
// who holds its lock has one.
func draftOf(id string) string { return draftPrefix + id + "-" }

const draftPrefix = ".new-"

// sweep removes what makers left behind that were killed: of the template id,
// whose lock is held, and of those whose locks nobody holds.
func (ts templates) sweep(id string) error {
	entries, err := os.ReadDir(ts.dir)
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), draftPrefix)
		end := strings.LastIndexByte(name, '-')
		if !ok || end < 0 {
			continue
		}
		if of := name[:end]; of != id {
			l, err := filelock.Try(ts.lockPath(of))
			if err != nil {
				continue // it is being made
			}
			defer l.Release()
		}
		if rerr := os.Remove(filepath.Join(ts.dir, e.Name())); !errors.Is(rerr, os.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}

// open opens a template and marks it as used.
func (ts templates) open(id string) (*template, error) {
	t, err := openTemplate(ts.path(id), id)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	_ = os.Chtimes(ts.path(id), now, now) // it only orders what goes first
	return t, nil
}

// lock takes the lock under which the template id is made or thrown away.
func (ts templates) lock(ctx context.Context, id string) (*filelock.Lock, error) {
	if err := os.MkdirAll(ts.dir, 0o700); err != nil {
		return nil, err
	}
	return filelock.Wait(ctx, ts.lockPath(id))
}

func (ts templates) lockPath(id string) string { return filepath.Join(ts.dir, id+".lock") }

// discard deletes t, unless another is in its place already.
func (ts templates) discard(ctx context.Context, t *template) error {
	l, err := ts.lock(ctx, t.head.Key)
	if err != nil {
		return err
	}
	defer l.Release()
	ours, err := t.f.Stat()
	if err != nil {
		return err
	}
	there, err := os.Stat(ts.path(t.head.Key))
	if errors.Is(err, os.ErrNotExist) || err == nil && !os.SameFile(ours, there) {
		return nil
	}
	return errors.Join(err, os.Remove(ts.path(t.head.Key)))
}

// list answers the templates, the one used last first.
func (ts templates) list() ([]vmm.Template, error) {
	entries, err := os.ReadDir(ts.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var all []vmm.Template
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), templateSuffix)
		if !ok {
			continue
		}
		fi, err := e.Info()
		if errors.Is(err, os.ErrNotExist) { // just now
			continue
		}
		if err != nil {
			return nil, err
		}
		d := vmm.Template{ID: id, Size: used(fi), Used: fi.ModTime()}
		if t, err := openTemplate(ts.path(id), id); err != nil {
			d.Problem = err.Error()
		} else {
			d.CPUs, d.Memory, d.Kernel, d.Made = t.head.CPUs, uint64(t.head.Memory), t.head.Kernel, t.head.Made
			d.Root = t.head.Root
			t.close()
		}
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b vmm.Template) int { return b.Used.Compare(a.Used) })
	return all, nil
}

// find answers the template id, which was made or used just now.
func (ts templates) find(id string) (vmm.Template, error) {
	all, err := ts.list()
	if err != nil {
		return vmm.Template{}, err
	}
	for _, t := range all {
		if t.ID == id {
			return t, nil
		}
	}
	return vmm.Template{}, errs.New(errs.NotFound, "the template was removed as soon as it was made")
}

// used is what a file with holes takes, in bytes.
func used(fi os.FileInfo) int64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return fi.Size()
}

// makeRoom deletes what is beyond the limit, counted from those used last. keep
// stays.
func (ts templates) makeRoom(keep string) error {
	all, err := ts.list()
	if err != nil {
		return err
	}
	limit := ts.limit
	if limit == 0 {
		limit = DefaultTemplatesLimit
	}
	var total int64
	for _, t := range all {
		if t.ID == keep { // first, whatever was used since it was made
			total = t.Size
		}
	}
	var failed error
	for _, t := range all {
		if t.ID == keep {
			continue
		}
		if total += t.Size; total > limit {
			total -= t.Size
			failed = errors.Join(failed, ts.remove(t.ID))
		}
	}
	return failed
}

func (ts templates) remove(id string) error {
	if id == "" || strings.ContainsRune(id, filepath.Separator) { // what it names may lie elsewhere
		return errs.New(errs.InvalidArgument, "%q is no template's ID", id)
	}
	err := os.Remove(ts.path(id))
	if errors.Is(err, os.ErrNotExist) {
		return errs.New(errs.NotFound, "no template %s", id)
	}
	return err
}

// templateKey answers the ID of the template for cfg: a digest of all that must
// be the same in the machine that is saved and in those restored from it.
func (p *plant) templateKey(ctx context.Context, cfg *vmm.Config) (string, error) {
	generic := *cfg
	generic.Name, generic.Disks, generic.Cards = "template", nil, 0
	args, err := arguments(&generic, p.host, asTemplate)
	if err != nil {
		return "", err
	}
	parts := []string{templateMagic, p.host.arch}
	program, err := programIdentity(ctx, p.qemu)
	if err != nil {
		return "", err
	}
	parts = append(parts, program)
	for _, path := range []string{cfg.Kernel, cfg.Initramfs} {
		id, err := identity(path)
		if err != nil {
			return "", errs.As(errs.InvalidArgument, err)
		}
		parts = append(parts, id)
	}
	if p.host.accel == KVM {
		parts = append(parts, processorIdentity())
	}
	b, err := json.Marshal(append(parts, args...))
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:12]), nil
}

// identity tells a file from every other, and from itself after a change,
// without reading it.
func identity(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return fmt.Sprintf("%s %d %d %d %d.%09d", path, st.Dev, st.Ino, st.Size, st.Mtim.Sec, st.Mtim.Nsec), nil
}

// maxScript bounds what may be a script around QEMU, in bytes.
const maxScript = 64 << 10

// programIdentity is identity for QEMU. One that is a script says nothing of the
// program behind it: its text does, as far as that goes, and its version.
func programIdentity(ctx context.Context, path string) (string, error) {
	id, err := identity(path)
	if err != nil {
		return "", errs.As(errs.Unavailable, err)
	}
	f, err := os.Open(path)
	if err != nil {
		return id, nil // may be executed, not read: a program
	}
	defer func() { _ = f.Close() }() // only read
	text := make([]byte, maxScript)
	n, err := io.ReadFull(f, text)
	if !errors.Is(err, io.ErrUnexpectedEOF) || !bytes.HasPrefix(text, []byte("#!")) {
		return id, nil
	}
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "", errs.New(errs.Unavailable, "%s --version: %w", path, err)
	}
	return string(text[:n]) + string(out), nil
}

// processorIdentity is what "-cpu host" depends on: the processor, and the
// kernel whose KVM offers its features.
func processorIdentity() string {
	b, _ := os.ReadFile("/proc/cpuinfo") // without it all processors are taken for one, and QEMU checks what it needs
	var parts []string
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(name) {
		case "vendor_id", "model name", "stepping", "microcode", "flags", "Features":
			parts = append(parts, strings.TrimSpace(value))
		case "":
			goto first // all processors are alike
		}
	}
first:
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		parts = append(parts, unix.ByteSliceToString(u.Release[:]))
	}
	return strings.Join(parts, "\n")
}
