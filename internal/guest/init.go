//go:build linux

package guest

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/users"
)

// setUserOfAll is setUser for every thread of a process that stays. Those that
// do not execute lose their capabilities with the user; ours keeps them (see
// PR_SET_KEEPCAPS).
func setUserOfAll(id users.Identity) error {
	groups := make([]int, len(id.Groups))
	for i, g := range id.Groups {
		groups[i] = int(g)
	}
	if err := syscall.Setgroups(groups); err != nil {
		return fmt.Errorf("set groups: %w", err)
	}
	if err := syscall.Setresgid(int(id.GID), int(id.GID), int(id.GID)); err != nil {
		return fmt.Errorf("set group %d: %w", id.GID, err)
	}
	if err := syscall.Setresuid(int(id.UID), int(id.UID), int(id.UID)); err != nil {
		return fmt.Errorf("set user %d: %w", id.UID, err)
	}
	return nil
}

// supervise starts the process and stays as its parent: it passes signals on,
// reaps whoever loses its parent, and ends as the process ends, by 128+n for a
// signal. It returns only where nothing was started.
func (p *processOrders) supervise(h *handed) error {
	err := p.confine()
	if err == nil && p.Identity.UID == 0 { // for others the threads have lost all with the user
		err = p.Caps.limitAll()
	}
	// With no thread that has more rights than the container it may look into us,
	// as at /proc/1/fd, where programs find their log.
	if err == nil {
		err = unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
	}
	if err != nil && !errors.Is(err, unix.ENOTSUP) { // which a build with cgo is told, as tests have it
		return fmt.Errorf("let the init be seen: %w", err)
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	pid, err := p.fork()
	if err != nil {
		return err
	}
	// The end of the report tells that the process is there.
	for _, fd := range append(h[:], fdSocket) {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
	go p.passOn(signals, pid)
	os.Exit(reapUntil(pid))
	return nil
}

// fork is execute, in a child.
func (p *processOrders) fork() (int, error) {
	attr := &syscall.ProcAttr{Env: p.Env, Files: []uintptr{0, 1, 2}}
	if p.starves() {
		// It stops at its execve, so that the limits hold from its first instruction.
		attr.Sys = &syscall.SysProcAttr{Ptrace: true}
	}
	pid := 0
	err := p.try(func(file string) (err error) {
		pid, err = syscall.ForkExec(file, p.Args, attr)
		return err
	})
	if err != nil || !p.starves() {
		return pid, err
	}
	return pid, p.starve(pid)
}

// starve limits the memory of a process that waits at its execve.
func (p *processOrders) starve(pid int) error {
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &ws, unix.WALL, nil)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("await the process: %w", err)
		}
	}
	for _, r := range p.Rlimits {
		if !ofMemory(r.Resource) {
			continue
		}
		if err := unix.Prlimit(pid, r.Resource, &unix.Rlimit{Cur: r.Soft, Max: r.Hard}, nil); err != nil {
			return fmt.Errorf("set limit %d: %w", r.Resource, err)
		}
	}
	if err := unix.PtraceDetach(pid); err != nil {
		return fmt.Errorf("let the process go: %w", err)
	}
	return nil
}

// passOn gives the process the signals that we get. Those that a terminal sends
// it has sent to all of its foreground, the process among them.
func (p *processOrders) passOn(signals <-chan os.Signal, pid int) {
	own := []os.Signal{unix.SIGCHLD, unix.SIGURG} // the second is our runtime's
	if p.Terminal != nil {
		own = append(own, unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGWINCH)
	}
	for s := range signals {
		if !slices.Contains(own, s) {
			_ = unix.Kill(pid, s.(unix.Signal)) // or it has ended
		}
	}
}

// reapUntil reaps children until pid has ended, and answers its status.
func reapUntil(pid int) int {
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(-1, &ws, unix.WALL, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 255 // there is no child; cannot be
		case got == pid && ws.Signaled():
			return 128 + int(ws.Signal())
		case got == pid && ws.Exited():
			return ws.ExitStatus()
		}
	}
}
