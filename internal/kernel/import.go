package kernel

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/vzcompose/vzcompose/internal/durable"
	"github.com/vzcompose/vzcompose/internal/regular"
	"github.com/vzcompose/vzcompose/internal/undo"
)

// Progress is told how far a phase ("unpack", "decompress", "modules") is, in
// bytes of its input; total is 0 where nobody knows.
type Progress = func(phase string, current, total int64)

// source is what an import takes in.
type source struct {
	origin string
	image  blob
	named  string // the release the image's name carries, or ""
	// modules answers the modules for the release found in the image; a nil
	// tree means that all is taken to be built in.
	modules func(ctx context.Context, release string) (*moduleTree, error)
	asked   bool // by one who asks for it, not for all
}

// undoLimit bounds the clean-up of an import.
const undoLimit = time.Minute

// Import takes a kernel in: from a Debian linux-image package, from a folder
// that has an image and its modules beneath, or from a bare image, of which it
// has to be believed that all a machine needs is built in. progress may be nil.
// The same content is stored once; importing it again makes it the newest.
func (s *Store) Import(ctx context.Context, path string, progress func(phase string, current, total int64)) (Kernel, error) {
	return s.importFrom(ctx, path, "", false, progress)
}

// Take is Import for one who asks for this kernel by its id: it does not become
// what other machines boot with. modules, where it is not "", is the folder with
// the modules of a bare image.
func (s *Store) Take(ctx context.Context, path, modules string, progress func(phase string, current, total int64)) (Kernel, error) {
	return s.importFrom(ctx, path, modules, true, progress)
}

func (s *Store) importFrom(ctx context.Context, path, modules string, asked bool, progress Progress) (Kernel, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return Kernel{}, fmt.Errorf("import kernel: %w", err)
	}
	k, err := s.inWorkspace(ctx, func(work string) (Kernel, error) {
		src, err := openSource(ctx, path, filepath.Join(work, "spool"), quiet(progress))
		if err != nil {
			return Kernel{}, err
		}
		if modules != "" {
			src.modules = func(ctx context.Context, _ string) (*moduleTree, error) { return scanRelease(ctx, modules) }
		}
		src.asked = asked
		return s.take(ctx, src, filepath.Join(work, "kernel"), quiet(progress))
	})
	if err != nil {
		return Kernel{}, fmt.Errorf("import kernel from %s: %w", path, err)
	}
	return k, nil
}

func quiet(p Progress) Progress {
	if p == nil {
		return func(string, int64, int64) {}
	}
	return p
}

// inWorkspace runs fn with a folder of its own in the store, under the store's
// lock; the folder is gone afterwards.
func (s *Store) inWorkspace(ctx context.Context, fn func(work string) (Kernel, error)) (k Kernel, err error) {
	unlock, err := lock(ctx, filepath.Join(s.dir, ".lock"))
	if err != nil {
		return Kernel{}, fmt.Errorf("lock kernel store: %w", err)
	}
	defer unlock()
	if err := sweep(s.dir); err != nil {
		return Kernel{}, fmt.Errorf("clean kernel store: %w", err)
	}
	work, err := os.MkdirTemp(s.dir, tempPrefix+"import-")
	if err != nil {
		return Kernel{}, err
	}
	var undos undo.Stack
	undos.Push("workspace", func(context.Context) error { return os.RemoveAll(work) })
	defer func() {
		if uerr := undos.Run(ctx, undoLimit); err == nil {
			err = uerr
		}
	}()
	return fn(work)
}

// openSource tells what lies at path and unpacks a package into spool.
func openSource(ctx context.Context, path, spool string, progress Progress) (source, error) {
	st, err := os.Stat(path)
	if err != nil {
		return source{}, err
	}
	if st.IsDir() {
		found, err := scanFolder(ctx, path)
		if err != nil {
			return source{}, err
		}
		return found.source(path)
	}
	f, st, err := regular.Open(path)
	if err != nil {
		return source{}, err
	}
	defer f.Close()
	head := make([]byte, len(arMagic))
	if _, err := io.ReadFull(f, head); err == nil && string(head) == arMagic {
		seen := func(current, total int64) { progress("unpack", current, total) }
		found, err := unpackDeb(ctx, f, st.Size(), spool, seen)
		if err != nil {
			return source{}, err
		}
		return found.source(path)
	}
	bare := func(context.Context, string) (*moduleTree, error) { return nil, nil }
	return source{origin: path, image: blob{path: path, size: st.Size()}, modules: bare}, nil
}

// source answers the kernel to import of those in the folder.
func (f *folder) source(origin string) (source, error) {
	img, err := f.image()
	if err != nil {
		return source{}, err
	}
	return source{origin: origin, image: img.blob, named: img.release,
		modules: func(_ context.Context, release string) (*moduleTree, error) {
			return f.tree(release, img.release)
		}}, nil
}

// take builds the kernel in out and moves it to its place.
func (s *Store) take(ctx context.Context, src source, out string, progress Progress) (Kernel, error) {
	modules := filepath.Join(out, "modules")
	if err := os.MkdirAll(modules, 0o700); err != nil {
		return Kernel{}, err
	}
	img, err := takeImage(ctx, src.image, filepath.Join(out, "vmlinux"), progress)
	if err != nil {
		return Kernel{}, err
	}
	r := &record{
		Format: recordFormat, Version: img.version, Arch: img.arch,
		Image:   fileRecord{Size: img.size, SHA256: img.sha256},
		Modules: map[string]fileRecord{}, Lazy: map[string][]string{},
		Origin: src.origin, Imported: s.now().UTC(), Asked: src.asked,
	}
	if r.Version == "" {
		r.Version = src.named
	}
	progress("modules", 0, 0)
	tree, err := src.modules(ctx, img.version)
	if err != nil {
		return Kernel{}, err
	}
	if tree != nil {
		if err := r.takeModules(ctx, tree, modules); err != nil {
			return Kernel{}, err
		}
	}
	r.ID = r.contentID()
	if err := s.commit(ctx, r, out); err != nil {
		return Kernel{}, fmt.Errorf("store: %w", err)
	}
	return s.load(r.ID)
}

func takeImage(ctx context.Context, from blob, to string, progress Progress) (image, error) {
	src, err := from.open()
	if err != nil {
		return image{}, err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return image{}, err
	}
	defer dst.Close()
	img, err := extractImage(ctx, src, from.size, dst, func(current, total int64) { progress("decompress", current, total) })
	if err != nil {
		return image{}, err
	}
	return img, dst.Sync()
}

// takeModules chooses from tree, into dir, and notes it.
func (r *record) takeModules(ctx context.Context, tree *moduleTree, dir string) error {
	p := newPicker(tree, dir, r.Arch, r.Version)
	sel, err := p.pick(ctx)
	if err != nil {
		return err
	}
	r.Boot, r.Lazy, r.Builtin, r.Missing = sel.boot, sel.lazy, sel.builtin, sel.missing
	for _, name := range r.modules() {
		r.Modules[name] = p.copied[name].file
	}
	for name := range p.copied {
		if _, chosen := r.Modules[name]; !chosen {
			if err := os.Remove(filepath.Join(dir, name+".ko")); err != nil {
				return err
			}
		}
	}
	return durable.SyncDir(dir)
}

// commit moves out to its place in the store. A sound kernel that is there
// already only learns of its new origin and time; a broken one is replaced.
func (s *Store) commit(ctx context.Context, r *record, out string) error {
	old, sound := s.record(r.ID)
	if sound == nil && r.Asked {
		return nil // it stays what it is to others
	}
	if sound != nil {
		old = nil
	}
	b, err := encodeRecord(r)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	place := filepath.Join(s.dir, r.ID)
	if old != nil {
		return durable.WriteFile(filepath.Join(place, "kernel.json"), b)
	}
	if err := durable.WriteFile(filepath.Join(out, "kernel.json"), b); err != nil {
		return err
	}
	if err := os.Rename(place, filepath.Join(filepath.Dir(out), "broken")); err != nil && !os.IsNotExist(err) {
		return err
	}
	return durable.Rename(out, place)
}
