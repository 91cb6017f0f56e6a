//go:build linux

package guest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
)

// A terminal is a pair of the container's own devpts, so that its name means
// something there. The stage opens it and sends it to the agent.

// terminalOrder asks for a terminal of that size, in characters.
type terminalOrder struct {
	Rows uint16 `json:"rows,omitempty"` // 0: 24
	Cols uint16 `json:"cols,omitempty"` // 0: 80
}

// handTerminal is the kind of the message with which a stage sends it.
const handTerminal = 'T'

// take makes a terminal this session's, and the streams 0, 1 and 2. In the
// container's first process it is the console too.
func (o *terminalOrder) take(uid uint32, console bool) error {
	master, err := openMaster()
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(master) }() // the agent has its own by then
	size := unix.Winsize{Row: cmp.Or(o.Rows, 24), Col: cmp.Or(o.Cols, 80)}
	if err := unix.IoctlSetWinsize(master, unix.TIOCSWINSZ, &size); err != nil {
		return fmt.Errorf("set its size: %w", err)
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return fmt.Errorf("unlock it: %w", err)
	}
	// ioctl_tty(2): no name is looked up, which the container might have changed.
	slave, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if e != 0 {
		return fmt.Errorf("open its other end: %w", e)
	}
	defer func() { _ = unix.Close(int(slave)) }()
	if err := unix.Fchown(int(slave), int(uid), -1); err != nil {
		return fmt.Errorf("own it: %w", err)
	}
	if err := unix.IoctlSetInt(int(slave), unix.TIOCSCTTY, 0); err != nil {
		return fmt.Errorf("make it the session's: %w", err)
	}
	for fd := range 3 {
		if err := unix.Dup3(int(slave), fd, 0); err != nil {
			return fmt.Errorf("take stream %d: %w", fd, err)
		}
	}
	if console {
		if err := bindConsole(int(slave)); err != nil {
			return fmt.Errorf("make it the console: %w", err)
		}
	}
	err = unix.Sendmsg(fdSocket, []byte{handTerminal}, unix.UnixRights(master, int(slave)), nil, unix.MSG_NOSIGNAL)
	if err != nil {
		return fmt.Errorf("hand it over: %w", err)
	}
	return nil
}

// openMaster opens the multiplexer of the container's devpts. Where something
// else is there it is not touched.
func openMaster() (int, error) {
	var how unix.OpenHow
	how.Flags = unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC | unix.O_NONBLOCK
	how.Resolve = unix.RESOLVE_NO_MAGICLINKS
	fd, err := unix.Openat2(unix.AT_FDCWD, "/dev/pts/ptmx", &how)
	if err != nil {
		return -1, errs.New(errs.FailedPrecondition, "the container has no /dev/pts/ptmx: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(5, 2) {
		_ = unix.Close(fd)
		return -1, errs.New(errs.FailedPrecondition, "/dev/pts/ptmx of the container is something else")
	}
	return fd, nil
}

// bindConsole mounts a terminal over /dev/console, which is made if missing.
func bindConsole(slave int) error {
	fd, err := unix.Open("/dev/console", unix.O_CREAT|unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, unix.EIO) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
		fd, err = unix.Open("/dev/console", unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0) // a console without a device
	}
	if err != nil {
		return err
	}
	_ = unix.Close(fd)
	fd, err = unix.Open("/dev/console", unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return unix.Mount(fdPath(slave), fdPath(fd), "", unix.MS_BIND, "")
}

// terminal is the agent's end of one. What is shown is read from out and what is
// typed is written to in; they are the same file. The slave is kept so that
// reading does not fail while no process has it open.
type terminal struct {
	in, out *os.File
	control *os.File // for its size
	slave   *os.File

	mu     sync.Mutex // guards the following
	closed bool
}

// receiveTerminal takes the terminal that a stage has sent before it said that
// it is ready.
func receiveTerminal(socket *os.File) (*terminal, error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("receive the terminal: %w", err)
	}
	var fds []int
	var rerr error
	err = raw.Control(func(fd uintptr) { fds, rerr = receiveFiles(int(fd), handTerminal) })
	if err := errors.Join(err, rerr); err != nil {
		return nil, fmt.Errorf("receive the terminal: %w", err)
	}
	if len(fds) != 2 {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		return nil, errs.New(errs.Internal, "a message with %d descriptors for a terminal", len(fds))
	}
	return newTerminal(fds[0], fds[1])
}

// newTerminal owns the descriptors.
func newTerminal(master, slave int) (*terminal, error) {
	t := &terminal{slave: os.NewFile(uintptr(slave), "terminal")}
	files := []**os.File{&t.in, &t.out, &t.control}
	for i, f := range files {
		fd := master
		if i > 0 {
			var err error
			if fd, err = unix.FcntlInt(uintptr(master), unix.F_DUPFD_CLOEXEC, 0); err != nil {
				t.close()
				return nil, fmt.Errorf("keep the terminal: %w", err)
			}
		} else if err := unix.SetNonblock(fd, true); err != nil {
			_ = unix.Close(fd)
			t.close()
			return nil, fmt.Errorf("keep the terminal: %w", err)
		}
		*f = os.NewFile(uintptr(fd), "terminal")
	}
	return t, nil
}

// receiveFiles takes a message of that kind, which is there already.
func receiveFiles(socket int, want byte) ([]int, error) {
	var b [1]byte
	oob := make([]byte, unix.CmsgSpace(4*slots))
	n, oobn, _, _, err := unix.Recvmsg(socket, b[:], oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil {
		return nil, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		return nil, errs.New(errs.Internal, "a message without descriptors")
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err == nil && (n != 1 || b[0] != want) {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		return nil, errs.New(errs.Internal, "a message of the kind %q, not %q", b[:n], want)
	}
	return fds, err
}

// eof types the character that means the end of the input.
func (t *terminal) eof() error {
	char := byte(4) // ^D
	if attr, err := t.attributes(); err == nil {
		char = attr.Cc[unix.VEOF]
	}
	_, err := t.in.Write([]byte{char})
	return err
}

func (t *terminal) attributes() (attr *unix.Termios, err error) {
	err = t.ioctl(func(fd int) (e error) {
		attr, e = unix.IoctlGetTermios(fd, unix.TCGETS)
		return e
	})
	return attr, err
}

func (t *terminal) resize(rows, cols uint16) error {
	return t.ioctl(func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
}

func (t *terminal) ioctl(do func(fd int) error) error {
	raw, err := t.control.SyscallConn()
	if err != nil {
		return err
	}
	var derr error
	err = raw.Control(func(fd uintptr) { derr = do(int(fd)) })
	return errors.Join(err, derr)
}

// drain reads what nobody is to see.
func (t *terminal) drain() {
	_, _ = io.Copy(io.Discard, struct{ io.Reader }{t.out}) // to its end
	_ = t.out.Close()
}

// close gives it up. What still reads its output closes that file.
func (t *terminal) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	t.closed = true
	for _, f := range []*os.File{t.slave, t.control} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// Resize sets the size of a process's terminal.
func (a *agent) Resize(_ context.Context, r agentproto.Resize) (agentproto.Empty, error) {
	p, err := a.procs.find(r.ID)
	if err != nil {
		return agentproto.Empty{}, err
	}
	switch {
	case p.stdio.terminal == nil:
		return agentproto.Empty{}, errs.New(errs.FailedPrecondition, "process %q has no terminal", r.ID)
	case r.Rows == 0 || r.Cols == 0:
		return agentproto.Empty{}, errs.New(errs.InvalidArgument, "terminal of %d by %d", r.Rows, r.Cols)
	}
	return agentproto.Empty{}, p.stdio.terminal.resize(r.Rows, r.Cols)
}
