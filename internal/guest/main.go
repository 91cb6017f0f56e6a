//go:build linux

package guest

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
)

// Main is the agent's program: PID 1 of the machine, or the stage of a process
// in it. It does not return as PID 1; build is told to the host.
func Main(build string) {
	born := time.Now()
	switch {
	case len(os.Args) > 0 && os.Args[0] == stageName:
		stage()
		os.Exit(1)
	case os.Getpid() != 1:
		_, _ = fmt.Fprintln(os.Stderr, "vzagent: this is PID 1 of a virtual machine of vzcompose; it is of no use elsewhere")
		os.Exit(2)
	}
	greet()
	runtime.GOMAXPROCS(max(minProcs, runtime.NumCPU()))
	defer powerOff() // on every path
	defer func() {
		if p := recover(); p != nil {
			report(fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
		}
	}()
	report(run(born, build))
}

// minProcs is how many processors the runtime is told of, at least. With just
// one, its monitor takes it away from every system call that lasts 20 µs, which
// is most of them under emulation, and wakes 50,000 times a second to do so
// (runtime/proc.go, retake).
const minProcs = 2

// report says on the console why the machine ends.
func report(err error) {
	if err != nil {
		_, _ = unix.Write(1, []byte("vzcompose-agent: "+err.Error()+"\n")) // the last word
	}
}

// run boots and serves. It returns when it cannot go on.
func run(born time.Time, build string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := coverInitialRoot(); err != nil {
		return err
	}
	a := newAgent(born)
	a.off = powerOff
	files, err := a.modules.readLists()
	if err != nil {
		return err
	}
	// The host's first dial succeeds as soon as the device is there if the
	// listener was before it; so only the module of the sockets goes ahead.
	early := files[:min(1, len(files))]
	if err := a.modules.add(early); err != nil {
		return err
	}
	l, err := listen()
	if err != nil {
		return err
	}
	if err := mountBase(); err != nil {
		return err
	}
	if err := raiseFiles(); err != nil {
		return err
	}
	return a.serveBoot(ctx, l, build, files[len(early):])
}

// serveBoot serves l while the other modules are loaded.
func (a *agent) serveBoot(ctx context.Context, l net.Listener, build string, files []string) error {
	ended := make(chan error, 4)
	guard := func(fn func() error) {
		go func() {
			defer func() {
				if p := recover(); p != nil {
					ended <- fmt.Errorf("panic: %v\n%s", p, debug.Stack())
				}
			}()
			if err := fn(); err != nil {
				ended <- err
			}
		}()
	}
	guard(func() error { a.reaper.run(ctx); return nil })
	guard(func() error { a.reaper.tell(ctx); return nil })
	guard(func() error { return a.serve(ctx, l, build, fromHost) })
	guard(func() error {
		defer close(a.booted)
		if err := a.modules.add(files); err != nil {
			a.log.printf("%v", err) // what needs it will say so
		}
		if err := enableControllers(a.cgroups); err != nil {
			a.log.printf("%v", err) // likewise
		}
		return nil
	})
	return <-ended
}
