package main

import (
	"github.com/vzcompose/vzcompose/internal/cli"
	"github.com/vzcompose/vzcompose/vmm"
	"github.com/vzcompose/vzcompose/vmm/vz"
)

func newDriver(func(string) (string, bool), cli.DriverOptions) (vmm.Driver, error) {
	return vz.New(), nil
}
