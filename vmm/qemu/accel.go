//go:build linux

package qemu

import (
	"bytes"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm"
)

// Acceleration is how the guest's instructions are run.
type Acceleration string

// The accelerations.
const (
	Auto Acceleration = ""    // KVM where it works, otherwise emulation
	KVM  Acceleration = "kvm" // by the processor
	TCG  Acceleration = "tcg" // by emulation
)

// choice is an acceleration and why.
type choice struct {
	accel  Acceleration
	reason string
}

// chooseAcceleration decides, given what the user asked for and a probe of KVM
// that answers nil where it really runs machines.
func chooseAcceleration(want Acceleration, probe func() error) (choice, error) {
	switch want {
	case TCG:
		return choice{TCG, "asked for"}, nil
	case KVM:
		if err := probe(); err != nil {
			return choice{}, errs.WithHint(errs.New(errs.Unsupported, "kvm was asked for: %w", err),
				"unset VZCOMPOSE_ACCEL to let machines be emulated")
		}
		return choice{KVM, "asked for"}, nil
	case Auto:
		if err := probe(); err != nil {
			return choice{TCG, err.Error()}, nil
		}
		return choice{KVM, "the processor's virtualization extension works"}, nil
	}
	return choice{}, errs.New(errs.InvalidArgument, "no acceleration %q: kvm or tcg", want)
}

// ioctls of /dev/kvm (include/uapi/linux/kvm.h).
const (
	kvmGetAPIVersion = 0xae00
	kvmCreateVM      = 0xae01
	kvmCreateVCPU    = 0xae41
	kvmAPIVersion    = 12
)

// probeKVM answers why KVM cannot be used. A device node proves nothing: where
// the host is itself a guest without nested virtualization, it opens, makes a
// machine, and the first kernel hangs in it. So on amd64 the processor must say
// that it has the extension, too.
func probeKVM() error {
	if runtime.GOARCH == "amd64" {
		info, err := os.ReadFile("/proc/cpuinfo")
		if err != nil {
			return err
		}
		if !hasVirtualization(info) {
			return fmt.Errorf("the processor offers neither vmx nor svm")
		}
	}
	fd, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/dev/kvm", Err: err}
	}
	defer unix.Close(fd)
	if v, err := ioctl(fd, kvmGetAPIVersion); err != nil || v != kvmAPIVersion {
		return fmt.Errorf("/dev/kvm speaks API version %d (%v)", v, err)
	}
	vm, err := ioctl(fd, kvmCreateVM)
	if err != nil {
		return fmt.Errorf("make a kvm machine: %w", err)
	}
	defer unix.Close(vm)
	cpu, err := ioctl(vm, kvmCreateVCPU)
	if err != nil {
		return fmt.Errorf("make a kvm cpu: %w", err)
	}
	return unix.Close(cpu)
}

func ioctl(fd int, request uintptr) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}

// hasVirtualization looks for vmx or svm among the flags of /proc/cpuinfo.
func hasVirtualization(cpuinfo []byte) bool {
	for line := range bytes.Lines(cpuinfo) {
		name, flags, ok := bytes.Cut(line, []byte(":"))
		if !ok || string(bytes.TrimSpace(name)) != "flags" {
			continue
		}
		for f := range bytes.FieldsSeq(flags) {
			if string(f) == "vmx" || string(f) == "svm" {
				return true
			}
		}
		return false // all processors are alike
	}
	return false
}

// nests refuses machines in the machine where the processor does not help: the
// emulated one would have to emulate again, a hundred times slower, with a
// kernel that our own has no module for.
func (h host) nests(cfg *vmm.Config) error {
	if !cfg.Nested {
		return nil
	}
	no := func(why string) error {
		return errs.WithHint(errs.New(errs.Unsupported, "this host cannot run machines in a machine: %s", why), "take virtualization out, or use a host that can")
	}
	if h.accel != KVM {
		return no("it has no hardware virtualization that works, and emulates")
	}
	for _, module := range []string{"kvm_intel", "kvm_amd"} { // module parameters: 1 or Y
		if b, err := os.ReadFile("/sys/module/" + module + "/parameters/nested"); err == nil && (b[0] == '1' || b[0] == 'Y') {
			return nil
		}
	}
	if h.arch != "amd64" {
		return no("KVM of this architecture does not")
	}
	return no("the kernel's module of KVM was loaded without nested=1")
}
