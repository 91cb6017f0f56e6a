package process

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/vzcompose/vzcompose/internal/stack"
	"github.com/vzcompose/vzcompose/internal/switchproc"
)

// beSwitch carries a stack's networks until nobody is on them.
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

// beFill fills the pool of machines.
func beFill(d Deps) error {
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	h, err := stack.Open(stack.Options{LookupEnv: d.LookupEnv})
	if err != nil {
		return err
	}
	return h.Fill(ctx, d.Stdin)
}
