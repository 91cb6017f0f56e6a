package engine

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/shimproto"
)

// stop ends an instance in order and waits until it is gone; none running is
// fine. grace replaces the declared one; discard says that the instance will be
// removed. A shim that cannot be spoken with
// is sent a signal, and killed where it does not end: its machine goes with it.
func (s *Stack) stop(ctx context.Context, name string, grace *time.Duration, discard bool) error {
	c, err := s.dial(ctx, name, nil)
	switch {
	case errs.Is(err, errs.NotFound):
		return nil
	case ctx.Err() != nil:
		return err
	case err != nil: // of another version, or its socket is gone: a signal reaches it
		return s.terminateShim(ctx, name, grace, err)
	}
	defer c.Close()
	if grace == nil { // the record may have changed since the shim read it
		if rec, err := s.o.Home.ReadInstance(s.Name, name); err == nil {
			grace = &rec.StopTimeout
		}
	}
	limit := s.o.StopLimit
	if grace != nil {
		limit += *grace
	}
	lctx, cancel := limited(ctx, limit, "stop the instance")
	defer cancel()
	_, err = c.Stop(lctx, shimproto.Stop{Grace: grace, Discard: discard})
	switch {
	case ctx.Err() != nil:
		return err
	case lctx.Err() != nil:
		return s.killShim(ctx, name, err)
	case errs.Is(err, errs.Unavailable): // it was lost at the very moment: then it is gone
		if gerr := s.awaitGone(ctx, name); gerr != nil {
			return errors.Join(err, gerr)
		}
		return nil
	}
	return errors.Join(err, s.awaitGone(ctx, name))
}

// Stop is stop for callers that have no plan.
func (s *Stack) Stop(ctx context.Context, name string, grace *time.Duration) error {
	return s.stop(ctx, name, grace, false)
}

// awaitGone waits until the shim has given up its lock.
func (s *Stack) awaitGone(ctx context.Context, name string) error {
	return s.awaitGoneFor(ctx, s.o.SpawnLimit, name)
}

func (s *Stack) awaitGoneFor(ctx context.Context, limit time.Duration, name string) error {
	ctx, cancel := limited(ctx, limit, "await the end of the shim")
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		alive, err := s.o.Home.Alive(s.Name, name)
		if err != nil || !alive {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// terminateShim ends a shim that cannot be spoken with by a signal, on which it stops
// its instance in order. why it could not be told is an error only where it cannot be
// ended.
func (s *Stack) terminateShim(ctx context.Context, name string, grace *time.Duration, why error) error {
	limit := 2 * s.o.SpawnLimit
	if rec, err := s.o.Home.ReadInstance(s.Name, name); grace == nil && err == nil {
		grace = &rec.StopTimeout
	}
	if grace != nil {
		limit += *grace
	}
	err := s.signalShim(ctx, name, syscall.SIGTERM, limit)
	if err == nil || ctx.Err() != nil {
		return err
	}
	return s.killShim(ctx, name, errors.Join(why, err))
}

// killShim ends a shim that does not answer, for the reason why.
func (s *Stack) killShim(ctx context.Context, name string, why error) error {
	if err := s.signalShim(ctx, name, syscall.SIGKILL, s.o.SpawnLimit); err != nil {
		return errors.Join(why, err)
	}
	return nil
}

// signalShim sends a shim a signal and waits until it is gone. Its lock says which
// process it is.
func (s *Stack) signalShim(ctx context.Context, name string, sig syscall.Signal, limit time.Duration) error {
	pid, err := s.o.Home.Owner(s.Name, name)
	if err != nil {
		return err
	}
	if alive, err := s.o.Home.Alive(s.Name, name); err != nil || !alive {
		return err
	}
	if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("send the shim a signal: %w", err)
	}
	return s.awaitGoneFor(ctx, limit, name)
}
