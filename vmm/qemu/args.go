//go:build linux

package qemu

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/vzcompose/vzcompose/vmm"
)

// The file descriptors that QEMU inherits.
const (
	fdMonitor = 3
	fdVsock   = 4
)

// rootPorts is how many devices may be plugged into a running machine.
const rootPorts = 4

// host is what the command line depends on besides the Config.
type host struct {
	accel Acceleration
	arch  string // GOARCH
}

// arguments is the command line for cfg, without the program. It is a pure
// function: the same inputs, the same words.
func arguments(cfg *vmm.Config, h host) ([]string, error) {
	a := &argv{}
	a.add("-name", "vzcompose-"+escape(cfg.Name))
	a.add("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none")
	a.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	a.add("-machine", machineType(h)+",memory-backend=ram")
	a.add("-accel", accelerator(h))
	a.add("-cpu", processor(h))
	a.add("-smp", fmt.Sprint(cfg.CPUs))
	a.add("-m", fmt.Sprintf("%dM", cfg.Memory>>20))
	// Shared and sealed, so that the vhost-user device may map it.
	a.object(map[string]any{"qom-type": "memory-backend-memfd", "id": "ram", "size": cfg.Memory, "share": true})
	a.add("-kernel", cfg.Kernel, "-initrd", cfg.Initramfs, "-append", strings.Join(kernelArgs(cfg, h), " "))
	a.console(cfg.Console)
	a.add("-chardev", fmt.Sprintf("socket,id=monitor,fd=%d", fdMonitor), "-mon", "chardev=monitor,mode=control")
	a.add("-chardev", fmt.Sprintf("socket,id=vsock,fd=%d", fdVsock))
	for i := range rootPorts {
		a.device(map[string]any{"driver": "pcie-root-port", "id": portName(i), "bus": "pcie.0", "chassis": i + 1,
			"addr": fmt.Sprintf("%#x.%d", portSlot, i), "multifunction": i == 0})
	}
	a.device(map[string]any{"driver": "vhost-user-vsock-pci", "id": "vsock", "chardev": "vsock"})
	for _, d := range cfg.Disks {
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
func kernelArgs(cfg *vmm.Config, h host) []string {
	args := []string{"quiet", "panic=-1", "audit=0", "lsm=", "cryptomgr.notests", "rcupdate.rcu_expedited=1", "random.trust_cpu=on"}
	if h.arch == "amd64" {
		args = append(args, "console=ttyS0", "reboot=t", "noreplace-smp", "8250.nr_uarts=1", "tsc=reliable", "no_timer_check")
	} else {
		args = append(args, "console=ttyAMA0")
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

func (a *argv) console(path string) {
	if path == "" {
		a.add("-serial", "null")
		return
	}
	a.add("-chardev", "file,id=console,append=on,path="+escape(path), "-serial", "chardev:console")
}

// escape doubles the commas of a value in QEMU's own syntax.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }
