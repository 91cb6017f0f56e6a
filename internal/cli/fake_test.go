package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/internal/process"
	"github.com/vzcompose/vzcompose/internal/stack/stacktest"
	"github.com/vzcompose/vzcompose/vmm"
	"github.com/vzcompose/vzcompose/vmm/vmmfake"
)

// asVZCompose is vzcompose with machines in memory. Each shim is a process of its
// own, as always, and has its machine in itself.
func asVZCompose() {
	os.Exit(Main(Deps{Args: os.Args, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, LookupEnv: os.LookupEnv, Driver: newFake,
		Events: dieAt(os.Getenv("FAKE_DIE_AT"))}))
}

// dieAt kills this process, as kill -9 does, at the nth event of its plans, where
// text is that number.
func dieAt(text string) event.Sink {
	n, err := strconv.Atoi(text)
	if err != nil {
		return nil
	}
	return func(event.Event) {
		if n--; n == 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // it takes a moment
		}
	}
}

// newFake is a driver that a script directs by files in HOME/fake:
//
//   - hold/POINT-INSTANCE: a machine that comes to POINT (boot, ready) creates
//     at/POINT-INSTANCE and waits until the file is gone;
//   - fail/POINT-INSTANCE: it fails there, with the file's text;
//   - die/POINT-INSTANCE: its shim is killed there, and the file is gone.
//
// Its programs are those of vmmfake, and
//
//   - until FILE: waits for HOME/fake/FILE and exits with the number in it;
//   - serve: prints "ready", and after SIGTERM "bye", and exits with 0;
//   - print TEXT FILE: prints TEXT, then does what until does;
//   - show NAME: prints NAME and the value of that variable, then does what serve does;
//   - hear PORT: repeats what comes to the port of the machine's first network card;
//   - talk CARD ADDRESS TEXT: says the text at the address by the machine's network
//     card of that number, and prints what comes back;
//   - fill FILE ROOM: once there is HOME/fake/FILE, it writes to a host disk that is
//     full, until there is HOME/fake/ROOM.
func newFake(lookup func(string) (string, bool), o process.DriverOptions) (vmm.Driver, error) {
	if why, ok := lookup("FAKE_NO_MACHINES"); ok {
		return nil, errs.WithHint(errs.New(errs.Unavailable, "%s", why), "install it")
	}
	return vmmfake.New(vmmfake.Options{
		Templates: o.Templates,
		Boot:      func(ctx context.Context, cfg *vmm.Config) error { return atPoint(ctx, cfg, "boot") },
		Ready: func(ctx context.Context, m *vmmfake.Machine) error {
			cfg := m.Config()
			return atPoint(ctx, &cfg, "ready")
		},
		Programs: map[string]vmmfake.Program{"until": until, "serve": stacktest.Serve, "fill": fillDisk, "show": show, "hear": hear, "talk": talk, "print": func(ctx context.Context, p *vmmfake.Process) int {
			fmt.Fprintln(p.Stdout, p.Args[1])
			p.Args = p.Args[1:]
			return until(ctx, p)
		}},
	}), nil
}

// fakeDir is HOME/fake of the machine whose console is HOME/stacks/S/I/console.log.
func fakeDir(cfg *vmm.Config) (dir, instance string) {
	in := filepath.Dir(cfg.Console)
	return filepath.Join(in, "..", "..", "..", "fake"), filepath.Base(in)
}

func atPoint(ctx context.Context, cfg *vmm.Config, point string) error {
	dir, instance := fakeDir(cfg)
	file := point + "-" + instance
	if b, err := os.ReadFile(filepath.Join(dir, "fail", file)); err == nil {
		return errors.New(strings.TrimSpace(string(b)))
	}
	if os.Remove(filepath.Join(dir, "die", file)) == nil {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // it takes a moment
	}
	held := filepath.Join(dir, "hold", file)
	if _, err := os.Stat(held); err != nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Join(dir, "at"), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "at", file), nil, 0o600); err != nil {
		return err
	}
	return poll(ctx, func() bool { _, err := os.Stat(held); return err != nil })
}

func until(ctx context.Context, p *vmmfake.Process) int {
	cfg := p.Machine.Config()
	dir, _ := fakeDir(&cfg)
	code := 1
	_ = poll(ctx, func() bool { // a signal ends it, and then the code is of no account
		b, err := os.ReadFile(filepath.Join(dir, p.Args[1]))
		if err == nil {
			code, err = strconv.Atoi(strings.TrimSpace(string(b)))
		}
		return err == nil
	})
	return code
}

func show(ctx context.Context, p *vmmfake.Process) int {
	for _, e := range p.Env {
		if strings.HasPrefix(e, p.Args[1]+"=") {
			fmt.Fprintln(p.Stdout, e)
		}
	}
	return stacktest.Serve(ctx, p)
}

func hear(ctx context.Context, p *vmmfake.Process) int {
	port, err := strconv.ParseUint(p.Args[1], 10, 16)
	if err != nil {
		return 2
	}
	setups := p.Machine.Setups()
	at := setups[len(setups)-1].Interfaces[0].Addresses[0].Addr()
	l, err := p.Machine.Station(0).Listen(netip.AddrPortFrom(at, uint16(port)))
	if err != nil {
		fmt.Fprintln(p.Stderr, err)
		return 1
	}
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	fmt.Fprintln(p.Stdout, "ready")
	for {
		c, err := l.Accept()
		if err != nil {
			return 0
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
		}()
	}
}

func talk(ctx context.Context, p *vmmfake.Process) int {
	card, err := strconv.Atoi(p.Args[1])
	if err != nil {
		return 2
	}
	c, err := p.Machine.Station(card).Dial(ctx, netip.MustParseAddrPort(p.Args[2]))
	if err != nil {
		fmt.Fprintln(p.Stderr, err)
		return 1
	}
	defer c.Close()
	text := p.Args[3] + "\n"
	if _, err := io.WriteString(c, text); err != nil {
		return 1
	}
	if _, err := io.CopyN(p.Stdout, c, int64(len(text))); err != nil {
		return 1
	}
	return 0
}

func fillDisk(ctx context.Context, p *vmmfake.Process) int {
	cfg := p.Machine.Config()
	dir, _ := fakeDir(&cfg)
	is := func(name string) func() bool {
		return func() bool { _, err := os.Stat(filepath.Join(dir, name)); return err == nil }
	}
	if poll(ctx, is(p.Args[1])) == nil {
		p.Machine.Fill("/full/disk")
		if poll(ctx, is(p.Args[2])) == nil {
			p.Machine.Free()
			<-ctx.Done()
		}
	}
	return 0
}

// poll blocks until is true or ctx ends.
func poll(ctx context.Context, is func() bool) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
