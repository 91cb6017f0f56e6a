//go:build linux

package guest

import (
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// console is the socket at which an OCI runtime hands over the master of the
// terminal that it has made. The runtime is the image's, so nothing that comes is
// believed.
type console struct {
	listener *net.UnixListener
	path     string
}

// consoleLimit is how long the terminal may be behind the end of the runtime
// that has sent it.
const consoleLimit = 5 * time.Second

// maxConsoleName bounds the name that comes with a terminal, in bytes; it is of
// no use.
const maxConsoleName = 4096

func listenConsole(path string) (*console, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for the terminal: %w", err)
	}
	return &console{l, path}, nil
}

func (c *console) close() {
	_ = c.listener.Close() // which removes the socket
}

// receive takes the one terminal that was sent.
func (c *console) receive(limit time.Duration) (*terminal, error) {
	deadline := time.Now().Add(limit)
	_ = c.listener.SetDeadline(deadline) // a socket has one
	conn, err := c.listener.AcceptUnix()
	if err != nil {
		return nil, errs.New(errs.FailedPrecondition, "no terminal came from the runtime: %w", err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetReadDeadline(deadline)
	name, oob := make([]byte, maxConsoleName), make([]byte, unix.CmsgSpace(4*slots))
	_, n, flags, _, err := conn.ReadMsgUnix(name, oob)
	if err != nil {
		return nil, fmt.Errorf("receive the terminal: %w", err)
	}
	fds := rights(oob[:n])
	if len(fds) != 1 || flags&unix.MSG_CTRUNC != 0 {
		closeAll(fds)
		return nil, errs.New(errs.Internal, "a message with %d descriptors for a terminal", len(fds))
	}
	slave, err := openPeer(fds[0])
	if err != nil {
		closeAll(fds)
		return nil, errs.New(errs.Internal, "what came for a terminal is none: %w", err)
	}
	return newTerminal(fds[0], slave)
}

// rights are the descriptors in control messages.
func rights(oob []byte) (fds []int) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for i := range msgs {
		if some, err := unix.ParseUnixRights(&msgs[i]); err == nil {
			fds = append(fds, some...)
		}
	}
	return fds
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// openPeer opens the other end of a master (ioctl_tty(2), TIOCGPTPEER), without
// a name.
func openPeer(master int) (int, error) {
	var st unix.Stat_t
	if err := unix.Fstat(master, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(5, 2) {
		return -1, errs.New(errs.InvalidArgument, "it is not of a multiplexer")
	}
	slave, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if e != 0 {
		return -1, e
	}
	return int(slave), nil
}
