//go:build linux

package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// launch is one start of a process by a stage.
type launch struct {
	exe    string // the agent's binary
	orders *orders
	stdio  [3]*os.File // the process's ends
	// For the container: the cgroup.procs to enter, and the spare stage to use
	// up. For a process in it: the pidfd of the container's first process.
	cgroup *os.File
	spare  *spare
	init   *os.File
	// here has the stage stay in the agent's pid namespace.
	here bool
	// late is what the orders' late write goes to; may be nil.
	late *os.File
	// terminal is the one that the process got, where it was ordered.
	terminal *terminal
	// held is the stage, where it was ordered to be held.
	held *heldStage
}

// stageProcess is a stage that has no orders yet.
type stageProcess struct {
	child  *child
	socket *os.File // for a handover; at its end the stage ends
}

// startLimit is how long the stage may take: a mount can hang.
const startLimit = 60 * time.Second

// run gives a stage its orders and waits until it has become the process, or
// has failed, or ctx ends. On error nothing of it is left. The answered child is
// not settled yet.
func (l *launch) run(ctx context.Context, r *reaper) (*child, error) {
	report, stageEnd, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make the report pipe: %w", err)
	}
	defer func() {
		if l.held == nil {
			_ = report.Close()
		}
	}()
	s, err := l.handOver(r, stageEnd)
	_ = stageEnd.Close()
	if err != nil {
		return nil, err
	}
	// Not before the end: it would drop orders that the stage has not read yet if
	// there is anything that we have not read.
	defer func() {
		if l.held == nil {
			_ = s.socket.Close()
		}
	}()
	if l.orders.Process.Hold {
		if err := awaitHeld(ctx, report); err != nil {
			return nil, s.abandon(err)
		}
		l.held = &heldStage{s, report}
		return s.child, nil
	}
	if err := awaitReport(ctx, report); err != nil {
		return nil, s.abandon(err)
	}
	if l.orders.Process.Terminal != nil {
		if l.terminal, err = receiveTerminal(s.socket); err != nil {
			return nil, s.abandon(err)
		}
	}
	return s.child, nil
}

// handOver finds a stage that takes the orders: the spare one, or else, as it
// may have died, a new one.
func (l *launch) handOver(r *reaper, report *os.File) (*stageProcess, error) {
	file, err := writeOrders(l.orders)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // the stage has its own
	h := handover{
		slotOrders: file, slotStdin: l.stdio[0], slotStdout: l.stdio[1], slotStderr: l.stdio[2],
		slotReport: report, slotCgroup: l.cgroup, slotInit: l.init, slotLate: l.late,
	}
	if l.spare != nil {
		if s := l.spare.take(); s != nil {
			if h.send(s.socket, handGo) == nil {
				return s, nil
			}
			s.drop()
		}
	}
	s, err := l.spawn(r)
	if err != nil {
		return nil, err
	}
	if err := h.send(s.socket, handGo); err != nil {
		return nil, s.abandon(err)
	}
	return s, nil
}

func (l *launch) spawn(r *reaper) (*stageProcess, error) {
	if l.here {
		return spawnHere(r, l.exe, 0)
	}
	return spawnStage(r, l.exe, l.init)
}

// drop ends a stage that is of no use, and does not wait for its end.
func (s *stageProcess) drop() {
	_ = s.child.signal(unix.SIGKILL) // or it has ended
	_ = s.child.pidfd.Close()
	_ = s.socket.Close()
	close(s.child.settled)
}

// abandon ends a stage that has got its orders, and explains a death without a
// report.
func (s *stageProcess) abandon(err error) error {
	s.drop()
	select {
	case <-s.child.reaped:
	case <-time.After(stopLimit):
		return errors.Join(err, errs.New(errs.DeadlineExceeded, "the process did not die within %s", stopLimit))
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		if s.child.status.Signal() == unix.SIGSYS {
			return errs.New(errs.FailedPrecondition, "the process was ended by its seccomp profile while it was being set up")
		}
		return errs.New(errs.ResourceExhausted, "the process ended while it was being set up (%s): "+
			"is a limit of the container too low?", describe(s.child.status))
	}
	return err
}

func describe(ws unix.WaitStatus) string {
	if ws.Signaled() {
		return fmt.Sprintf("signal %d", ws.Signal())
	}
	return fmt.Sprintf("status %d", ws.ExitStatus())
}

// spawnStage starts a stage: in the pid namespace of init, or else, where init
// is nil, in a new one as its first process. To be born in the former the
// forking thread must be in it for its children, for which there is no way
// back: such a thread ends with its goroutine.
func spawnStage(r *reaper, exe string, init *os.File) (*stageProcess, error) {
	if init == nil {
		return spawnHere(r, exe, unix.CLONE_NEWPID)
	}
	type result struct {
		s   *stageProcess
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		if err := unix.Setns(int(init.Fd()), unix.CLONE_NEWPID); err != nil {
			done <- result{nil, errs.New(errs.FailedPrecondition, "join the container: %w", err)}
			return
		}
		runtime.KeepAlive(init)
		s, err := spawnHere(r, exe, 0)
		if errors.Is(err, unix.ENOMEM) { // a pid namespace whose init has ended takes nobody
			err = errs.New(errs.FailedPrecondition, "the container has ended: %w", err)
		}
		done <- result{s, err}
	}()
	res := <-done
	return res.s, res.err
}

// spawnHere starts a stage from this thread.
func spawnHere(r *reaper, exe string, flags uintptr) (*stageProcess, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = null.Close() }()
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer func() { _ = theirs.Close() }()
	c, err := r.spawn(func() (int, int, error) { return fork(exe, flags, null, theirs) })
	if err != nil {
		_ = ours.Close() // the fork's error is the one to tell
		return nil, err
	}
	return &stageProcess{child: c, socket: ours}, nil
}

// socketPair makes a socket for handovers, of which our end does not block.
func socketPair() (ours, theirs *os.File, err error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket for orders: %w", err)
	}
	theirs = os.NewFile(uintptr(p[1]), "orders")
	if err := unix.SetNonblock(p[0], true); err != nil {
		_ = unix.Close(p[0])
		_ = theirs.Close()
		return nil, nil, fmt.Errorf("make a socket for orders: %w", err)
	}
	return os.NewFile(uintptr(p[0]), "orders"), theirs, nil
}

// stageEnv is for the stage's own runtime, which must not send its threads
// signals: one could come when a filter holds that refuses the return from it.
func stageEnv() []string {
	return []string{"GOMAXPROCS=" + strconv.Itoa(minProcs), "GODEBUG=asyncpreemptoff=1"}
}

func fork(exe string, flags uintptr, null, socket *os.File) (pid, pidfd int, err error) {
	pid, err = syscall.ForkExec(exe, []string{stageName}, &syscall.ProcAttr{
		Dir: "/", Env: stageEnv(),
		Files: []uintptr{null.Fd(), null.Fd(), null.Fd(), socket.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true, Cloneflags: flags, PidFD: &pidfd},
	})
	runtime.KeepAlive(null)
	runtime.KeepAlive(socket)
	if err != nil {
		return 0, 0, fmt.Errorf("fork: %w", err)
	}
	return pid, pidfd, nil
}

// awaitReport waits for the stage's word: nil once it has become the process,
// io.ErrUnexpectedEOF where it died silently.
func awaitReport(ctx context.Context, report *os.File) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit,
		errs.New(errs.DeadlineExceeded, "the set-up of the process took longer than %s", startLimit))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = report.SetReadDeadline(time.Unix(1, 0)) })
	b, err := io.ReadAll(io.LimitReader(report, maxReport))
	if !stop() && err != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("read the stage's report: %w", err)
	}
	return parseReport(b)
}

// maxReport bounds the report, in bytes: an errs.Wire.
const maxReport = 256 << 10

func parseReport(b []byte) error {
	b, ready := bytes.CutPrefix(b, []byte{stageReady})
	if len(b) == 0 {
		if ready {
			return nil
		}
		return io.ErrUnexpectedEOF
	}
	var w errs.Wire
	if err := json.Unmarshal(b, &w); err != nil {
		return errs.New(errs.Internal, "decode the stage's report: %w", err)
	}
	return w.Err()
}
