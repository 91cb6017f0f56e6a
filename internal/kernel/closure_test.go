package kernel

import (
	"bytes"
	"debug/elf"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/kernel/kerneltest"
)

// checkOrder fails unless every module comes after what it depends on.
func checkOrder(t *testing.T, k Kernel) {
	t.Helper()
	check := func(list []string) {
		for i, file := range list {
			m, err := os.Open(k.ModulesDir + "/" + file)
			if err != nil {
				t.Fatal(err)
			}
			info, err := readModinfo(m)
			m.Close()
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range info.depends {
				if !slices.Contains(list[:i], d+".ko") {
					t.Errorf("%s is loaded before %s", file, d)
				}
			}
		}
	}
	check(k.Modules)
	for _, list := range k.Lazy {
		check(append(slices.Clone(k.Boot), list...))
	}
	if k.Boot[0] != "vsock.ko" || k.Boot[len(k.Boot)-1] != "virtio_pci.ko" {
		t.Errorf("boot starts with %s and ends with %s", k.Boot[0], k.Boot[len(k.Boot)-1])
	}
}

// Modular ext4 and crc32c, found by the alias of a soft dependency.
func modularExt4() []entry {
	l := without(debianLike(), "modules.builtin", "modules.builtin.modinfo")
	return append(l,
		entry{lib + "modules.builtin", []byte("kernel/fs/mbcache.ko\n")},
		entry{lib + "kernel/fs/ext4/ext4.ko.zst", compressed(zstded, module("ext4", "mbcache,jbd2", "softdep=pre: crc32c post: nothing"))},
		entry{lib + "kernel/fs/jbd2/jbd2.ko.gz", compressed(gzipped, module("jbd2", ""))},
		entry{lib + "kernel/crypto/crc32c_generic.ko.gz", compressed(gzipped, module("crc32c_generic", "", "alias=crc32c"))},
	)
}

func TestModulesOfAKernel(t *testing.T) {
	boot := func(s string) string { // the boot list of a Kernel's line
		_, rest, _ := strings.Cut(s, "boot=")
		rest, _, _ = strings.Cut(rest, " ")
		return rest
	}
	for name, c := range map[string]struct {
		in   []entry
		want string // in the line, or the boot list
	}{
		"like Debian's cloud kernel": {debianLike(), debianLikeKernel},
		"ext4 and crc32c are modules": {modularExt4(), "boot=vsock.ko,virtio_ring.ko,virtio.ko," +
			"vmw_vsock_virtio_transport_common.ko,vmw_vsock_virtio_transport.ko,virtio_blk.ko,crc32c_generic.ko,libcrc32c.ko,erofs.ko," +
			"overlay.ko,jbd2.ko,ext4.ko,virtio_pci_modern_dev.ko,virtio_pci.ko "},
		"only an accelerated crc32c": {without(modularExt4(), "crc32c_generic.ko.gz"), ",crc32c_intel.ko,libcrc32c.ko,erofs.ko,"},
		"no crc32c at all":           {without(modularExt4(), "crc32c_generic.ko.gz", "crc32c-intel.ko"), ",virtio_blk.ko,libcrc32c.ko,erofs.ko,"},
		"no fuse":                    {without(debianLike(), "fuse.ko"), "missing=fuse,virtiofs"},
		"everything built in": {[]entry{debianLike()[1], {lib + "modules.builtin", []byte(
			"kernel/vsock.ko\nkernel/vmw_vsock_virtio_transport.ko\nvirtio_blk.ko\nerofs.ko\noverlay.ko\next4.ko\nvirtio_pci.ko\nvirtio-rng.ko\n")}},
			"boot= virtio_rng= builtin=vsock,vmw_vsock_virtio_transport,virtio_blk,erofs,overlay,ext4,virtio_pci,virtio_rng missing=virtio_net,"},
		"soft dependencies in a circle": {replaced(debianLike(), entry{lib + "kernel/net/vmw_vsock/vsock.ko",
			module("vsock", "", "softdep=pre: virtio_blk vsock")}), "virtio_blk.ko,vsock.ko"},
		"a module that was installed over the kernel's": {append(debianLike(),
			entry{lib + "extra/erofs.ko", []byte("broken")}, entry{lib + "updates/erofs.ko", []byte("broken")}), debianLikeKernel},
	} {
		t.Run(name, func(t *testing.T) {
			k := mustImport(t, openStore(t), writeTree(t, c.in))
			if !strings.Contains(k.String(), c.want) {
				t.Errorf("got  %s\nwant %s\nboot %s", k, c.want, boot(k.String()))
			}
			for _, f := range k.Modules {
				if _, err := os.Stat(k.ModulesDir + "/" + f); err != nil {
					t.Error(err)
				}
			}
			if files, _ := os.ReadDir(k.ModulesDir); len(files) != len(k.Modules) {
				t.Errorf("%d files for %d modules", len(files), len(k.Modules))
			}
		})
	}
}

func TestDependenciesComeFirst(t *testing.T) {
	checkOrder(t, mustImport(t, openStore(t), writeTree(t, debianLike())))
}

func TestKernelsThatLackModules(t *testing.T) {
	for name, c := range map[string]struct {
		in    []entry
		class errs.Class
		words string
	}{
		"two needed": {without(debianLike(), "erofs.ko", "virtio_ring.ko"), errs.FailedPrecondition, "no module erofs"},
		"a needed dependency": {without(debianLike(), "libcrc32c.ko"), errs.FailedPrecondition,
			"lacks what a machine needs: erofs: no module libcrc32c"},
		"no modules.builtin": {without(debianLike(), "modules.builtin"), errs.FailedPrecondition, "no module ext4"},
		"no modules":         {debianLike()[:2], errs.FailedPrecondition, "no modules for kernel " + testRelease},
		"of another kernel": {replaced(debianLike(), entry{lib + "kernel/net/vmw_vsock/vsock.ko",
			kerneltest.Module(elf.EM_X86_64, "name=vsock", "vermagic=6.2.0 SMP")}), errs.FailedPrecondition, "is for kernel 6.2.0"},
		"of another processor": {replaced(debianLike(), entry{lib + "kernel/net/vmw_vsock/vsock.ko",
			kerneltest.Module(elf.EM_AARCH64, "name=vsock")}), errs.FailedPrecondition, "is for EM_AARCH64"},
		"of another name": {replaced(debianLike(), entry{lib + "kernel/net/vmw_vsock/vsock.ko",
			module("vsocks", "")}), errs.DataLoss, "calls itself vsocks"},
		"not a module": {replaced(debianLike(), entry{lib + "kernel/net/vmw_vsock/vsock.ko",
			[]byte("hello")}), errs.DataLoss, "module vsock: read module"},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
			_, err := s.Import(t.Context(), writeTree(t, c.in), nil)
			if errs.ClassOf(err) != c.class || err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("got %v (%s)", err, errs.ClassOf(err))
			}
			if c.class == errs.FailedPrecondition && strings.Contains(c.words, "no module") && errs.HintOf(err) == "" {
				t.Error("no hint")
			}
			if all, _ := s.List(t.Context()); len(all) != 0 || len(leftovers(t, s)) != 0 {
				t.Errorf("left behind: %v %v", all, leftovers(t, s))
			}
		})
	}
}

func TestModinfo(t *testing.T) {
	m, err := readModinfo(bytes.NewReader(kerneltest.Module(elf.EM_X86_64, "name=virtio-rng", "depends=a-b,,c",
		"softdep=pre: x y-z post: p pre: q", "softdep=post: n", "alias=one", "alias=two", "vermagic=6.1 SMP", "", "odd", "=")))
	if err != nil {
		t.Fatal(err)
	}
	if m.name != "virtio_rng" || !slices.Equal(m.depends, []string{"a_b", "c"}) || !slices.Equal(m.pre, []string{"x", "y-z", "q"}) ||
		!slices.Equal(m.aliases, []string{"one", "two"}) || m.release != "6.1" || m.machine != elf.EM_X86_64 {
		t.Errorf("%+v", m)
	}
	if _, err := readModinfo(bytes.NewReader(kerneltest.Module(elf.EM_X86_64, "name=../../etc"))); !errs.Is(err, errs.DataLoss) {
		t.Errorf("a name that is a path: %v", err)
	}
	if _, err := readModinfo(bytes.NewReader(goodVmlinux())); !errs.Is(err, errs.DataLoss) {
		t.Errorf("an executable: %v", err)
	}
}

func FuzzModinfo(f *testing.F) {
	f.Add(module("vsock", "a,b", "softdep=pre: c"))
	f.Add(goodVmlinux())
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := readModinfo(bytes.NewReader(b)); err == nil && m.name != "" && !moduleName.MatchString(m.name) {
			t.Fatalf("name %q", m.name)
		}
		parseModinfo(b)
		parseBuiltinAliases(b)
		for name := range parseBuiltin(b) {
			if !moduleName.MatchString(name) {
				t.Fatalf("built in %q", name)
			}
		}
	})
}
