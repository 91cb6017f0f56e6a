// Command vzcompose brings up stacks of containers, each in a virtual machine of
// its own.
package main

import (
	"os"

	"github.com/vzcompose/vzcompose/internal/cli"
	"github.com/vzcompose/vzcompose/internal/driver"
)

func main() {
	os.Exit(cli.Main(cli.Deps{
		Args:      os.Args,
		Stdin:     os.Stdin,
		Stdout:    os.Stdout,
		Stderr:    os.Stderr,
		LookupEnv: os.LookupEnv,
		Driver:    driver.New,
	}))
}
