package vmmfake

import (
	"context"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
)

// hold keeps the container until Go.
func (a *agent) hold(s agentproto.Start) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.admitLocked(s); err != nil {
		return err
	}
	a.held = &s
	return nil
}

// Go has the container that is held run as that of one instance.
func (a *agent) Go(ctx context.Context, g agentproto.Go) (r agentproto.Started, err error) {
	switch {
	case len(g.Entropy) < 32:
		return r, errs.New(errs.InvalidArgument, "%d bytes of entropy", len(g.Entropy))
	case len(g.Args) == 0:
		return r, errs.New(errs.InvalidArgument, "process without arguments")
	}
	a.mu.Lock()
	held := a.held
	a.held = nil
	if held != nil {
		set := a.setups[len(a.setups)-1]
		set.Hostname, set.Time, set.Files, set.Interfaces = g.Hostname, g.Time, g.Files, g.Interfaces
		a.setups = append(a.setups, set)
	}
	a.mu.Unlock()
	if held == nil {
		return r, errs.New(errs.FailedPrecondition, "no container is held in this machine")
	}
	if err := a.m.configure(g.Interfaces); err != nil {
		return r, err
	}
	s, spec, process := *held, *held.Spec, *held.Spec.Process
	process.Args, process.Env = g.Args, g.Env
	spec.Hostname, spec.Process = g.Hostname, &process
	s.Spec, s.Hold = &spec, false
	if fn := a.m.driver.o.Start; fn != nil {
		if err := fn(ctx, s); err != nil {
			return r, err
		}
	}
	return a.launch(s, &process)
}
