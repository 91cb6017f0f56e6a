package main

import (
	"math"

	"github.com/vzcompose/vzcompose/internal/cli"
	"github.com/vzcompose/vzcompose/vmm"
	"github.com/vzcompose/vzcompose/vmm/qemu"
)

func newDriver(lookup func(string) (string, bool), o cli.DriverOptions) (vmm.Driver, error) {
	accel, _ := lookup("VZCOMPOSE_ACCEL")
	program, _ := lookup("VZCOMPOSE_QEMU")
	return qemu.New(qemu.Options{Program: program, Acceleration: qemu.Acceleration(accel),
		Templates: o.Templates, TemplatesLimit: int64(min(o.TemplatesLimit, math.MaxInt64))}), nil
}
