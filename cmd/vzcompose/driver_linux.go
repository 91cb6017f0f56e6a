package main

import (
	"github.com/vzcompose/vzcompose/vmm"
	"github.com/vzcompose/vzcompose/vmm/qemu"
)

func newDriver(lookup func(string) (string, bool), templates string) (vmm.Driver, error) {
	accel, _ := lookup("VZCOMPOSE_ACCEL")
	program, _ := lookup("VZCOMPOSE_QEMU")
	return qemu.New(qemu.Options{Program: program, Acceleration: qemu.Acceleration(accel), Templates: templates}), nil
}
