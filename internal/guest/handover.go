//go:build linux

package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// A stage is told what to do by one message on its socket: a byte that says
// what the message is, and a descriptor for every slot.

// The slots.
const (
	slotOrders = iota // memory file with the orders as JSON
	slotStdin         // this and the next two become 0, 1 and 2
	slotStdout
	slotStderr
	slotReport // pipe: stageReady, then an errs.Wire as JSON if the execve failed
	slotCgroup // cgroup.procs of the container, which its first process enters
	slotInit   // pidfd of the container's first process, whose namespaces others join
	slotLate   // what orders.Late is written to
	slots
)

// What a message is.
const (
	handGo    = 'G' // carry out the orders
	handDrill = 'D' // only read the orders, give the same byte back, and wait on
	handLast  = 'L' // the last orders of a process that is held
)

// handover is a message as the agent sends it. The files stay the sender's;
// only that of the orders must be there.
type handover [slots]*os.File

// send never waits: the socket has room for the few messages that a stage gets
// at most.
func (h *handover) send(socket *os.File, kind byte) error {
	fds := make([]int, slots)
	for i, f := range h {
		if f == nil {
			f = h[slotOrders] // the orders say that the slot is of no use
		}
		fds[i] = int(f.Fd())
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return fmt.Errorf("hand over the orders: %w", err)
	}
	var serr error
	err = raw.Control(func(fd uintptr) {
		serr = unix.Sendmsg(int(fd), []byte{kind}, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
	})
	runtime.KeepAlive(h)
	if err == nil {
		err = serr
	}
	if err != nil {
		return fmt.Errorf("hand over the orders: %w", err)
	}
	return nil
}

// handed is a message as the stage has got it. All are closed by the execve.
type handed [slots]int

// receiveGo waits for orders to carry out; drills come and go before. io.EOF
// tells that there will be none.
func receiveGo() (*handed, error) {
	for {
		kind, h, err := receive()
		if err != nil || kind == handGo {
			return h, err
		}
		_, err = h.readOrders()
		for _, fd := range h[slotOrders+1:] {
			_ = unix.Close(fd) // never used
		}
		if err != nil {
			return nil, err
		}
		if _, err := unix.Write(fdSocket, []byte{kind}); err != nil {
			return nil, fmt.Errorf("answer a drill: %w", err)
		}
	}
}

func receive() (kind byte, h *handed, err error) {
	var b [1]byte
	oob := make([]byte, unix.CmsgSpace(4*slots))
	n, oobn, flags, _, err := unix.Recvmsg(fdSocket, b[:], oob, unix.MSG_CMSG_CLOEXEC)
	for errors.Is(err, unix.EINTR) {
		n, oobn, flags, _, err = unix.Recvmsg(fdSocket, b[:], oob, unix.MSG_CMSG_CLOEXEC)
	}
	switch {
	case err != nil:
		return 0, nil, fmt.Errorf("receive orders: %w", err)
	case n == 0:
		return 0, nil, io.EOF
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		return 0, nil, errs.New(errs.Internal, "the message with the orders is cut")
	}
	var fds []int
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err == nil && len(msgs) == 1 {
		fds, err = unix.ParseUnixRights(&msgs[0])
	}
	if err != nil {
		return 0, nil, fmt.Errorf("receive descriptors: %w", err)
	}
	if len(fds) != slots {
		return 0, nil, errs.New(errs.Internal, "a message with %d descriptors, not %d", len(fds), slots)
	}
	return b[0], (*handed)(fds), nil
}

// takeStreams makes the streams 0, 1 and 2.
func (h *handed) takeStreams() error {
	for to, fd := range h[slotStdin : slotStderr+1] {
		if err := unix.Dup3(fd, to, 0); err != nil {
			return fmt.Errorf("take stream %d: %w", to, err)
		}
	}
	return nil
}

// readOrders reads and closes the orders.
func (h *handed) readOrders() (*orders, error) {
	f := os.NewFile(uintptr(h[slotOrders]), "orders")
	defer func() { _ = f.Close() }() // only read
	return decodeOrders[orders](f)
}

// maxOrders bounds the orders, in bytes. JSON may grow what came in a message.
const maxOrders = 8 << 20

// writeOrders puts o, which are orders, into a memory file, which never blocks.
func writeOrders(o any) (*os.File, error) {
	b, err := json.Marshal(o)
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

// decodeOrders reads orders of the kind T, with a bound.
func decodeOrders[T any](r io.Reader) (*T, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxOrders+1))
	if err != nil {
		return nil, fmt.Errorf("read orders: %w", err)
	}
	if len(b) > maxOrders {
		return nil, errs.New(errs.ResourceExhausted, "orders are over %d bytes", maxOrders)
	}
	o := new(T)
	if err := json.Unmarshal(b, o); err != nil {
		return nil, errs.New(errs.Internal, "decode orders: %w", err)
	}
	return o, nil
}
