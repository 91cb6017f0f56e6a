package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/vzcompose/vzcompose/internal/switchproc"
)

// runSwitch carries a stack's networks until nobody is on them.
func runSwitch(d Deps) int {
	if err := beSwitch(d); err != nil {
		fmt.Fprintln(d.Stderr, err) // the file that whoever started it named
		return exitFailed
	}
	return exitDone
}

func beSwitch(d Deps) error {
	ready := os.NewFile(switchproc.ReadyFD, "ready")
	if ready == nil {
		return errors.New("a switch is started by a shim, not by hand")
	}
	syscall.CloseOnExec(switchproc.ReadyFD)
	o, err := switchproc.ReadOrders(d.Stdin)
	if err != nil {
		return err
	}
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return switchproc.Run(ctx, o, sync.OnceFunc(func() {
		_, _ = ready.WriteString("ready\n") // whoever waited may be gone
		_ = ready.Close()
	}))
}

// runFill fills the pool of machines.
func runFill(d Deps) int {
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	h, err := (&app{deps: d}).open()
	if err == nil {
		err = h.Fill(ctx, d.Stdin)
	}
	if err != nil {
		fmt.Fprintln(d.Stderr, err)
		return exitFailed
	}
	return exitDone
}
