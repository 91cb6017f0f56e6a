package vz

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm"
)

const undoLimit = 10 * time.Second

// devices is a machine as the framework is to make it: plain data, in the
// order in which the guest finds the disks.
type devices struct {
	cpus      uint
	memory    uint64 // bytes
	kernel    string
	initramfs string
	cmdline   string
	console   string // "" for none
	disks     []disk
	shares    []folder
	cards     []card
	nested    bool
}

// disk is a raw image behind virtio-blk. Cached and synced by fsync, whatever
// the image: with the framework's own choice, disks were corrupted on Apple
// silicon.
type disk struct {
	path     string
	readOnly bool
	id       string // the guest's serial number
}

// folder is a folder of the host behind virtio-fs. The framework shares folders
// only; of a file that is shared alone path is a folder made for it.
type folder struct {
	tag      string
	path     string
	file     string // the one that the folder is made of; "": it is there already
	place    string // where such a folder is made; "": where temporary files are
	readOnly bool
}

// card is a network card, whose frames go to a datagram socket.
type card struct {
	mac net.HardwareAddr
}

// limits are those of the framework on this host.
type limits struct {
	minCPUs, maxCPUs     uint
	minMemory, maxMemory uint64 // bytes
	nested               bool   // machines can run machines: macOS 15 on an M3 or later
}

// plan says what machine cfg is, within lim. It is a pure function.
func plan(cfg *vmm.Config, lim limits) (*devices, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	if cfg.Nested && !lim.nested {
		return nil, errs.WithHint(errs.New(errs.Unsupported, "machines cannot be run in machines on this host: it takes macOS 15 and an M3 or a later processor"),
			"take virtualization out")
	}
	d := &devices{
		cpus:      uint(cfg.CPUs),
		memory:    cfg.Memory,
		kernel:    cfg.Kernel,
		initramfs: cfg.Initramfs,
		cmdline:   strings.Join(kernelArgs(cfg), " "),
		console:   cfg.Console,
	}
	// The framework clamps nothing: it refuses, without saying what the bounds are.
	if d.cpus < lim.minCPUs || d.cpus > lim.maxCPUs {
		return nil, errs.New(errs.InvalidArgument, "machine with %d cpus; this host allows %d to %d", d.cpus, lim.minCPUs, lim.maxCPUs)
	}
	if d.memory < lim.minMemory || d.memory > lim.maxMemory {
		return nil, errs.New(errs.InvalidArgument, "machine with %d MiB of memory; this host allows %d to %d",
			d.memory>>20, lim.minMemory>>20, lim.maxMemory>>20)
	}
	for _, c := range cfg.Disks {
		d.disks = append(d.disks, disk{path: c.Path, readOnly: c.ReadOnly, id: c.ID})
	}
	for _, h := range cfg.Shares {
		f := folder{tag: h.ID, path: h.Path, readOnly: h.ReadOnly}
		if cfg.Console != "" {
			f.place = filepath.Dir(cfg.Console)
		}
		d.shares = append(d.shares, f)
	}
	for i := range cfg.Cards {
		d.cards = append(d.cards, card{mac: vmm.CardMAC(i)})
	}
	d.nested = cfg.Nested
	return d, nil
}

// kernelArgs is the kernel's command line: quiet, and without what costs a
// short boot time and gives a machine of one process nothing
// (Documentation/admin-guide/kernel-parameters.txt). No earlycon: it costs a
// second and a half. A panic resets the machine, which breaks its connections,
// by which the shim knows.
func kernelArgs(cfg *vmm.Config) []string {
	args := []string{"console=hvc0", "quiet", "panic=-1", "audit=0", "lsm=", "cryptomgr.notests",
		"rcupdate.rcu_expedited=1", "random.trust_cpu=on"}
	return append(args, cfg.KernelArgs...)
}

// checkKernel refuses what the framework's loader would start and then hang on:
// on arm64 a kernel must be an uncompressed Image
// (Documentation/arch/arm64/booting.rst, "magic").
func checkKernel(path, arch string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	if arch != "arm64" {
		return nil
	}
	const magicAt, magic = 56, 0x644d5241 // "ARM\x64"
	head := make([]byte, magicAt+4)
	if _, err := io.ReadFull(f, head); err != nil || binary.LittleEndian.Uint32(head[magicAt:]) != magic {
		return errs.WithHint(errs.New(errs.InvalidArgument, "kernel %s is not an uncompressed arm64 Image", path),
			"import it with vzcompose, which unpacks it")
	}
	return nil
}
