//go:build linux

package qemu

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/vzcompose/vzcompose/internal/boot"
	"github.com/vzcompose/vzcompose/vmm"
)

// The file descriptors that QEMU inherits.
const (
	fdMonitor = 3
	fdAgent   = 4
	fdConsole = 5
	fdCard    = 6
	fdRAM     = 7 // not of a machine that boots: its RAM is anonymous
)

// rootPorts is how many devices may be plugged into a running machine.
const rootPorts = 8

// What of the bus is where. A template's devices must be in the same places in
// those restored from it.
const (
	slotSerial = 0x2
	slotDisks  = 0x3 // and those after it
	slotCard   = 0xf
	slotPorts  = 0x10
)

// host is what the command line depends on besides the Config.
type host struct {
	accel Acceleration
	arch  string // GOARCH
	// strict: it counts memory that is mapped as used (vm.overcommit_memory=2), and
	// QEMU refuses to leave memory unreserved.
	strict bool
}

// birth is how a machine comes to be.
type birth int

const (
	asBooted   birth = iota // by its kernel
	asTemplate              // by its kernel, to be saved: without what is an instance's
	asRestored              // from a template
	asPrepared              // likewise, to be saved again
)

// restored says whether the machine's state comes over the monitor.
func (b birth) restored() bool { return b == asRestored || b == asPrepared }

// arguments is the command line for cfg, without the program. It is a pure
// function: the same inputs, the same words. A template and those restored from
// it have the same devices: where the template has bays for disks, they have
// disks. What is found nowhere but in an instance comes after those, and the
// guest has to look for it.
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
	a.object(memory(cfg, h, b))
	a.add("-chardev", fmt.Sprintf("socket,id=console,fd=%d", fdConsole), "-serial", "chardev:console")
	a.add("-chardev", fmt.Sprintf("socket,id=monitor,fd=%d", fdMonitor), "-mon", "chardev=monitor,mode=control")
	a.add("-chardev", fmt.Sprintf("socket,id=agent,fd=%d", fdAgent))
	a.device(map[string]any{"driver": "virtio-serial-pci", "id": "serial", "bus": "pcie.0", "addr": slot(slotSerial), "max_ports": 2})
	a.device(map[string]any{"driver": "virtserialport", "bus": "serial.0", "chardev": "agent", "name": boot.Port})
	for i := range rootPorts {
		a.device(map[string]any{"driver": "pcie-root-port", "id": portName(i), "bus": "pcie.0", "chassis": i + 1,
			"addr": fmt.Sprintf("%s.%d", slot(slotPorts), i), "multifunction": i == 0})
	}
	a.json("-netdev", netdev(0, fmt.Sprint(fdCard)))
	a.device(cardDevice(0, "pcie.0", map[string]any{"addr": slot(slotCard)}))
	disks := cfg.Disks
	if b != asBooted {
		var in [len(bays)]*vmm.Disk
		in, disks = fillBays(disks)
		for i, d := range in {
			a.blockdev(bayDisk(i, d))
			a.device(bayDevice(i, d))
		}
	}
	for _, d := range disks {
		a.blockdev(blockdev(d))
		a.device(blockDevice(d, "pcie.0"))
	}
	if b.restored() {
		a.add("-incoming", "defer", "-S")
	} else {
		a.add("-kernel", cfg.Kernel, "-initrd", cfg.Initramfs, "-append", strings.Join(kernelArgs(cfg, h, b), " "))
	}
	return a.words, a.err
}

// memory is the object for the machine's RAM: a memory file that can be saved,
// or the template's, privately, so that what a machine does not write is shared
// with all the others. It is not reserved: the kernel would refuse RAM larger than
// all that the host has, of which the machine may never use a tenth.
func memory(cfg *vmm.Config, h host, b birth) map[string]any {
	m := map[string]any{"qom-type": "memory-backend-ram", "id": "ram", "size": cfg.Memory}
	if !h.strict {
		m["reserve"] = false
	}
	if b != asBooted || servesDevices(cfg) {
		m["qom-type"] = "memory-backend-file"
		m["mem-path"] = fmt.Sprintf("/proc/self/fd/%d", fdRAM)
		m["share"] = b == asTemplate || b == asPrepared || servesDevices(cfg)
	}
	return m
}

// slot is a place on the bus.
func slot(n int) string { return fmt.Sprintf("%#x", n) }

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
	args = append(args, boot.PortParam)
	if b == asTemplate {
		args = append(args, boot.TemplateParam)
	}
	return append(args, cfg.KernelArgs...)
}

// A disk's names in QEMU.
func nodeName(id string) string   { return "disk-" + id }
func deviceName(id string) string { return "dev-" + id }

func blockdev(d vmm.Disk) map[string]any {
	return map[string]any{
		"driver": "raw", "node-name": nodeName(d.ID), "read-only": d.ReadOnly, "discard": "unmap", "detect-zeroes": "unmap",
		"file": map[string]any{"driver": "file", "filename": d.Path, "read-only": d.ReadOnly, "discard": "unmap"},
	}
}

func blockDevice(d vmm.Disk, bus string) map[string]any {
	return map[string]any{"driver": "virtio-blk-pci", "id": deviceName(d.ID), "drive": nodeName(d.ID), "serial": d.ID, "bus": bus,
		"num-queues": 1}
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
