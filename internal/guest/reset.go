//go:build linux

package guest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
)

// Reset makes the machine one that may be set up. One of which only half could
// be undone stays set up: nothing is started in it any more.
func (a *agent) Reset(ctx context.Context, _ agentproto.Reset) (agentproto.Empty, error) {
	if n := a.procs.count(); n > 0 {
		return agentproto.Empty{}, errs.New(errs.FailedPrecondition, "%d processes have not been released", n)
	}
	a.mu.Lock()
	if a.setup != setupDone {
		a.mu.Unlock()
		return agentproto.Empty{}, errs.New(errs.FailedPrecondition, "the machine is not set up")
	}
	a.setup = setupFailed // until all is done
	c, mounted, interfaces := a.container, a.mounted, a.interfaces
	a.mu.Unlock()
	err := takeDown(interfaces)
	if err == nil {
		err = a.strip(ctx, c, mounted)
	}
	if err != nil {
		a.log.printf("reset: %v", err)
		return agentproto.Empty{}, err
	}
	a.mu.Lock()
	a.setup, a.container, a.places, a.mounted = setupNone, nil, map[string]string{}, nil
	a.interfaces = nil
	a.mu.Unlock()
	return agentproto.Empty{}, nil
}

// strip takes from the machine what it had of an instance, and puts in place
// what a template has.
func (a *agent) strip(ctx context.Context, c *container, mounted []string) error {
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	if c != nil {
		if err := c.runtime.awaitRetired(ctx); err != nil {
			return err
		}
		_ = c.pidfd.Close() // of a process that has ended
		if err := c.cgroup.remove(ctx); err != nil {
			return err
		}
	}
	for _, t := range slices.Concat([]string{a.root}, mounted, []string{upperDir, lowerDir}) {
		if err := unix.Unmount(t, 0); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", t, err)
		}
	}
	if err := unix.Sethostname([]byte("(none)")); err != nil { // as the kernel has it
		return fmt.Errorf("set the host name: %w", err)
	}
	if err := a.ahead.makeCgroup(ctx, a.cgroups); err != nil {
		return err
	}
	s := newSpare()
	a.mu.Lock()
	a.spare = s
	a.mu.Unlock()
	go a.keepSpare(s)
	select {
	case <-s.ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("start the spare stage: %w", context.Cause(ctx))
	}
}
