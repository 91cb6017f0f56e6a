//go:build linux

package guest

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// child is a process that the agent itself started, or has adopted.
type child struct {
	pid   int
	pidfd *os.File // for signals: a pid may be another's by the time

	// settled is closed once the starter has decided whether this child counts
	// as started; only then is its end told to anybody.
	settled chan struct{}
	onEnd   func(status unix.WaitStatus, at time.Time) // set before settled is closed; nil: not started

	reaped chan struct{} // closed once the following are set
	status unix.WaitStatus
	at     time.Time
}

// reaper is the only one who waits for processes: for the children that it
// knows and for the orphans that PID 1 inherits.
type reaper struct {
	ended chan *child // in order of their ends

	mu       sync.Mutex // held from fork to registration, so that no end is missed; guards the following
	children map[int]*child
	changed  chan struct{} // closed and renewed after each reaping
	none     bool          // the last look found no process at all
	// While somebody expects to adopt: how those ended that nobody knows, by pid.
	expecting int
	strangers map[int]ending
}

// ending is how a process ended.
type ending struct {
	status unix.WaitStatus
	at     time.Time
}

// maxChildren bounds the children alive or not yet settled: each process, and an
// OCI runtime that starts it.
const maxChildren = 2*maxProcesses + 64

// maxStrangers bounds the ends that are kept for who may be adopted.
const maxStrangers = maxProcesses

func newReaper() *reaper {
	return &reaper{
		ended:    make(chan *child, maxChildren),
		children: map[int]*child{},
		changed:  make(chan struct{}),
	}
}

// run reaps until ctx ends.
func (r *reaper) run(ctx context.Context) {
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, unix.SIGCHLD)
	defer signal.Stop(sig)
	for {
		r.reap()
		select {
		case <-sig:
		case <-ctx.Done():
			return
		}
	}
}

// tell reports ends in order until ctx ends: each once its child is settled.
func (r *reaper) tell(ctx context.Context) {
	for {
		select {
		case c := <-r.ended:
			<-c.settled // soon: the child is dead, its report pipe at its end
			if c.onEnd != nil {
				c.onEnd(c.status, c.at)
			}
		case <-ctx.Done():
			return
		}
	}
}

func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil || pid == 0:
			r.none = errors.Is(err, unix.ECHILD)
			close(r.changed)
			r.changed = make(chan struct{})
			return
		}
		if c := r.children[pid]; c != nil {
			delete(r.children, pid)
			c.status, c.at = ws, time.Now()
			close(c.reaped)
			r.ended <- c // has room for all of them
		} else if r.expecting > 0 && len(r.strangers) < maxStrangers {
			r.strangers[pid] = ending{ws, time.Now()}
		}
	}
}

// spawn runs fork, which starts a process and answers its pid and a pidfd, and
// registers it.
func (r *reaper) spawn(fork func() (pid, pidfd int, err error)) (*child, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, pidfd, err := fork()
	if err != nil {
		return nil, err
	}
	c := &child{
		pid:     pid,
		pidfd:   os.NewFile(uintptr(pidfd), "pidfd"),
		settled: make(chan struct{}),
		reaped:  make(chan struct{}),
	}
	r.children[pid] = c
	r.none = false
	return c, nil
}

// expect has the ends of strangers kept until done is called, for adopt.
func (r *reaper) expect() (done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.expecting == 0 {
		r.strangers = map[int]ending{}
	}
	r.expecting++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.expecting--; r.expecting == 0 {
			r.strangers = nil
		}
	}
}

// adopt makes a child of an orphan that we have become the parent of, whether it
// lives or has ended since expect was called. Its parent has been reaped. It is
// not settled yet.
func (r *reaper) adopt(pid int) (*child, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &child{pid: pid, settled: make(chan struct{}), reaped: make(chan struct{})}
	if e, ok := r.strangers[pid]; ok {
		delete(r.strangers, pid)
		c.status, c.at = e.status, e.at
		close(c.reaped)
		r.ended <- c // has room for all of them
		return c, nil
	}
	if r.children[pid] != nil {
		return nil, errs.New(errs.AlreadyExists, "process %d is known already", pid)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err == nil {
		c.pidfd = os.NewFile(uintptr(fd), "pidfd")
		err = unix.Waitid(unix.P_PIDFD, fd, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) // ECHILD: another's child
	}
	if err != nil {
		_ = c.pidfd.Close() // or there is none
		return nil, errs.New(errs.NotFound, "no orphan %d: %w", pid, err)
	}
	r.children[pid] = c
	r.none = false
	return c, nil
}

// awaitNone waits until PID 1 has no child left, or ctx ends.
func (r *reaper) awaitNone(ctx context.Context) error {
	for {
		r.mu.Lock()
		none, changed := r.none, r.changed
		r.mu.Unlock()
		if none {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// signal sends sig; unix.ESRCH where the process has ended.
func (c *child) signal(sig unix.Signal) error {
	raw, err := c.pidfd.SyscallConn()
	if err != nil {
		return unix.ESRCH // closed: it has ended
	}
	serr := error(unix.ESRCH)
	if err := raw.Control(func(fd uintptr) {
		serr = unix.PidfdSendSignal(int(fd), sig, nil, 0)
	}); err != nil {
		return unix.ESRCH
	}
	return serr
}

// signalGroup sends sig to the group that c leads; unix.ESRCH where c has ended.
// The number is c's for as long as it was not reaped, which the lock keeps off. A
// process that an OCI runtime has started may lead none.
func (r *reaper) signalGroup(c *child, sig unix.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.children[c.pid] != c {
		return unix.ESRCH
	}
	err := unix.Kill(-c.pid, sig)
	if errors.Is(err, unix.ESRCH) {
		err = unix.Kill(c.pid, sig)
	}
	return err
}
