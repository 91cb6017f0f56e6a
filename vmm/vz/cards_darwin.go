package vz

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/undo"
)

// maxMTU is what the framework takes at most
// (VZFileHandleNetworkDeviceAttachment.maximumTransmissionUnit).
const maxMTU = 65535

// Buffers of frame sockets, in bytes: the framework wants room for several frames
// to be sent, and four times that to be received, or frames are lost.
const (
	sendBuffer    = 1 << 20
	receiveBuffer = 4 * sendBuffer
)

// frameSockets makes a pair of sockets for each card. The binding does not
// duplicate the descriptor it is given: theirs must stay referenced, and open, for
// the machine's life, as ours must, so that who reads frames may come and go.
func frameSockets(n int, un *undo.Stack) (ours, theirs []*os.File, err error) {
	for i := range n {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
		if err != nil {
			return nil, nil, fmt.Errorf("make a frame socket: %w", err)
		}
		for j, fd := range fds {
			unix.CloseOnExec(fd)
			f := os.NewFile(uintptr(fd), fmt.Sprintf("frames of card %d", i))
			un.PushFunc("make a frame socket", func() { _ = f.Close() })
			if j == 0 {
				ours = append(ours, f)
			} else {
				theirs = append(theirs, f)
			}
		}
		for _, fd := range fds {
			for option, size := range map[int]int{unix.SO_SNDBUF: sendBuffer, unix.SO_RCVBUF: receiveBuffer} {
				if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, size); err != nil {
					return nil, nil, fmt.Errorf("give a frame socket room: %w", err)
				}
			}
		}
		if err := unix.SetNonblock(fds[0], true); err != nil {
			return nil, nil, fmt.Errorf("make a frame socket: %w", err)
		}
	}
	return ours, theirs, nil
}

// Frames answers the host's end of card i.
func (m *machine) Frames(i int) (*os.File, error) {
	if i < 0 || i >= len(m.ours) {
		return nil, errs.New(errs.NotFound, "machine %s has %d network cards, none is number %d", m.name, len(m.ours), i)
	}
	return m.ours[i], nil
}
