package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/shim"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/vmm"
	"github.com/vzcompose/vzcompose/vmm/vmmfake"
)

// asShim as its first argument makes the test's executable a shim, with fake
// machines; the second says what kind.
const asShim = "as-shim"

// The kinds of shims.
const (
	orderly   = "orderly"
	endless   = "endless"   // its machine never comes up
	speechful = "speechful" // ends at once, with words
	wordless  = "wordless"  // and without
	unready   = "unready"   // never says that it is ready
	hung      = "hung"      // answers its status and nothing else
	foreign   = "foreign"   // of another version
)

// shimLife is how long a shim may outlive a test that was itself killed.
const shimLife = 2 * time.Minute

func TestMain(m *testing.M) {
	be := func() error { return beShim(os.Args[2]) }
	switch {
	case len(os.Args) == 5 && os.Args[1] == asCommand:
		be = func() error { return beCommand(os.Args[2], os.Args[3], os.Args[4]) }
	case len(os.Args) < 3 || os.Args[1] != asShim:
		os.Exit(m.Run())
	}
	time.AfterFunc(shimLife, func() { os.Exit(9) })
	if err := be(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// beShim is what the cli does, with vmmfake.
func beShim(kind string) error {
	ready := os.NewFile(3, "ready")
	syscall.CloseOnExec(3)
	l, err := shimproto.ReadLaunch(os.Stdin)
	if err != nil {
		return err
	}
	tell := sync.OnceFunc(func() {
		_, _ = ready.WriteString("ready\n")
		_ = ready.Close()
	})
	var o vmmfake.Options
	switch kind {
	case endless:
		o.Boot = func(ctx context.Context, _ *vmm.Config) error { <-ctx.Done(); return context.Cause(ctx) }
	case speechful:
		return errors.New("no accelerator on this host")
	case wordless:
		os.Exit(1)
	case unready:
		tell = func() {}
	case hung:
		return hang(l.Home, l.Instance, shimproto.Version, tell)
	case foreign:
		return hang(l.Home, l.Instance, shimproto.Version+1, tell)
	}
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return shim.Run(ctx, vmmfake.New(o), l, tell)
}

// hang is a shim that has its lock and greets, and does nothing that it is told. A
// signal ends it.
func hang(home store.Home, i store.Instance, version int, tell func()) error {
	if _, err := home.LockInstance(i.Stack, i.Name); err != nil {
		return err
	}
	if err := home.WriteState(i.Stack, i.Name, store.State{State: lifecycle.Started, Boots: 1, PID: os.Getpid()}); err != nil {
		return err
	}
	if err := home.MakeRuntime(); err != nil {
		return err
	}
	l, err := net.Listen("unix", home.Socket(i.Stack, i.Name))
	if err != nil {
		return err
	}
	srv := shimproto.NewServer(deaf{}, nil, func(_ context.Context, notify func(string, any) error) {
		go func() { _ = notify(shimproto.NoticeStatus, deaf{}.now()) }()
	})
	srv.Version = version
	tell()
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() { _ = srv.ServeConn(context.Background(), c) }()
	}
}

// deaf answers its status only.
type deaf struct{ shimproto.Handler }

func (deaf) now() shimproto.Status {
	return shimproto.Status{State: lifecycle.Started, Boots: 1, PID: os.Getpid()}
}

func (d deaf) Status(context.Context, shimproto.Empty) (shimproto.Status, error) { return d.now(), nil }
func (deaf) Stop(context.Context, shimproto.Stop) (shimproto.Status, error)      { select {} }
