// Package kernel keeps the guest kernels of this host: it imports one from a
// Debian package, a folder or a bare image, chooses the modules the agent needs
// and in which order, and builds the initramfs that a machine boots with.
//
// What it stores is content-addressed and complete: an uncompressed image that
// boots without a boot loader (PVH on x86-64, Image on arm64) and uncompressed
// modules. A kernel is either wholly there or not at all; a record that cannot
// be read is reported, never deleted.
//
// It runs no programs and knows nothing of stacks or instances. Nothing that
// belongs to an instance enters an initramfs. Whether a kernel is in use is for
// the caller to know.
//
// Layout:
//
//	DIR/<id>/kernel.json              the record, versioned
//	DIR/<id>/vmlinux                  the image
//	DIR/<id>/modules/NAME.ko
//	DIR/<id>/initramfs-<digest>.cpio  built on demand
package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/vzcompose/vzcompose/internal/durable"
	"github.com/vzcompose/vzcompose/internal/errs"
)

// Kernel is one imported kernel. Paths are absolute. The slices and the map
// belong to the caller.
type Kernel struct {
	ID      string // short digest of the content
	Version string // "6.1.0-56-cloud-amd64", as uname -r in the guest says
	Arch    string // as Go names it: "amd64", "arm64"
	Image   string // the uncompressed image

	ModulesDir string
	Modules    []string            // every file in ModulesDir, dependencies first: Boot, then what Lazy adds
	Boot       []string            // the files to load before the agent can serve, in this order
	Lazy       map[string][]string // module name -> the files to load for it after Boot, in this order
	Builtin    []string            // of what the agent may want: what is in the image itself
	Missing    []string            // of what is optional: what this kernel does not have

	Origin   string    // what it was imported from
	Imported time.Time // when it was last imported
	Asked    bool      // it is for those who ask for it, and never what Default answers
	Default  bool      // set by List: what Default answers for Arch
	Broken   string    // why the record cannot be used; only ID is valid then
}

// Store is a folder of kernels. It is safe for concurrent use, by several
// processes too.
type Store struct {
	dir  string
	root string // where the host's own kernels are looked for: "/"
	now  func() time.Time
}

// Open makes dir if need be (0700) and answers the store in it.
func Open(dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open kernel store: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open kernel store: %w", err)
	}
	return &Store{dir: dir, root: "/", now: time.Now}, nil
}

// List answers every kernel, the newest import first. Those whose record
// cannot be used come last, with Broken saying why.
func (s *Store) List(ctx context.Context) ([]Kernel, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list kernels: %w", err)
	}
	var all []Kernel
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("list kernels: %w", err)
		}
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		k, err := s.load(e.Name())
		if err != nil {
			k = Kernel{ID: e.Name(), Broken: err.Error()}
		}
		all = append(all, k)
	}
	slices.SortStableFunc(all, newestFirst)
	chosen := map[string]bool{}
	for i := range all {
		if k := &all[i]; k.Broken == "" && !k.Asked && !chosen[k.Arch] {
			k.Default, chosen[k.Arch] = true, true
		}
	}
	return all, nil
}

// Find answers the kernel of that id. NotFound: it is not here any more.
func (s *Store) Find(id string) (Kernel, error) {
	k, err := s.load(id)
	if errors.Is(err, fs.ErrNotExist) {
		return Kernel{}, errs.New(errs.NotFound, "kernel %s", id)
	}
	if err != nil {
		return Kernel{}, fmt.Errorf("read kernel %s: %w", id, err)
	}
	return k, nil
}

func newestFirst(a, b Kernel) int {
	if (a.Broken == "") != (b.Broken == "") {
		if a.Broken == "" {
			return -1
		}
		return 1
	}
	if c := b.Imported.Compare(a.Imported); c != 0 {
		return c
	}
	return strings.Compare(a.ID, b.ID)
}

// idPattern is what a digest of ours looks like; nothing else is joined to the
// store's path.
var idPattern = regexp.MustCompile(`^[0-9a-f]{12}$`)

// Remove deletes a kernel and the initramfs files built for it, a broken one
// too. That no machine will want it again is for the caller to know.
func (s *Store) Remove(ctx context.Context, id string) error {
	if !idPattern.MatchString(id) {
		return errs.New(errs.InvalidArgument, "kernel id %q is not 12 hexadecimal digits", id)
	}
	unlock, err := lock(ctx, filepath.Join(s.dir, ".lock"))
	if err != nil {
		return fmt.Errorf("lock kernel store: %w", err)
	}
	defer unlock()
	doomed := filepath.Join(s.dir, tempPrefix+"remove-"+id)
	if err := os.RemoveAll(doomed); err != nil {
		return fmt.Errorf("remove kernel %s: %w", id, err)
	}
	switch err := durable.Rename(filepath.Join(s.dir, id), doomed); {
	case os.IsNotExist(err):
		return errs.New(errs.NotFound, "kernel %s", id)
	case err != nil:
		return fmt.Errorf("remove kernel %s: %w", id, err)
	}
	if err := os.RemoveAll(doomed); err != nil {
		return fmt.Errorf("remove kernel %s: %w", id, err)
	}
	return nil
}
