package shim

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/shimproto"
)

// hangUpLimit is how long a process whose command has gone away has from SIGHUP to
// SIGKILL.
const hangUpLimit = 10 * time.Second

// execs are the container's further processes: those of commands, of health checks
// and of hooks. The agent keeps what it knows of a process until it is released, at
// most 4096 of them, so each has a goroutine here (keepExec) that releases it,
// whoever else waits for it or has gone away.
type execs struct {
	mu   sync.Mutex // guards the following
	byID map[string]*execution
}

// execution is one of them.
type execution struct {
	id string
	// owner ends the process when it ends, unless it is disowned: SIGHUP, and
	// SIGKILL after grace. One that never ends is nobody's.
	owner    context.Context
	grace    time.Duration
	disowned chan struct{}

	started chan error    // has what became of its start
	claimed chan struct{} // closed once Wait has had exit
	ended   chan struct{} // closed once the following are set
	exit    agentproto.Exit
	lost    error // the agent was, before the process ended
}

// startExec starts a process for owner, and waits for that until ctx ends.
func (s *shim) startExec(ctx, owner context.Context, agent *agentproto.Client, start agentproto.Start, grace time.Duration) (*execution, error) {
	e := &execution{id: start.ID, owner: owner, grace: grace, disowned: make(chan struct{}),
		started: make(chan error, 1), claimed: make(chan struct{}), ended: make(chan struct{})}
	s.execs.add(e)
	s.tasks.Go(func() { s.keepExec(agent, start, e) })
	select {
	case err := <-e.started:
		return e, err
	case <-ctx.Done():
		return nil, context.Cause(ctx) // keepExec ends it if owner has ended too
	}
}

// keepExec starts e, sees it to its end, and has the agent forget it. The start does
// not end with its owner: whether the process was started would not be known.
func (s *shim) keepExec(agent *agentproto.Client, start agentproto.Start, e *execution) {
	defer s.execs.remove(e)
	ctx, cancel := limit(s.ctx, startLimit, "start the process")
	_, err := agent.Start(ctx, start)
	unknown := ctx.Err() != nil
	cancel()
	e.started <- err
	switch {
	case err == nil:
		s.awaitEnd(agent, e)
	case unknown: // it may run
		s.hangUp(agent, e, 0)
	default:
		return
	}
	if e.owner.Done() != nil {
		select {
		case <-e.claimed:
		case <-e.disowned:
		case <-e.owner.Done():
		}
	}
	rctx, cancel := limit(s.ctx, callLimit, "forget the process")
	defer cancel()
	_ = agent.Release(rctx, e.id) // an agent that does not answer has lost more than this
}

// awaitEnd returns when e has ended, of itself or because its owner has.
func (s *shim) awaitEnd(agent *agentproto.Client, e *execution) {
	select {
	case <-e.ended:
	case <-agent.Done():
		s.execs.lose(e, agent.Err())
	case <-e.owner.Done():
		s.hangUp(agent, e, e.grace)
	case <-e.disowned:
		select {
		case <-e.ended:
		case <-agent.Done():
			s.execs.lose(e, agent.Err())
		}
	}
}

// hangUp ends e: by SIGHUP to its group, and by SIGKILL after grace. A machine that
// is paused takes no signal, so SIGKILL is sent again until e has ended, or the
// agent is gone.
func (s *shim) hangUp(agent *agentproto.Client, e *execution, grace time.Duration) {
	sig, wait := agentproto.SIGHUP, grace
	for {
		if grace <= 0 {
			sig, wait = agentproto.SIGKILL, killLimit
		}
		err := s.signal(agent, agentproto.Signal{ID: e.id, Signal: sig, Group: true})
		if errs.Is(err, errs.NotFound) { // it was not started
			s.execs.lose(e, err)
			return
		}
		select {
		case <-e.ended:
			return
		case <-agent.Done():
			s.execs.lose(e, agent.Err())
			return
		case <-time.After(wait):
			grace = 0
		}
	}
}

func (x *execs) add(e *execution) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.byID == nil {
		x.byID = map[string]*execution{}
	}
	x.byID[e.id] = e
}

func (x *execs) remove(e *execution) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.byID[e.id] == e {
		delete(x.byID, e.id)
	}
}

func (x *execs) find(id string) (*execution, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.byID[id]; e != nil {
		return e, nil
	}
	return nil, errs.New(errs.NotFound, "no process %q", id)
}

// end takes the agent's notice of an end. It does not block.
func (x *execs) end(exit agentproto.Exit) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.byID[exit.ID]; e != nil && !isClosed(e.ended) {
		e.exit = exit
		close(e.ended)
	}
}

// lose ends e without an exit.
func (x *execs) lose(e *execution, why error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !isClosed(e.ended) {
		e.lost = why
		close(e.ended)
	}
}

// wait returns how e ended, once: nobody else finds it afterwards.
func (x *execs) wait(ctx context.Context, e *execution) (agentproto.Exit, error) {
	select {
	case <-e.ended:
	case <-ctx.Done():
		return agentproto.Exit{}, context.Cause(ctx)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if !isClosed(e.claimed) {
		close(e.claimed)
		delete(x.byID, e.id)
	}
	return e.exit, e.lost
}

// disown lets e go on without its owner.
func (x *execs) disown(e *execution) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !isClosed(e.disowned) {
		close(e.disowned)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// noteEnd enters the end of a command's process in the journal.
func (s *shim) noteEnd(e *execution) {
	s.tasks.Go(func() {
		<-e.ended
		if e.lost == nil {
			s.send(func() { s.enter("exec_die", map[string]string{"id": e.id, "exit_code": strconv.Itoa(e.exit.Code)}) })
		}
	})
}

// Wait answers when an exec has ended, and forgets it.
func (h handler) Wait(ctx context.Context, p shimproto.Wait) (agentproto.Exit, error) {
	e, err := h.s.execs.find(p.ID)
	if err != nil {
		return agentproto.Exit{}, err
	}
	return h.s.execs.wait(ctx, e)
}

// Detach lets an exec, or a one-off, go on when the connection ends that started it.
func (h handler) Detach(_ context.Context, p shimproto.Detach) (shimproto.Empty, error) {
	if p.ID == "" {
		h.s.oneOff.detach()
		return shimproto.Empty{}, nil
	}
	e, err := h.s.execs.find(p.ID)
	if err == nil {
		h.s.execs.disown(e)
	}
	return shimproto.Empty{}, err
}
