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
	case isStage:
		stage()
		os.Exit(1)
	case os.Getpid() != 1:
		_, _ = fmt.Fprintln(os.Stderr, "vzagent: this is PID 1 of a virtual machine of vzcompose; it is of no use elsewhere")
		os.Exit(2)
	}
	greet()
	runtime.GOMAXPROCS(max(minProcs, runtime.NumCPU()))
	debug.SetGCPercent(gcPercent)
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

// gcPercent lets the heap grow to 16 MiB (4 MiB times this, by the hundred)
// before it is first collected, so that the start of a container is not held up
// by it, and an agent at rest has little more than that.
const gcPercent = 400

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
	if err := mountBase(); err != nil {
		return err
	}
	if err := raiseFiles(); err != nil {
		return err
	}
	told, err := readTold("/proc/cmdline")
	if err != nil {
		return err
	}
	a := newAgent(born)
	a.off, a.restored = powerOff, told.template
	files, err := a.modules.readLists()
	if err != nil {
		return err
	}
	return a.serveBoot(ctx, build, files, told)
}

// serveBoot loads the modules and serves, as it is told.
func (a *agent) serveBoot(ctx context.Context, build string, files []string, told told) error {
	listen, err := a.prepareListener(ctx, told, files)
	if err != nil {
		return err
	}
	ended := make(chan error, 8) // more than there are
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
	listening := make(chan struct{})
	guard(func() error {
		l, err := listen()
		if err != nil {
			return err
		}
		close(listening)
		return a.serveAgain(ctx, l, listen, build)
	})
	guard(func() error {
		a.loadModules(files)
		close(a.booted)
		if told.template {
			<-listening
			s := a.spareStage()
			guard(func() error { a.keepSpare(s); return nil })
			<-s.ready
			a.hibernate(ctx)
		}
		return nil
	})
	return <-ended
}

// prepareListener does what comes before the other modules, and answers what
// makes the listener for the host.
func (a *agent) prepareListener(ctx context.Context, told told, files []string) (func() (net.Listener, error), error) {
	if told.port {
		return func() (net.Listener, error) {
			<-a.booted // its module needs some of those
			if err := a.modules.need("virtio_console"); err != nil {
				return nil, err
			}
			return listenPort(ctx)
		}, nil
	}
	// The host's first dial succeeds as soon as the device is there if the
	// listener was before it; so the module of the sockets is the first.
	if err := a.modules.add(files[:min(1, len(files))]); err != nil {
		return nil, err
	}
	l, err := listenSockets()
	return func() (net.Listener, error) { return l, err }, err
}

// loadModules loads what is loaded at boot. What needs one that could not be
// will say so.
func (a *agent) loadModules(files []string) {
	if err := a.modules.add(files); err != nil {
		a.log.printf("%v", err)
	}
	if err := enableControllers(a.cgroups); err != nil {
		a.log.printf("%v", err)
	}
}
