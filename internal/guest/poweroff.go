//go:build linux

package guest

import (
	"context"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
)

// answerTime is what the answer to PowerOff gets to leave the machine.
const answerTime = 20 * time.Millisecond

// retireLimit is how long a power-off waits for an OCI runtime to delete its
// container.
const retireLimit = 5 * time.Second

// PowerOff ends the machine in order. A second call finds the first at work.
func (a *agent) PowerOff(ctx context.Context, _ agentproto.PowerOff) (agentproto.Empty, error) {
	a.procs.close()
	a.mu.Lock()
	c, mounted := a.container, a.mounted
	a.mu.Unlock()
	if s := a.spareStage().take(); s != nil {
		s.drop()
	}
	if c != nil && c.process.ended() {
		rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), retireLimit)
		if err := c.runtime.awaitRetired(rctx); err != nil {
			a.log.printf("power off: %v", err)
		}
		cancel()
	}
	if c != nil {
		_ = c.cgroup.kill(unix.SIGKILL) // what is left the next step finds
	}
	if os.Getpid() == 1 {
		_ = unix.Kill(-1, unix.SIGKILL) // everything but us
	}
	// The caller's going away does not stop this.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleLimit)
	defer cancel()
	if err := a.reaper.awaitNone(ctx); err != nil {
		a.log.printf("power off: processes are left: %v", err)
	}
	targets := slices.Concat([]string{a.root}, mounted, []string{upperDir, lowerDir})
	syncAndUnmount(targets, a.log.printf)
	time.AfterFunc(answerTime, a.off)
	return agentproto.Empty{}, nil
}

// powerOff ends the machine and does not return. What it cannot write is lost:
// whoever wants an orderly end has done that before.
func powerOff() {
	unix.Sync()
	cmd := unix.LINUX_REBOOT_CMD_POWER_OFF
	if runtime.GOARCH == "amd64" {
		if _, err := os.Stat("/sys/firmware/acpi"); err != nil {
			// Without ACPI a PC cannot switch itself off, and the kernel would
			// halt instead; the monitor takes a reset for the end.
			cmd = unix.LINUX_REBOOT_CMD_RESTART
		}
	}
	go func() { // the kernel may return from a power-off that did not work
		time.Sleep(2 * time.Second)
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}()
	_ = unix.Reboot(cmd)
	select {}
}
