// Package process is the processes of vzcompose that outlive the command which started
// them: the shim of an instance, the switch of a stack, and what fills the pool. Any
// program can become one of them.
package process

import (
	"fmt"
	"io"
	"os"

	"github.com/vzcompose/vzcompose/internal/stack"
	"github.com/vzcompose/vzcompose/vmm"
)

// Deps are what the processes have of the world around them.
type Deps struct {
	Stdin     *os.File
	Stderr    io.Writer // the file that whoever started the process reads
	LookupEnv func(string) (string, bool)
	Driver    NewDriver
}

// NewDriver returns this system's driver of machines.
type NewDriver func(lookup func(string) (string, bool), o DriverOptions) (vmm.Driver, error)

// DriverOptions are what a driver is told besides the environment.
type DriverOptions struct {
	// Templates is the folder for what machines are restored from; "": they boot.
	Templates string
	// TemplatesLimit bounds it, in bytes; 0: as the driver likes.
	TemplatesLimit uint64
}

// Probe returns a function that returns what keeps this host from running machines,
// with the driver of newDriver; nil where nothing does.
func Probe(newDriver NewDriver, lookup func(string) (string, bool)) func() error {
	return func() error {
		d, err := newDriver(lookup, DriverOptions{})
		if err != nil {
			return err
		}
		if p, ok := d.(vmm.Prober); ok {
			return p.Probe()
		}
		return nil
	}
}

// Run is the process that a command of internal/stack names, until its end, and returns
// its exit status. Where command names none, ok is false.
func Run(command string, d Deps) (status int, ok bool) {
	be, ok := map[string]func(Deps) error{stack.ShimCommand: beShim, stack.SwitchCommand: beSwitch, stack.FillCommand: beFill, stack.RemoveCommand: beRemove}[command]
	if !ok {
		return 0, false
	}
	if err := be(d); err != nil {
		fmt.Fprintln(d.Stderr, err)
		return 1, true
	}
	return 0, true
}
