package shim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/vmm"
)

// callLimit is how long the agent may take to answer a question.
const callLimit = 30 * time.Second

// Pause holds the machine's processors.
func (h handler) Pause(ctx context.Context, _ shimproto.Empty) (shimproto.Status, error) {
	return h.hold(ctx, lifecycle.Pause, h.s.pause)
}

// Resume lets them go on, and tells the machine what time it has become. A machine
// whose clock could not be set runs all the same.
func (h handler) Resume(ctx context.Context, _ shimproto.Empty) (shimproto.Status, error) {
	st, err := h.hold(ctx, lifecycle.Resume, h.s.resume)
	if err != nil {
		return st, err
	}
	_, agent, err := h.s.running.get()
	if err != nil {
		return st, nil // it has ended since
	}
	cctx, cancel := limit(ctx, callLimit, "set its clock")
	defer cancel()
	if err := agent.Clock(cctx); err != nil {
		return st, errs.WithHint(fmt.Errorf("it runs, but its clock is behind: %w", err), "pausing and resuming it sets the clock again")
	}
	return st, nil
}

// hold takes the event by do, if it is legal. The loop waits for it: a stop must
// find the machine either held or not. It does not end with the caller, who would
// leave the machine in a state that nobody knows.
func (h handler) hold(ctx context.Context, e lifecycle.Event, do func(context.Context, vmm.Pauser) error) (shimproto.Status, error) {
	err := h.ask(ctx, func() error {
		if _, err := h.s.life.Next(e); err != nil {
			return errs.As(errs.FailedPrecondition, err)
		}
		m, _, err := h.s.running.get()
		if err != nil {
			return err
		}
		p, ok := vmm.As[vmm.Pauser](m)
		if !ok {
			return errs.New(errs.Unsupported, "this machine cannot be paused")
		}
		hctx, cancel := limit(h.s.ctx, callLimit, e.String()+" the machine")
		defer cancel()
		return do(hctx, p)
	})
	st, _ := h.s.status.read()
	return st, err
}

// pause is all or nothing: a machine that may be held and is not known to be would
// stand still for ever. The loop's.
func (s *shim) pause(ctx context.Context, p vmm.Pauser) error {
	err := p.Pause(ctx)
	if err == nil {
		return s.move(lifecycle.Pause, "")
	}
	uctx, cancel := limit(s.ctx, callLimit, "let the machine go on")
	defer cancel()
	return errors.Join(err, p.Resume(uctx))
}

// resume has the record follow the machine. The loop's.
func (s *shim) resume(ctx context.Context, p vmm.Pauser) error {
	if err := p.Resume(ctx); err != nil {
		return err
	}
	return s.move(lifecycle.Resume, "")
}

// ask has the loop run f, and answers what it came to.
func (h handler) ask(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	h.s.send(func() { done <- f() })
	select {
	case err := <-done:
		return err
	case <-h.s.final:
		return errs.New(errs.FailedPrecondition, "the instance has ended")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// agent answers the agent of a running instance, for a call that is legal in
// the states given.
func (h handler) agent(what string, legal ...lifecycle.State) (*agentproto.Client, error) {
	st, _ := h.s.status.read()
	for _, l := range legal {
		if st.State == l {
			_, agent, err := h.s.running.get()
			return agent, err
		}
	}
	return nil, errs.New(errs.FailedPrecondition, "cannot %s what is %s", what, st.State)
}

// Resize sets the size of a process's terminal.
func (h handler) Resize(ctx context.Context, p shimproto.Resize) (shimproto.Empty, error) {
	agent, err := h.agent("resize the terminal of", lifecycle.Started)
	if err != nil {
		return shimproto.Empty{}, err
	}
	id := p.ID
	if id == "" {
		id = agentproto.InitID
	}
	ctx, cancel := limit(ctx, callLimit, "resize the terminal")
	defer cancel()
	return shimproto.Empty{}, agent.Resize(ctx, agentproto.Resize{ID: id, Rows: p.Rows, Cols: p.Cols})
}

// Stats asks what the container uses.
func (h handler) Stats(ctx context.Context, _ shimproto.Empty) (agentproto.Stats, error) {
	agent, err := h.agent("measure", lifecycle.Started, lifecycle.Stopping)
	if err != nil {
		return agentproto.Stats{}, err
	}
	ctx, cancel := limit(ctx, callLimit, "ask for statistics")
	defer cancel()
	return agent.Stats(ctx)
}

// Top lists the container's processes.
func (h handler) Top(ctx context.Context, _ shimproto.Empty) (agentproto.Top, error) {
	agent, err := h.agent("list the processes of", lifecycle.Started, lifecycle.Stopping)
	if err != nil {
		return agentproto.Top{}, err
	}
	ctx, cancel := limit(ctx, callLimit, "ask for processes")
	defer cancel()
	return agent.Top(ctx)
}

// Stat describes a file of the container.
func (h handler) Stat(ctx context.Context, p agentproto.Stat) (agentproto.FileInfo, error) {
	agent, err := h.agent("look into", lifecycle.Started, lifecycle.Stopping)
	if err != nil {
		return agentproto.FileInfo{}, err
	}
	ctx, cancel := limit(ctx, callLimit, "look at the file")
	defer cancel()
	return agent.Stat(ctx, p)
}

// Read has the agent write a tar to a stream of the command's.
func (h handler) Read(ctx context.Context, p agentproto.Read) (shimproto.Empty, error) {
	agent, err := h.agent("copy from", lifecycle.Started, lifecycle.Stopping)
	if err != nil {
		return shimproto.Empty{}, err
	}
	return shimproto.Empty{}, agent.Read(ctx, p)
}

// Write has the agent unpack a tar from a stream of the command's.
func (h handler) Write(ctx context.Context, p agentproto.Write) (shimproto.Empty, error) {
	agent, err := h.agent("copy to", lifecycle.Started, lifecycle.Stopping)
	if err != nil {
		return shimproto.Empty{}, err
	}
	return shimproto.Empty{}, agent.Write(ctx, p)
}
