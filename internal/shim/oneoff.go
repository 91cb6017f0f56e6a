package shim

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"github.com/vzcompose/vzcompose/internal/childenv"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/wire"
)

// oneOff is an instance that is removed when it has ended (Launch.Remove). It
// belongs to the command that attaches to it first: when that goes away without
// having detached, the instance is stopped, for nobody is there for whom it runs.
// A command that is still there at the end removes it; else the shim has it removed.
type oneOff struct {
	mu       sync.Mutex      // guards the following
	owner    context.Context // of the command's connection; nil: there was none
	detached bool            // it goes on without its command
	left     bool            // nobody was there at its end
}

// own makes the instance that of the connection of ctx, if it is a one-off that
// nobody has yet.
func (s *shim) own(ctx context.Context) {
	if len(s.launch.Remove) == 0 || !s.oneOff.take(wire.Connection(ctx)) {
		return
	}
	s.tasks.Go(func() {
		select {
		case <-wire.Connection(ctx).Done():
			if s.oneOff.lost() {
				s.send(func() { s.stop(nil) })
			}
		case <-s.final:
		}
	})
}

func (o *oneOff) take(owner context.Context) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.owner != nil {
		return false
	}
	o.owner = owner
	return true
}

// detach lets the instance go on without its command.
func (o *oneOff) detach() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.detached = true
}

// lost reports whether the command went away without having detached.
func (o *oneOff) lost() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.detached
}

// conclude notes whether the command is there at the end. The shim's own end ends
// every connection.
func (o *oneOff) conclude() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.left = o.owner == nil || o.owner.Err() != nil
}

// removeLater starts the process that removes a one-off whose command is gone. It
// waits for the end of this one.
func (s *shim) removeLater() error {
	if len(s.launch.Remove) == 0 || !s.oneOff.left {
		return nil
	}
	order, err := json.Marshal(shimproto.RemoveOrder{Stack: s.inst.Stack, Instance: s.inst.Name})
	if err != nil {
		return errs.New(errs.Internal, "encode what is to be removed: %w", err)
	}
	in, out, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("have %s removed: %w", s.inst.Name, err)
	}
	defer in.Close() // the child has its own
	_, err = out.Write(order)
	_ = out.Close() // the pipe holds it: an order is smaller than that
	if err != nil {
		return fmt.Errorf("have %s removed: %w", s.inst.Name, err)
	}
	cmd := exec.Command(s.launch.Remove[0], s.launch.Remove[1:]...)
	cmd.Stdin, cmd.Dir, cmd.Env = in, "/", append(childenv.List(), "VZCOMPOSE_HOME="+s.launch.Home.Dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("have %s removed: %w", s.inst.Name, err)
	}
	return nil
}
