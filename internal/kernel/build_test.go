package kernel

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/vzcompose/vzcompose/internal/kernel/kerneltest"
)

// What the tests import is made here: ELF modules and kernels of a few hundred
// bytes, bzImages around them, packages around those.

const testRelease = "6.1.0-1-test"

// module is an amd64 module for testRelease.
func module(name, depends string, more ...string) []byte {
	return kerneltest.Module(elf.EM_X86_64, append([]string{"license=GPL", "depends=" + depends,
		"name=" + canonical(name), "vermagic=" + testRelease + " SMP mod_unload "}, more...)...)
}

func goodVmlinux() []byte { return kerneltest.Vmlinux(elf.EM_X86_64, pvhType, testRelease) }

func arm64Image(release string) []byte { return kerneltest.Image("arm64", release) }

// compressed packs b; xz is not among what can be written.
func compressed(format compression, b []byte) []byte {
	out := new(bytes.Buffer)
	var w io.WriteCloser
	var err error
	switch format {
	case unpacked:
		return b
	case gzipped:
		w = gzip.NewWriter(out)
	case zstded:
		w, err = zstd.NewWriter(out)
	case lz4ed: // the legacy frame, as the kernel's build makes it
		z := lz4.NewWriter(out)
		err = z.Apply(lz4.LegacyOption(true))
		w = z
	default:
		err = fmt.Errorf("no writer for %s", format)
	}
	if err == nil {
		_, err = w.Write(b)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		panic(err)
	}
	return out.Bytes()
}

// bzImage wraps a kernel as arch/x86/boot does.
func bzImage(format compression, kernel []byte) []byte {
	data := compressed(format, kernel)
	if format != gzipped {
		data = binary.LittleEndian.AppendUint32(data, uint32(len(kernel)))
	}
	return bzImageOf(data)
}

func bzImageOf(payload []byte) []byte {
	const sects, gap = 3, 100
	b := make([]byte, (sects+1)*512+gap)
	b[0x1f1] = sects
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x206:], 0x20f)
	binary.LittleEndian.PutUint32(b[0x248:], gap)
	binary.LittleEndian.PutUint32(b[0x24c:], uint32(len(payload)))
	return append(append(b, payload...), "signature"...)
}

func zboot(format compression, kernel []byte) []byte {
	data := compressed(format, kernel)
	b := make([]byte, 512)
	copy(b, "MZ\x00\x00zimg")
	binary.LittleEndian.PutUint32(b[8:], 512)
	binary.LittleEndian.PutUint32(b[12:], uint32(len(data)))
	copy(b[24:], format)
	b = append(b, data...)
	return binary.LittleEndian.AppendUint32(b, uint32(len(kernel)))
}

// entry is a file of a package or a folder.
type entry struct {
	name string
	data []byte
}

// modulePaths are where a distribution has the modules that debianLike has.
const lib = "lib/modules/" + testRelease + "/"

// debianLike is a kernel with the modules and dependencies of Debian's cloud
// kernel, ext4 built in.
func debianLike() []entry {
	m := func(path, depends string, more ...string) entry {
		name, _, _ := moduleOf(path)
		return entry{lib + "kernel/" + path, module(name, depends, more...)}
	}
	return []entry{
		{"boot/System.map-" + testRelease, []byte("not needed")},
		{"boot/vmlinuz-" + testRelease, bzImage(gzipped, goodVmlinux())},
		m("arch/x86/crypto/crc32c-intel.ko", "", "alias=crypto-crc32c", "alias=crc32c"),
		m("drivers/block/virtio_blk.ko", "virtio,virtio_ring"),
		m("drivers/char/hw_random/virtio-rng.ko", "virtio,virtio_ring"),
		m("drivers/char/virtio_console.ko", "virtio,virtio_ring"),
		m("drivers/net/ethernet/e1000.ko", ""),
		m("drivers/net/net_failover.ko", "failover"),
		m("drivers/net/tun.ko", ""),
		m("drivers/net/virtio_net.ko", "virtio_ring,virtio,net_failover"),
		m("drivers/virtio/virtio.ko", "virtio_ring"),
		m("drivers/virtio/virtio_balloon.ko", "virtio,virtio_ring"),
		m("drivers/virtio/virtio_mmio.ko", "virtio,virtio_ring"),
		m("drivers/virtio/virtio_pci.ko", "virtio_ring,virtio_pci_modern_dev,virtio"),
		m("drivers/virtio/virtio_pci_modern_dev.ko", ""),
		m("drivers/virtio/virtio_ring.ko", ""),
		m("fs/erofs/erofs.ko", "libcrc32c"),
		m("fs/fuse/fuse.ko", ""),
		m("fs/fuse/virtiofs.ko", "fuse,virtio,virtio_ring"),
		m("fs/overlayfs/overlay.ko", ""),
		m("lib/libcrc32c.ko", "", "softdep=pre: crc32c"),
		m("net/core/failover.ko", ""),
		m("net/vmw_vsock/vmw_vsock_virtio_transport.ko", "virtio,vmw_vsock_virtio_transport_common,virtio_ring,vsock"),
		m("net/vmw_vsock/vmw_vsock_virtio_transport_common.ko", "vsock"),
		m("net/vmw_vsock/vsock.ko", ""),
		{lib + "modules.builtin", []byte("kernel/fs/ext4/ext4.ko\nkernel/crypto/crc32c_generic.ko\n")},
		{lib + "modules.builtin.modinfo", []byte("crc32c_generic.alias=crc32c\x00crc32c_generic.license=GPL\x00")},
	}
}

// debianLikeKernel is how the import of debianLike prints, without its id.
const debianLikeKernel = "amd64 6.1.0-1-test boot=vsock.ko,virtio_ring.ko,virtio.ko," +
	"vmw_vsock_virtio_transport_common.ko,vmw_vsock_virtio_transport.ko,virtio_blk.ko,libcrc32c.ko,erofs.ko," +
	"overlay.ko,virtio_pci_modern_dev.ko,virtio_pci.ko" +
	" fuse=fuse.ko tun=tun.ko virtio_balloon=virtio_balloon.ko virtio_console=virtio_console.ko virtio_mmio=virtio_mmio.ko" +
	" virtio_net=failover.ko,net_failover.ko,virtio_net.ko virtio_rng=virtio_rng.ko virtiofs=fuse.ko,virtiofs.ko" +
	" builtin=ext4 missing="

// without answers the entries whose file is not one of those named.
func without(entries []entry, bases ...string) []entry {
	var left []entry
	for _, e := range entries {
		keep := true
		for _, b := range bases {
			keep = keep && filepath.Base(e.name) != b
		}
		if keep {
			left = append(left, e)
		}
	}
	return left
}

// replaced answers the entries with that of the same base name exchanged.
func replaced(entries []entry, e entry) []entry {
	return append(without(entries, filepath.Base(e.name)), e)
}

func tarball(entries []entry) []byte {
	b := new(bytes.Buffer)
	w := tar.NewWriter(b)
	for _, e := range entries {
		h := &tar.Header{Name: "./" + e.name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(e.data))}
		if target, ok := strings.CutPrefix(string(e.data), "link:"); ok {
			h.Typeflag, h.Linkname, h.Size, e.data = tar.TypeSymlink, target, 0, nil
		}
		if err := w.WriteHeader(h); err != nil {
			panic(err)
		}
		if _, err := w.Write(e.data); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func ar(members ...entry) []byte {
	b := bytes.NewBufferString(arMagic)
	for _, m := range members {
		fmt.Fprintf(b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.name, 0, 0, 0, "100644", len(m.data))
		b.Write(m.data)
		if len(m.data)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

func deb(format compression, entries []entry) []byte {
	ext := map[compression]string{gzipped: ".gz", zstded: ".zst", unpacked: ""}[format]
	return ar(entry{"debian-binary", []byte("2.0\n")}, entry{"control.tar.xz", []byte("odd")},
		entry{"data.tar" + ext, compressed(format, tarball(entries))})
}

// writeFile puts data into a new folder.
func writeFile(t *testing.T, name string, data []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func writeTree(t *testing.T, entries []entry) string {
	t.Helper()
	dir := t.TempDir()
	for _, e := range entries {
		p := filepath.Join(dir, e.name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, e.data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// openStore answers a store whose clock ticks once a call, on a host without
// kernels.
func openStore(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "kernels"))
	if err != nil {
		t.Fatal(err)
	}
	s.root = t.TempDir()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s.now = func() time.Time { now = now.Add(time.Second); return now }
	return s
}

func mustImport(t *testing.T, s *Store, path string) Kernel {
	t.Helper()
	k, err := s.Import(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// described prints k without its id.
func described(k Kernel) string {
	_, rest, _ := strings.Cut(k.String(), " ")
	return rest
}

// leftovers answers what is in the store beside kernels and its lock.
func leftovers(t *testing.T, s *Store) []string {
	t.Helper()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		if !idPattern.MatchString(e.Name()) && e.Name() != ".lock" {
			left = append(left, e.Name())
		}
	}
	return left
}
