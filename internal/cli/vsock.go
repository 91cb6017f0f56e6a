package cli

import (
	"fmt"
	"io"
	"strconv"

	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/internal/stack"
)

func (a *app) vsockCommand() *cli.Command {
	return &cli.Command{
		Name: "vsock", Usage: "virtual sockets of containers",
		Subcommands: []*cli.Command{{
			Name: "dial", Usage: "join standard input and output to a port of a container", ArgsUsage: "NAME PORT",
			Flags:  []cli.Flag{&cli.IntFlag{Name: "index", Usage: "of the `N`th replica; the first by default"}},
			Action: a.vsockDial,
		}},
	}
}

// vsockDial ends when the container ends the connection. The end of standard input
// is passed on, where the system has half-close.
func (a *app) vsockDial(c *cli.Context) error {
	if c.NArg() != 2 {
		return usage("vsock dial wants a container and a port")
	}
	port, err := strconv.ParseUint(c.Args().Get(1), 10, 32)
	if err != nil {
		return usage("%q is not a port of virtual sockets: it is a number from 1 to 4294967294", c.Args().Get(1))
	}
	w, err := a.withName(c)
	if err != nil {
		return err
	}
	inst, shim, err := w.Connect(c.Context, c.Args().First(), c.Int("index"), fmt.Sprintf("dial port %d of", port))
	if err != nil {
		return err
	}
	defer shim.Close()
	s, err := shim.DialVsock(c.Context, uint32(port))
	if err != nil {
		return fmt.Errorf("dial port %d of %s: %w", port, inst.Name, err)
	}
	defer s.Close()
	go func() { // ends with this process: a read of a terminal cannot be taken back
		_, _ = io.Copy(struct{ io.Writer }{s}, a.deps.Stdin)
		_ = s.CloseWrite()
	}()
	if err := stack.CopyOut(a.deps.Stdout, s); err != nil {
		return fmt.Errorf("port %d of %s: %w", port, inst.Name, err)
	}
	return nil
}
