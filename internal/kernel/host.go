package kernel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Default answers the kernel that machines of arch boot with: the newest
// import; where there is none, a kernel of this host, which is imported by
// this. It is NotFound, with a hint that mends it, if neither will do.
func (s *Store) Default(ctx context.Context, arch string) (Kernel, error) {
	all, err := s.List(ctx)
	if err != nil {
		return Kernel{}, err
	}
	var broken []string
	for _, k := range all {
		if k.Broken != "" {
			broken = append(broken, k.Broken)
			continue
		}
		if k.Default && k.Arch == arch {
			return k, nil
		}
	}
	reasons := broken
	if arch == runtime.GOARCH {
		k, tried, err := s.importHost(ctx)
		if err == nil {
			return k, nil
		}
		if ctx.Err() != nil {
			return Kernel{}, fmt.Errorf("import the host's kernel: %w", err)
		}
		for _, t := range tried {
			if errs.Is(t.err, errs.PermissionDenied) {
				return Kernel{}, errs.WithHint(errs.New(errs.NotFound, "no kernel for %s machines (%w)", arch, t.err),
					"run: sudo chmod a+r %s", t.image)
			}
			reasons = append(reasons, fmt.Sprintf("%s: %v", t.image, t.err))
		}
	}
	return Kernel{}, noKernel(arch, reasons)
}

func noKernel(arch string, reasons []string) error {
	const most = 5
	why := ""
	if len(reasons) > 0 {
		why = " (" + strings.Join(reasons[:min(len(reasons), most)], "; ") + ")"
	}
	return errs.WithHint(errs.New(errs.NotFound, "no kernel for %s machines%s", arch, why),
		"run: vzcompose kernel import PATH, where PATH is a linux-image .deb, a folder with vmlinuz and lib/modules, or a vmlinux with everything built in")
}

// hostKernel is an installed kernel of this host.
type hostKernel struct {
	release string
	image   blob
	modules string
}

// refused is a kernel of the host that will not do.
type refused struct {
	image string
	err   error
}

// importHost imports the first of the host's kernels that will do; tried says
// why those before it did not.
func (s *Store) importHost(ctx context.Context) (k Kernel, tried []refused, err error) {
	err = errs.New(errs.NotFound, "the host has no kernel installed")
	for _, h := range s.hostKernels() {
		k, err = s.inWorkspace(ctx, func(work string) (Kernel, error) {
			return s.take(ctx, h.source(), filepath.Join(work, "kernel"), quiet(nil))
		})
		if err == nil || ctx.Err() != nil {
			return k, tried, err
		}
		tried = append(tried, refused{h.image.path, err})
	}
	return Kernel{}, tried, err
}

func (h hostKernel) source() source {
	return source{origin: h.image.path, image: h.image, named: h.release,
		modules: func(ctx context.Context, _ string) (*moduleTree, error) { return scanRelease(ctx, h.modules) }}
}

// hostKernels lists the installed kernels that have modules: the running one
// first, then the newest first.
func (s *Store) hostKernels() []hostKernel {
	var all []hostKernel
	for _, lib := range []string{"lib/modules", "usr/lib/modules"} {
		entries, err := os.ReadDir(filepath.Join(s.root, lib))
		if err != nil {
			continue // a host without kernels, such as a container
		}
		for _, e := range entries {
			release, dir := e.Name(), filepath.Join(s.root, lib, e.Name())
			known := slices.ContainsFunc(all, func(h hostKernel) bool { return h.release == release })
			image := s.hostImage(release, dir)
			if known || image.path == "" {
				continue
			}
			all = append(all, hostKernel{release: release, image: image, modules: dir})
		}
	}
	running := s.runningRelease()
	slices.SortStableFunc(all, func(a, b hostKernel) int {
		if (a.release == running) != (b.release == running) {
			if a.release == running {
				return -1
			}
			return 1
		}
		return cmp.Or(compareReleases(b.release, a.release), strings.Compare(a.release, b.release))
	})
	return all
}

// hostImage answers where the image of release lies; the zero blob if it is not
// there. One that may not be read is answered too, so that the error can say so.
func (s *Store) hostImage(release, modules string) blob {
	for _, p := range []string{
		filepath.Join(s.root, "boot", "vmlinuz-"+release),
		filepath.Join(modules, "vmlinuz"),
	} {
		st, err := os.Stat(p)
		if err == nil && st.Mode().IsRegular() {
			return blob{path: p, size: st.Size()}
		}
		if errors.Is(err, fs.ErrPermission) {
			return blob{path: p}
		}
	}
	return blob{}
}

func (s *Store) runningRelease() string {
	b, err := readBounded(filepath.Join(s.root, "proc/sys/kernel/osrelease"), 256)
	if err != nil {
		return "" // not Linux
	}
	return strings.TrimSpace(string(b))
}
