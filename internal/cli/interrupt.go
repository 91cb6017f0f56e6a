package cli

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/internal/stack"
)

// interrupt is what Ctrl-C means: drain ends at the first, kill at the second.
type interrupt struct {
	drain, kill context.Context
	release     func()
}

func newInterrupt(ctx context.Context) *interrupt {
	drain, endDrain := context.WithCancelCause(ctx)
	kill, endKill := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		for _, end := range []context.CancelCauseFunc{endDrain, endKill} {
			select {
			case <-signals:
				end(stack.ErrInterrupted)
			case <-done:
				return
			}
		}
	}()
	return &interrupt{drain: drain, kill: kill, release: sync.OnceFunc(func() {
		signal.Stop(signals)
		close(done)
	})}
}

// asked reports whether the user has asked to stop.
func (i *interrupt) asked() bool { return context.Cause(i.drain) == stack.ErrInterrupted }

// interruptible is an action that ends at the first Ctrl-C, and leaves nothing half
// made: what it does undoes itself.
func interruptible(action cli.ActionFunc) cli.ActionFunc {
	return func(c *cli.Context) error {
		stop := newInterrupt(c.Context)
		defer stop.release()
		c.Context = stop.drain
		err := action(c)
		if err != nil && stop.asked() {
			return stack.ErrInterrupted
		}
		return err
	}
}

// control reads the flags that all changes of a stack have in common.
func (a *app) control(c *cli.Context, stop *interrupt) stack.Control {
	o := stack.Control{Drain: stop.drain, Kill: stop.kill, Events: a.sink(a.view),
		DryRun: c.Bool("dry-run"), FailFast: c.Bool("fail-fast"), Parallel: c.Int("parallel")}
	if t := c.Int("timeout"); c.IsSet("timeout") && t >= 0 {
		grace := time.Duration(t) * time.Second
		o.Grace = &grace
	}
	return o
}

// change opens a stack and changes it, as the flags say that all changes have.
func (a *app) change(c *cli.Context, open func() (*stack.Stack, error), do func(*stack.Stack, stack.Control) error) error {
	s, err := open()
	if err != nil {
		return err
	}
	stop := newInterrupt(c.Context)
	defer stop.release()
	return do(s, a.control(c, stop))
}
