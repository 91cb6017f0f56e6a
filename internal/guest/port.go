//go:build linux

package guest

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/boot"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/mux"
)

// portsDir has a folder for each port of virtio serial devices
// (drivers/char/virtio_console.c, port_sysfs_entries).
const portsDir = "/sys/class/virtio-ports"

// portLimit is how long the host may take to show its port.
const portLimit = time.Minute

var errPortMissing = errs.New(errs.DeadlineExceeded, "there is none in time")

// listenPort finds the host's port, and listens in its session for the agent.
func listenPort(ctx context.Context) (net.Listener, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, portLimit, errPortMissing)
	defer cancel()
	dev, err := findPort(ctx, portsDir, listenUevents)
	if err != nil {
		return nil, fmt.Errorf("find the host's port: %w", err)
	}
	f, err := openPort(ctx, dev)
	if err != nil {
		return nil, fmt.Errorf("open the host's port: %w", err)
	}
	s, l, err := mux.NewListener(f, mux.Guest, mux.Options{Backlog: maxConns}, agentPort)
	if err != nil {
		return nil, err
	}
	return portListener{l, s}, nil
}

// portListener is a listener in a session of its own. Once it is closed, the port
// is, which one only can have open.
type portListener struct {
	net.Listener
	session *mux.Session
}

// Close ends the session and waits for its end.
func (p portListener) Close() error { return p.session.Close() }

// findPort answers the device of the host's port once it has its name.
func findPort(ctx context.Context, sys string, listen func() (io.ReadCloser, error)) (dev string, err error) {
	err = watchDevices(ctx, listen, func() bool {
		names, _ := filepath.Glob(filepath.Join(sys, "*", "name")) // the pattern is sound
		for _, path := range names {
			b, err := os.ReadFile(path)
			if err == nil && strings.TrimSpace(string(b)) == boot.Port {
				dev = "/dev/" + filepath.Base(filepath.Dir(path))
				return true
			}
		}
		return false
	})
	return dev, err
}

// openPort opens dev and waits until the host's end of it is connected, which it
// then stays: before, a read answers the end of the file (virtio_console.c,
// port_fops_read).
func openPort(ctx context.Context, dev string) (*os.File, error) {
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Now()) })()
	raw, err := f.SyscallConn()
	if err == nil {
		// The kernel tells of the connection as it tells that one may write.
		err = raw.Write(func(fd uintptr) bool { return !hungUp(int(fd)) })
	}
	if err != nil {
		_ = f.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	return f, nil
}

func hungUp(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd)}}
	n, err := unix.Poll(p, 0)
	return err == nil && n > 0 && p[0].Revents&unix.POLLHUP != 0
}
