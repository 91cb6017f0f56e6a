// Package switchproto is the wire between shims and the switch of their stack: a
// Unix socket on which a shim hands over its machine's frame sockets, says what
// the machine is called, and whether names lead to it. The connection is the
// membership: when it ends the machine has left.
//
// A message is its length in 4 bytes, big-endian, and JSON; descriptors travel
// with its first byte. Requests are answered one after the other. Both sides are
// of the same user; bounds are here because a version may be wrong, not because
// a side is hostile.
package switchproto

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/network"
)

// Version of the wire. A switch refuses any other: one that does not know what a
// machine may reach would let it reach more.
const Version = 2

// Bounds of a message.
const (
	maxMessage = 4 << 20 // bytes
	maxFiles   = 64      // interfaces of one machine
)

// Join is what a shim says of its machine. Its frame sockets, one an interface
// and in that order, travel with it.
type Join struct {
	Networks []network.Network `json:"networks"` // of its interfaces
	Machine  network.Machine   `json:"machine"`
}

// request has one of its fields.
type request struct {
	Version int   `json:"version"`
	Join    *Join `json:"join,omitempty"`
	Ready   *bool `json:"ready,omitempty"`
	Inspect bool  `json:"inspect,omitempty"`
}

// reply to a request.
type reply struct {
	Error    *errs.Wire              `json:"error,omitempty"`
	Networks []network.NetworkStatus `json:"networks,omitempty"` // to Inspect
}

// send writes v with files, which stay the caller's.
func send(c *net.UnixConn, v any, files []*os.File) error {
	b, err := json.Marshal(v)
	if err != nil {
		return errs.New(errs.Internal, "encode message: %w", err)
	}
	if len(b) > maxMessage {
		return errs.New(errs.ResourceExhausted, "a message of %d bytes, more than %d", len(b), maxMessage)
	}
	b = append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	n, _, err := c.WriteMsgUnix(b, rights, nil)
	if err == nil && n < len(b) {
		_, err = c.Write(b[n:])
	}
	return err
}

// receive reads a message into v, and the files that came with it, which are the
// caller's.
func receive(c *net.UnixConn, v any) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(files)
			files = nil
		}
	}()
	var head [4]byte
	rights := make([]byte, unix.CmsgSpace(maxFiles*4))
	for have := 0; have < len(head); {
		n, oob, flags, _, err := c.ReadMsgUnix(head[have:], rights)
		if err != nil {
			return files, err
		}
		got, ferr := filesOf(rights[:oob])
		files = append(files, got...)
		switch {
		case ferr != nil:
			return files, ferr
		case flags&unix.MSG_CTRUNC != 0:
			return files, errs.New(errs.ResourceExhausted, "more than %d descriptors", maxFiles)
		case n == 0:
			return files, io.EOF
		}
		have += n
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > maxMessage {
		return files, errs.New(errs.DataLoss, "a message of %d bytes, more than %d", size, maxMessage)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(c, b); err != nil {
		return files, fmt.Errorf("read message: %w", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return files, errs.New(errs.DataLoss, "decode message: %w", err)
	}
	return files, nil
}

func filesOf(oob []byte) (files []*os.File, err error) {
	all, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, errs.New(errs.DataLoss, "read descriptors: %w", err)
	}
	for _, m := range all {
		fds, perr := unix.ParseUnixRights(&m)
		err = errors.Join(err, perr)
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "frames"))
		}
	}
	return files, err
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // sockets; nothing is buffered
	}
}
