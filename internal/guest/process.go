//go:build linux

package guest

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
)

// maxProcesses is how many processes are kept, the ended that the host has not
// released included.
const maxProcesses = 4096

// process is one that the host has started, or is starting.
type process struct {
	id     string
	cgroup *cgroup
	ooms   uint64 // oomKills of cgroup at its start
	stdio  *stdio
	child  *child

	done chan struct{} // closed once exit is set
	exit agentproto.Exit
}

// processes are all of them by ID.
type processes struct {
	mu     sync.Mutex // guards the following
	byID   map[string]*process
	closed bool // the machine is going off
}

// reserve makes a place for a process to be started.
func (t *processes) reserve(id string) (*process, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return nil, errs.New(errs.FailedPrecondition, "the machine is going off")
	case t.byID[id] != nil:
		return nil, errs.New(errs.AlreadyExists, "process %q is there already", id)
	case len(t.byID) >= maxProcesses:
		return nil, errs.New(errs.ResourceExhausted, "more than %d processes are kept: release ended ones", maxProcesses)
	}
	p := &process{id: id, done: make(chan struct{})}
	t.byID[id] = p
	return p, nil
}

func (t *processes) remove(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byID, id)
}

// find answers the started process called id.
func (t *processes) find(id string) (*process, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.byID[id]
	if p == nil || p.child == nil {
		return nil, errs.New(errs.NotFound, "no process %q", cutName(id))
	}
	return p, nil
}

// release forgets an ended process. One that is not known is fine.
func (t *processes) release(id string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.byID[id]
	if p == nil {
		return nil
	}
	select {
	case <-p.done:
	default:
		return errs.New(errs.FailedPrecondition, "process %q has not ended", id)
	}
	delete(t.byID, id)
	p.stdio.retire()
	return nil
}

func (t *processes) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byID)
}

func (t *processes) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
}

func (t *processes) isClosed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed
}

// started makes the reserved p a started one.
func (t *processes) started(p *process, c *child) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p.child = c
}

// ended says whether p has.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// finish records p's end.
func (p *process) finish(ws unix.WaitStatus, at time.Time) agentproto.Exit {
	p.exit = agentproto.Exit{ID: p.id, Code: ws.ExitStatus(), At: at}
	p.exit.Full = p.id == agentproto.InitID && p.exit.Code != 0 && writableFull()
	if ws.Signaled() {
		p.exit.Signal = int(ws.Signal())
		p.exit.Code = 128 + p.exit.Signal
		// The whole cgroup dies of it (memory.oom.group), by SIGKILL.
		p.exit.OOM = ws.Signal() == unix.SIGKILL && p.cgroup.oomKills() > p.ooms
	}
	_ = p.child.pidfd.Close()
	p.stdio.exited()
	close(p.done)
	return p.exit
}
