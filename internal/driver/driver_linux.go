package driver

import (
	"math"

	"github.com/vzcompose/vzcompose/internal/process"
	"github.com/vzcompose/vzcompose/vmm"
	"github.com/vzcompose/vzcompose/vmm/qemu"
)

// New returns the driver of this system.
func New(lookup func(string) (string, bool), o process.DriverOptions) (vmm.Driver, error) {
	accel, _ := lookup("VZCOMPOSE_ACCEL")
	program, _ := lookup("VZCOMPOSE_QEMU")
	return qemu.New(qemu.Options{Program: program, Acceleration: qemu.Acceleration(accel),
		Templates: o.Templates, TemplatesLimit: int64(min(o.TemplatesLimit, math.MaxInt64))}), nil
}
