//go:build linux

package qemu

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/vzcompose/vzcompose/internal/warm"
	"github.com/vzcompose/vzcompose/vmm"
)

// The file descriptors that QEMU inherits. A machine without a device of sockets
// has its end all the same.
const (
	fdMonitor = 3
	fdVsock   = 4
	fdConsole = 5
	fdRAM     = 6
)

// rootPorts is how many devices may be plugged into a running machine, besides
// the one of sockets, which has the last port.
const (
	rootPorts = 4
	vsockPort = rootPorts
)

// host is what the command line depends on besides the Config.
type host struct {
	accel Acceleration
	arch  string // GOARCH
}

// birth is how a machine comes to be.
type birth int

const (
	asBooted   birth = iota // by its kernel
	asTemplate              // by its kernel, to be saved: without what is an instance's
	asRestored              // from a template; what an instance has is found on waking
)

// arguments is the command line for cfg, without the program. It is a pure
// function: the same inputs, the same words. What a template and those restored
// from it do not have in common are devices that only the latter have, and the
// kernel, which is in the RAM already. The device of sockets comes later still:
// QEMU loads no state where there is a device whose state cannot be saved.
func arguments(cfg *vmm.Config, h host, b birth) ([]string, error) {
	a := &argv{}
	a.add("-name", "vzcompose-"+escape(cfg.Name))
	a.add("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none")
	a.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	a.add("-machine", machineType(h)+",memory-backend=ram")
	a.add("-accel", accelerator(h))
	a.add("-cpu", processor(h))
	a.add("-smp", fmt.Sprint(cfg.CPUs))
	a.add("-m", fmt.Sprintf("%dM", cfg.Memory>>20))
	// A memory file of ours, sealed, so that it can be filled from a template and
	// a vhost-user device can map it.
	a.object(map[string]any{"qom-type": "memory-backend-file", "id": "ram", "size": cfg.Memory, "share": true,
		"mem-path": fmt.Sprintf("/proc/self/fd/%d", fdRAM)})
	a.add("-chardev", fmt.Sprintf("socket,id=console,fd=%d", fdConsole), "-serial", "chardev:console")
	a.add("-chardev", fmt.Sprintf("socket,id=monitor,fd=%d", fdMonitor), "-mon", "chardev=monitor,mode=control")
	a.add("-chardev", fmt.Sprintf("socket,id=vsock,fd=%d", fdVsock))
	for i := range rootPorts + 1 {
		a.device(map[string]any{"driver": "pcie-root-port", "id": portName(i), "bus": "pcie.0", "chassis": i + 1,
			"addr": fmt.Sprintf("%#x.%d", portSlot, i), "multifunction": i == 0})
	}
	a.device(map[string]any{"driver": "virtio-serial-pci", "id": "serial", "bus": "pcie.0", "addr": "0x2", "max_ports": 2})
	a.add("-chardev", fmt.Sprintf("socket,id=agent,fd=%d", 7))
	a.device(map[string]any{"driver": "virtserialport", "bus": "serial.0", "chardev": "agent", "name": "agent"})
	for i, id := range []string{"root", "writable"} {
		bd := map[string]any{"driver": "null-co", "node-name": "disk-" + id, "size": 1 << 40, "read-zeroes": true, "read-only": id == "root"}
		for _, d := range cfg.Disks {
			if d.ID == id {
				bd = blockdev(d)
			}
		}
		a.blockdev(bd)
		a.device(map[string]any{"driver": "virtio-blk-pci", "id": "dev-" + id, "drive": "disk-" + id, "serial": id, "bus": "pcie.0", "addr": fmt.Sprintf("%#x", 3+i), "num-queues": 1,
			"logical_block_size": 512, "physical_block_size": 512})
	}
	if b == asRestored {
		a.add("-incoming", "defer", "-S")
	} else {
		a.add("-kernel", cfg.Kernel, "-initrd", cfg.Initramfs, "-append", strings.Join(kernelArgs(cfg, h, b), " "))
	}
	if b == asTemplate {
		return a.words, a.err
	}
	if b == asBooted {
		a.device(vsockDevice("pcie.0"))
	}
	for _, d := range cfg.Disks {
		if d.ID == "root" || d.ID == "writable" {
			continue
		}
		a.blockdev(blockdev(d))
		a.device(blockDevice(d, "pcie.0"))
	}
	return a.words, a.err
}

// portSlot is the PCI slot whose functions are the root ports.
const portSlot = 0x10

func portName(i int) string { return fmt.Sprintf("port%d", i) }

func machineType(h host) string {
	if h.arch == "arm64" {
		return "virt,gic-version=max"
	}
	// What a micro-VM has no use for is not there to be probed.
	return "q35,usb=off,vmport=off,smbus=off,sata=off"
}

func accelerator(h host) string {
	if h.accel == KVM {
		return "kvm"
	}
	return "tcg,thread=multi"
}

func processor(h host) string {
	switch {
	case h.accel == KVM:
		return "host"
	case h.arch == "amd64":
		// With ERMS the guest copies by "rep movsb", which emulation does byte
		// by byte: without it I/O is 1.5 to 4 times as fast.
		return "max,erms=off"
	}
	return "max"
}

// kernelArgs is the kernel's command line: quiet, and without what costs a
// short boot time and gives a machine of one process nothing
// (Documentation/admin-guide/kernel-parameters.txt).
func kernelArgs(cfg *vmm.Config, h host, b birth) []string {
	args := []string{"quiet", "panic=-1", "audit=0", "lsm=", "cryptomgr.notests", "rcupdate.rcu_expedited=1", "random.trust_cpu=on"}
	if h.arch == "amd64" {
		args = append(args, "console=ttyS0", "reboot=t", "noreplace-smp", "8250.nr_uarts=1", "tsc=reliable", "no_timer_check")
	} else {
		args = append(args, "console=ttyAMA0")
	}
	if b == asTemplate {
		args = append(args, warm.Param)
	}
	return append(args, cfg.KernelArgs...)
}

func blockdev(d vmm.Disk) map[string]any {
	return map[string]any{
		"driver": "raw", "node-name": "disk-" + d.ID, "read-only": d.ReadOnly, "discard": "unmap", "detect-zeroes": "unmap",
		"file": map[string]any{"driver": "file", "filename": d.Path, "read-only": d.ReadOnly, "discard": "unmap"},
	}
}

func blockDevice(d vmm.Disk, bus string) map[string]any {
	return map[string]any{"driver": "virtio-blk-pci", "id": "dev-" + d.ID, "drive": "disk-" + d.ID, "serial": d.ID, "bus": bus,
		"num-queues": 1}
}

func vsockDevice(bus string) map[string]any {
	return map[string]any{"driver": "vhost-user-vsock-pci", "id": "vsock", "chardev": "vsock", "bus": bus}
}

// argv collects words.
type argv struct {
	words []string
	err   error
}

func (a *argv) add(words ...string) { a.words = append(a.words, words...) }

func (a *argv) json(flag string, v map[string]any) {
	b, err := json.Marshal(v)
	if err != nil && a.err == nil {
		a.err = fmt.Errorf("encode %s: %w", flag, err)
	}
	a.add(flag, string(b))
}

func (a *argv) object(v map[string]any)   { a.json("-object", v) }
func (a *argv) device(v map[string]any)   { a.json("-device", v) }
func (a *argv) blockdev(v map[string]any) { a.json("-blockdev", v) }

// escape doubles the commas of a value in QEMU's own syntax.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }
