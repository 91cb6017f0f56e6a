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

// launch is one start of the stage.
type launch struct {
	exe    string // the agent's binary
	orders *orders
	stdio  [3]*os.File // the process's ends
	// For the container: the cgroup to be born in. For a process in it: the
	// pidfd of the container's first process.
	namespaces uintptr
	cgroup     *os.File
	init       *os.File
	// late is what the orders' late writes go to; may be nil.
	late *os.File
}

// startLimit is how long the stage may take: a mount can hang.
const startLimit = 60 * time.Second

// run starts the stage and waits until it has become the process, or has
// failed, or ctx ends. On error nothing of it is left. The answered child is
// not settled yet.
func (l *launch) run(ctx context.Context, r *reaper) (*child, error) {
	orders, err := l.writeOrders()
	if err != nil {
		return nil, err
	}
	defer func() { _ = orders.Close() }()
	report, stageEnd, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make the report pipe: %w", err)
	}
	defer func() { _ = report.Close() }()
	c, err := l.spawn(r, orders, stageEnd)
	_ = stageEnd.Close()
	if err != nil {
		return nil, err
	}
	if err := awaitReport(ctx, report); err != nil {
		err = l.abandon(c, err)
		close(c.settled)
		return nil, err
	}
	return c, nil
}

// abandon ends the stage and explains a death without a report.
func (l *launch) abandon(c *child, err error) error {
	_ = c.signal(unix.SIGKILL) // or it has ended
	select {
	case <-c.reaped:
	case <-time.After(stopLimit):
		return errors.Join(err, errs.New(errs.DeadlineExceeded, "the process did not die within %s", stopLimit))
	}
	_ = c.pidfd.Close()
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errs.New(errs.ResourceExhausted, "the process ended while it was being set up (%s): "+
			"is a limit of the container too low?", describe(c.status))
	}
	return err
}

func describe(ws unix.WaitStatus) string {
	if ws.Signaled() {
		return fmt.Sprintf("signal %d", ws.Signal())
	}
	return fmt.Sprintf("status %d", ws.ExitStatus())
}

// writeOrders puts the orders into a memory file, which never blocks.
func (l *launch) writeOrders() (*os.File, error) {
	b, err := json.Marshal(l.orders)
	if err != nil {
		return nil, errs.New(errs.Internal, "encode orders: %w", err)
	}
	if len(b) > maxOrders {
		return nil, errs.New(errs.InvalidArgument, "orders of %d bytes are over the limit of %d", len(b), maxOrders)
	}
	fd, err := unix.MemfdCreate("orders", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file for orders: %w", err)
	}
	f := os.NewFile(uintptr(fd), "orders")
	if _, err := f.WriteAt(b, 0); err != nil {
		_ = f.Close() // the write's error is the one to tell
		return nil, fmt.Errorf("write orders: %w", err)
	}
	return f, nil
}

// spawn forks the stage. To be born in the container's pid namespace the
// forking thread must be in it for its children, for which there is no way
// back: such a thread ends with its goroutine.
func (l *launch) spawn(r *reaper, orders, report *os.File) (*child, error) {
	if l.init == nil {
		return r.spawn(func() (int, int, error) { return l.fork(orders, report) })
	}
	type result struct {
		c   *child
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		if err := unix.Setns(int(l.init.Fd()), unix.CLONE_NEWPID); err != nil {
			done <- result{nil, errs.New(errs.FailedPrecondition, "join the container: %w", err)}
			return
		}
		runtime.KeepAlive(l.init)
		c, err := r.spawn(func() (int, int, error) { return l.fork(orders, report) })
		if errors.Is(err, unix.ENOMEM) { // a pid namespace whose init has ended takes nobody
			err = errs.New(errs.FailedPrecondition, "the container has ended: %w", err)
		}
		done <- result{c, err}
	}()
	res := <-done
	return res.c, res.err
}

func (l *launch) fork(orders, report *os.File) (pid, pidfd int, err error) {
	files := []uintptr{0, 0, 0, orders.Fd(), report.Fd()}
	for i, f := range l.stdio {
		files[i] = f.Fd()
	}
	for _, f := range []*os.File{l.init, l.late} { // fdInit, fdLate
		if f == nil {
			f = orders // a spare, closed by the stage's execve like the rest
		}
		files = append(files, f.Fd())
	}
	sys := &syscall.SysProcAttr{Setsid: true, Cloneflags: l.namespaces, PidFD: &pidfd}
	if l.cgroup != nil {
		sys.UseCgroupFD, sys.CgroupFD = true, int(l.cgroup.Fd())
	}
	pid, err = syscall.ForkExec(l.exe, []string{stageName}, &syscall.ProcAttr{
		Dir: "/", Env: []string{"GOMAXPROCS=" + strconv.Itoa(minProcs)}, Files: files, Sys: sys,
	})
	runtime.KeepAlive(l)
	runtime.KeepAlive(orders)
	runtime.KeepAlive(report)
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
