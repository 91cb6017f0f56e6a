//go:build linux

package guest

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// stageName is the argv[0] under which the agent's binary is the stage.
const stageName = "vzinit"

// isStage says whether this process is the stage. If it is, its main goroutine stays
// on the first thread: the runtime keeps it there only while packages are
// initialised (runtime.LockOSThread), and may have moved it when main is called.
var isStage = keepFirstThread()

func keepFirstThread() bool {
	if len(os.Args) == 0 || os.Args[0] != stageName {
		return false
	}
	runtime.LockOSThread()
	return true
}

// stageReady is what the stage reports right before the execve. The end of the
// report without it means that the stage died.
const stageReady = 'R'

// fdSocket is the stage's descriptor for its orders; 0, 1 and 2 are /dev/null
// until these come.
const fdSocket = 3

// stage turns this process into what its orders say, whenever they come. It
// returns only after a failure, which it has reported, or because the agent has
// no orders; the process must end then.
//
// Namespaces, capabilities and the no-new-privileges bit belong to the thread,
// so all of it happens on one, which then executes. An init executes nothing: it
// stays, with all its threads, and who joins its namespaces joins those of its first
// thread. So that one it is.
func stage() {
	// Nothing beyond the streams reaches the process, whoever left it open.
	if unix.CloseRange(fdSocket, 1<<32-1, unix.CLOSE_RANGE_CLOEXEC) != nil { // before Linux 5.11
		unix.CloseOnExec(fdSocket)
	}
	// What is in the container already must not look into us through /proc.
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	h, err := receiveGo()
	if err != nil {
		return // there is nowhere to report to; the agent sees our end
	}
	if err = errs.New(errs.Internal, "the stage runs on another thread than its first"); unix.Gettid() == unix.Getpid() {
		err = h.carryOut()
	}
	b, _ := json.Marshal(errs.ToWire(err)) // strings only
	_, _ = unix.Write(h[slotReport], b)    // nobody else to tell
}

// carryOut returns only with an error.
func (h *handed) carryOut() error {
	if err := h.takeStreams(); err != nil {
		return err
	}
	o, err := h.readOrders()
	if err != nil {
		return err
	}
	if o.Container != nil {
		// Ahead of all that is done for the container, so that it counts there.
		if _, err := unix.Write(h[slotCgroup], []byte("0")); err != nil {
			return fmt.Errorf("enter the container's cgroup: %w", err)
		}
	}
	if err := o.Process.beforeRoot(); err != nil {
		return err
	}
	if o.Container != nil {
		err = o.Container.enter(o.Process.Cwd)
	} else {
		err = joinContainer(h[slotInit])
	}
	if err != nil {
		return err
	}
	return o.Process.become(h, o.Late, o.Container != nil)
}

// joinContainer enters the namespaces of the container's first process, of which
// init is a pidfd; that of pids is ours already. It makes no directory: a working
// directory that the container does not have is a mistake of who named it.
func joinContainer(init int) error {
	// A thread that shares its root and directory may not change its mounts.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare the filesystem attributes: %w", err)
	}
	const ns = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP
	if err := unix.Setns(init, ns); err != nil {
		return errs.New(errs.FailedPrecondition, "join the container: %w", err)
	}
	return nil
}

func makeCwd(root inRoot, cwd string) error {
	fd, err := root.mkdirAll(cwd, 0o755)
	if err != nil {
		return fmt.Errorf("working directory: %w", err)
	}
	return unix.Close(fd)
}
