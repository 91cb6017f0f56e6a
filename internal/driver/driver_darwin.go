package driver

import (
	"github.com/vzcompose/vzcompose/internal/process"
	"github.com/vzcompose/vzcompose/vmm"
	"github.com/vzcompose/vzcompose/vmm/vz"
)

// New returns the driver of this system.
func New(func(string) (string, bool), process.DriverOptions) (vmm.Driver, error) {
	return vz.New(), nil
}
