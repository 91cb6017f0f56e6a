package vz

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	vzf "github.com/Code-Hex/vz/v3"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm"
)

// holdLimit is how long the framework may take to stop or start the processors.
const holdLimit = 20 * time.Second

// machine is one machine of the framework.
type machine struct {
	name string
	life *life
	dial *dialer
	// vm holds its configuration, and that the attachments: the binding's
	// finalizers release the objects of whatever Go has lost sight of, while the
	// machine still uses them. watch holds m until the machine is gone.
	vm   *vzf.VirtualMachine
	sock *vzf.VirtioSocketDevice // set by start
	kill sync.Once
	// The ends of the frame sockets, one of each a card. theirs is the machine's: the
	// binding does not duplicate it, and it must not be lost sight of.
	ours, theirs []*os.File
	vsock        bool // the container may use virtual sockets
}

var (
	_ vmm.Machine   = (*machine)(nil)
	_ vmm.Networker = (*machine)(nil)
	_ vmm.Pauser    = (*machine)(nil)
	_ vmm.Vsocker   = (*machine)(nil)
)

func newMachine(name string, vm *vzf.VirtualMachine) *machine {
	m := &machine{name: name, life: newLife(), vm: vm}
	m.dial = &dialer{name: name, connect: m.connect, life: m.life}
	return m
}

// start lets the machine run, and answers once it does. The framework's start
// takes no context: where it is given up, whatever comes of it is stopped by
// the goroutine that waits for it.
func (m *machine) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit,
		errs.New(errs.DeadlineExceeded, "the machine did not start within %s", startLimit))
	defer cancel()
	go m.watch()
	started := make(chan error, 1)
	go func() { started <- m.vm.Start() }()
	select {
	case err := <-started:
		if err != nil {
			m.life.end(nil) // it never was
			return explain(fmt.Errorf("start machine: %w", err))
		}
	case <-ctx.Done():
		m.kill.Do(func() { // in place of Kill, which cannot stop what is not started
			go func() {
				if <-started == nil {
					m.stop()
				}
				m.life.end(nil)
			}()
		})
		return fmt.Errorf("start machine: %w", context.Cause(ctx))
	}
	socks := m.vm.SocketDevices()
	if len(socks) != 1 {
		return errs.New(errs.Internal, "machine with %d virtual socket devices", len(socks))
	}
	m.sock = socks[0]
	return nil
}

// watch is the one reader of the machine's states: the channel is a queue, and
// a second reader would steal from it. The binding does not say what an error
// was.
func (m *machine) watch() {
	defer runtime.KeepAlive(m)
	states := m.vm.StateChangedNotify()
	for {
		select {
		case s := <-states:
			switch s {
			case vzf.VirtualMachineStateStopped:
				m.life.end(nil)
				return
			case vzf.VirtualMachineStateError:
				m.life.end(errs.New(errs.Unavailable, "machine %s broke: Virtualization.framework stopped it on an error", m.name))
				return
			}
		case <-m.life.gone: // it did not start, or could not be stopped
			return
		}
	}
}

// connect has a fault that cannot be answered from here: the binding closes the
// descriptor that it has duplicated, and the framework, whose it is, closes that
// number again when it lets go of its connection, right afterwards. What another
// goroutine opens in between is closed. The shim opens little while it dials.
func (m *machine) connect(port uint32) (net.Conn, error) {
	c, err := m.sock.Connect(port)
	if err != nil {
		return nil, err // not c: a nil pointer in an interface is not nil
	}
	return c, nil
}

// Dial connects to a guest port.
func (m *machine) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	return m.dial.dial(ctx, port)
}

// Listen takes the guest's connections to a host port.
func (m *machine) Listen(port uint32) (net.Listener, error) {
	if m.life.isOver() {
		return nil, errs.New(errs.Unavailable, "listen on port %d: machine %s is gone", port, m.name)
	}
	l, err := m.sock.Listen(port)
	if err != nil {
		return nil, fmt.Errorf("listen on port %d: %w", port, explain(err))
	}
	return newListener(l, m.life)
}

// Stop ends the machine and waits.
func (m *machine) Stop(ctx context.Context) error {
	if err := m.Kill(); err != nil {
		return err
	}
	select {
	case <-m.life.gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("await the end of machine %s: %w", m.name, context.Cause(ctx))
	}
}

// Kill ends the machine as a loss of power does. A polite request, the power
// button, is of no use: the agent does not listen to it, and is asked over its
// own connection instead.
func (m *machine) Kill() error {
	m.kill.Do(func() { go m.stop() }) // the framework's stop waits
	return nil
}

// stop asks for the end, which watch then sees. What cannot be stopped is given
// up: it ends with this process.
func (m *machine) stop() {
	if m.life.isOver() {
		return
	}
	err := m.vm.Stop()
	if err == nil {
		return
	}
	switch m.vm.State() {
	case vzf.VirtualMachineStateStopped, vzf.VirtualMachineStateError: // by itself, at the same time: watch has it
	default:
		m.life.end(fmt.Errorf("stop machine %s: %w", m.name, explain(err)))
	}
}

// Wait answers when the machine is gone.
func (m *machine) Wait(ctx context.Context) error { return m.life.wait(ctx) }

// Pause holds the machine's processors. A machine that is held stays so.
func (m *machine) Pause(ctx context.Context) error {
	return m.hold(ctx, "pause", vzf.VirtualMachineStatePaused, m.vm.Pause)
}

// Resume lets them go on. A machine that is not held goes on.
func (m *machine) Resume(ctx context.Context) error {
	return m.hold(ctx, "resume", vzf.VirtualMachineStateRunning, m.vm.Resume)
}

// hold has the framework bring the machine to a state, which takes no context and
// refuses what is so already.
func (m *machine) hold(ctx context.Context, verb string, to vzf.VirtualMachineState, do func() error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, holdLimit, errs.New(errs.DeadlineExceeded, "no answer within %s", holdLimit))
	defer cancel()
	if m.life.isOver() {
		return errs.New(errs.Unavailable, "%s machine %s: it is gone", verb, m.name)
	}
	if m.vm.State() == to {
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- do() }() // it ends when the framework answers, or the machine does
	select {
	case err := <-done:
		if err != nil && m.vm.State() != to { // another asked for the same at the same time
			return fmt.Errorf("%s machine %s: %w", verb, m.name, explain(err))
		}
		return nil
	case <-m.life.gone:
		return errs.New(errs.Unavailable, "%s machine %s: it is gone", verb, m.name)
	case <-ctx.Done():
		return fmt.Errorf("%s machine %s: %w", verb, m.name, context.Cause(ctx))
	}
}
