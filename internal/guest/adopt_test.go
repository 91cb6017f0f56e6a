//go:build linux

package guest

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// runReaper has a reaper wait for this process's children and for the orphans
// below it, as PID 1 does.
func runReaper(t *testing.T) *reaper {
	t.Helper()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	r := newReaper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.run(ctx) }()
	told := make(chan struct{})
	go func() { defer close(told); r.tell(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
		<-told
		_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	})
	return r
}

// leaves runs a script that leaves an orphan and has its number in $PIDFILE, to
// the script's end.
func leaves(t *testing.T, r *reaper, script string) int {
	t.Helper()
	file := filepath.Join(t.TempDir(), "pid")
	c, err := r.spawn(func() (pid, pidfd int, err error) {
		pid, err = syscall.ForkExec("/bin/sh", []string{"sh", "-c", script}, &syscall.ProcAttr{
			Env: []string{"PATH=" + os.Getenv("PATH"), "PIDFILE=" + file}, Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{PidFD: &pidfd}})
		return pid, pidfd, err
	})
	if err != nil {
		t.Fatal(err)
	}
	close(c.settled)
	<-c.reaped
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestAdopt(t *testing.T) {
	r := runReaper(t)
	defer r.expect()()
	c, err := r.adopt(leaves(t, r, "sleep 1000 & echo $! >$PIDFILE"))
	if err != nil {
		t.Fatal(err)
	}
	ends := make(chan unix.WaitStatus, 1)
	c.onEnd = func(ws unix.WaitStatus, _ time.Time) { ends <- ws }
	close(c.settled)
	if err := c.signal(unix.SIGTERM); err != nil {
		t.Error(err)
	}
	if ws := <-ends; ws.Signal() != unix.SIGTERM {
		t.Errorf("it ended by %v", ws)
	}
	if _, err := r.adopt(c.pid); !errs.Is(err, errs.NotFound) {
		t.Errorf("adopted again: %v", err)
	}
	_ = c.pidfd.Close()
}

// One that ended before it could be adopted is known all the same.
func TestAdoptTheDead(t *testing.T) {
	r := runReaper(t)
	done := r.expect()
	// Not before its parent has: a shell may reap what it has started itself.
	pid := leaves(t, r, "{ while kill -0 $$; do :; done; exit 7; } </dev/null 2>/dev/null & echo $! >$PIDFILE")
	for {
		r.mu.Lock()
		_, there := r.strangers[pid]
		changed := r.changed
		r.mu.Unlock()
		if there {
			break
		}
		<-changed
	}
	c, err := r.adopt(pid)
	if err != nil {
		t.Fatal(err)
	}
	ends := make(chan unix.WaitStatus, 1)
	c.onEnd = func(ws unix.WaitStatus, _ time.Time) { ends <- ws }
	close(c.settled)
	if ws := <-ends; ws.ExitStatus() != 7 {
		t.Errorf("it ended by %v", ws)
	}
	if err := c.signal(unix.SIGTERM); err != unix.ESRCH {
		t.Errorf("a signal to the dead: %v", err)
	}
	(&child{pid: pid, settled: make(chan struct{})}).abandon() // which has no descriptor
	done()
	if r.strangers != nil {
		t.Error("strangers are kept for nobody")
	}
}

func TestAdoptRefuses(t *testing.T) {
	r := runReaper(t)
	defer r.expect()()
	c, err := r.adopt(leaves(t, r, "sleep 1000 & echo $! >$PIDFILE"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { c.abandon(); <-c.reaped }()
	for pid, class := range map[int]errs.Class{1: errs.NotFound, os.Getpid(): errs.NotFound, os.Getppid(): errs.NotFound, 1 << 30: errs.NotFound, c.pid: errs.AlreadyExists} {
		if _, err := r.adopt(pid); !errs.Is(err, class) {
			t.Errorf("%d: %v", pid, err)
		}
	}
}

// Many that end at once are each known by their own status.
func TestAdoptMany(t *testing.T) {
	r := runReaper(t)
	defer r.expect()()
	const n = 50
	for i := range n {
		// Not before its parent: that would wait for it.
		pid := leaves(t, r, fmt.Sprintf("p=$$; { while kill -0 $p; do :; done; exit %d; } 2>/dev/null & echo $! >$PIDFILE", i))
		c, err := r.adopt(pid)
		if err != nil {
			t.Fatal(err)
		}
		close(c.settled)
		<-c.reaped
		if c.status.ExitStatus() != i {
			t.Errorf("%d ended with %d", i, c.status.ExitStatus())
		}
	}
}

// A signal to the group reaches what the process has started, and nobody once the
// process was reaped.
func TestSignalGroup(t *testing.T) {
	r := runReaper(t)
	ours, theirs, err := pipe(false)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	c, err := r.spawn(func() (pid, pidfd int, err error) {
		pid, err = syscall.ForkExec("/bin/sh", []string{"sh", "-c", "sleep 1000 & echo started; wait"}, &syscall.ProcAttr{
			Env: []string{"PATH=" + os.Getenv("PATH")}, Files: []uintptr{0, theirs.Fd(), 2},
			Sys: &syscall.SysProcAttr{PidFD: &pidfd, Setsid: true}})
		return pid, pidfd, err
	})
	if err != nil {
		t.Fatal(err)
	}
	close(c.settled)
	_ = theirs.Close()
	line := make([]byte, 8)
	if _, err := io.ReadFull(ours, line); err != nil {
		t.Fatal(err)
	}
	if err := r.signalGroup(c, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-c.reaped
	if c.status.Signal() != unix.SIGTERM {
		t.Errorf("it ended with %s", describe(c.status))
	}
	if n, err := ours.Read(line); err != io.EOF { // sleep has it open too
		t.Errorf("what it has started lives: read %d bytes, %v", n, err)
	}
	if err := r.signalGroup(c, unix.SIGTERM); err != unix.ESRCH {
		t.Errorf("signal to the reaped: %v", err)
	}
}
