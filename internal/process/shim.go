package process

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"

	"github.com/vzcompose/vzcompose/internal/shim"
	"github.com/vzcompose/vzcompose/internal/shimproto"
)

// readyFD is where a shim says that it can be dialled.
const readyFD = 3

// shimMemory is what a shim should do with, in bytes. It is not a bound: the
// collector works harder where it is near. There is a shim an instance, and what
// many processes say at once must not make each of them large.
const shimMemory = 64 << 20

// sayInto makes our last words go where those of l's instance are looked for.
func sayInto(l shimproto.Launch) error {
	path := filepath.Join(l.Home.Instance(l.Instance.Stack, l.Instance.Name), "shim.log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(dup(int(f.Fd()), 2), f.Close())
}

// beShim looks after one instance until it has ended.
func beShim(d Deps) error {
	ready := os.NewFile(readyFD, "ready")
	if ready == nil {
		return errors.New("a shim is started by vzcompose up, not by hand")
	}
	syscall.CloseOnExec(readyFD)
	l, err := shimproto.ReadLaunch(d.Stdin)
	if err != nil {
		return err
	}
	driver, err := d.Driver(d.LookupEnv, DriverOptions{Templates: l.Templates, TemplatesLimit: l.TemplatesLimit})
	if err != nil {
		return err
	}
	if _, set := d.LookupEnv("GOMEMLIMIT"); !set {
		debug.SetMemoryLimit(shimMemory)
	}
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	tell := sync.OnceFunc(func() {
		_, _ = ready.WriteString("ready\n") // whoever waited may be gone
		_ = ready.Close()
	})
	if l.Spare {
		return shim.RunSpare(ctx, driver, l, tell, sayInto)
	}
	if l.Prepare {
		return shim.Prepare(ctx, driver, l, tell)
	}
	return shim.Run(ctx, driver, l, tell)
}
