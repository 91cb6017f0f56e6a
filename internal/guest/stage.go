//go:build linux

package guest

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// stageName is the argv[0] under which the agent's binary is the stage.
const stageName = "vzinit"

// stageReady is what the stage reports right before the execve. The end of the
// report without it means that the stage died.
const stageReady = 'R'

// stage turns this process into what its orders say. It returns only after a
// failure, which it has reported; the process must end then.
//
// Namespaces, capabilities and the no-new-privileges bit belong to the thread,
// so all of it happens on one, which then executes.
func stage() {
	runtime.LockOSThread()
	// Nothing beyond the streams reaches the process, whoever left it open.
	if unix.CloseRange(fdOrders, 1<<32-1, unix.CLOSE_RANGE_CLOEXEC) != nil { // before Linux 5.11
		for fd := fdOrders; fd <= fdLate; fd++ {
			unix.CloseOnExec(fd)
		}
	}
	// What is in the container already must not look into us through /proc.
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	err := runStage()
	b, _ := json.Marshal(errs.ToWire(err)) // strings only
	_, _ = unix.Write(fdReport, b)         // nobody else to tell
}

func runStage() error {
	o, err := readOrders()
	if err != nil {
		return err
	}
	if err := o.Process.beforeRoot(); err != nil {
		return err
	}
	if o.Container != nil {
		err = o.Container.enter(o.Process.Cwd)
	} else {
		err = joinContainer(o.Process.Cwd)
	}
	if err != nil {
		return err
	}
	return o.Process.become(o.Late)
}

func readOrders() (*orders, error) {
	f := os.NewFile(fdOrders, "orders")
	defer func() { _ = f.Close() }() // only read
	return decodeOrders(f)
}

func decodeOrders(r io.Reader) (*orders, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxOrders+1))
	if err != nil {
		return nil, fmt.Errorf("read orders: %w", err)
	}
	if len(b) > maxOrders {
		return nil, errs.New(errs.ResourceExhausted, "orders are over %d bytes", maxOrders)
	}
	var o orders
	if err := json.Unmarshal(b, &o); err != nil {
		return nil, errs.New(errs.Internal, "decode orders: %w", err)
	}
	return &o, nil
}

// joinContainer enters the namespaces of the container's first process; that of
// pids is ours already. The working directory is made if missing.
func joinContainer(cwd string) error {
	// A thread that shares its root and directory may not change its mounts.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare the filesystem attributes: %w", err)
	}
	const ns = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP
	if err := unix.Setns(fdInit, ns); err != nil {
		return errs.New(errs.FailedPrecondition, "join the container: %w", err)
	}
	root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the container's root: %w", err)
	}
	defer func() { _ = unix.Close(root) }()
	return makeCwd(inRoot{root}, cwd)
}

func makeCwd(root inRoot, cwd string) error {
	fd, err := root.mkdirAll(cwd, 0o755)
	if err != nil {
		return fmt.Errorf("working directory: %w", err)
	}
	return unix.Close(fd)
}
