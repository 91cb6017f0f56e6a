//go:build linux

package vhostuser

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// request is the number of a message from the front end: vhost-user.rst,
// "Front-end message types".
type request uint32

const (
	getFeatures         request = 1
	setFeatures         request = 2
	setOwner            request = 3
	resetOwner          request = 4
	setMemTable         request = 5
	setVringNum         request = 8
	setVringAddr        request = 9
	setVringBase        request = 10
	getVringBase        request = 11
	setVringKick        request = 12
	setVringCall        request = 13
	setVringErr         request = 14
	getProtocolFeatures request = 15
	setProtocolFeatures request = 16
	getQueueNum         request = 17
	setVringEnable      request = 18
	getConfig           request = 24
	setConfig           request = 25
)

// The flags of a message header: vhost-user.rst, "Header".
const (
	flagVersionMask = 3
	flagVersion     = 1
	flagReply       = 1 << 2
	flagNeedReply   = 1 << 3
)

const (
	headerSize = 12
	// maxPayload bounds a message; the largest one taken, a memory table of
	// maxRegions, has 264 bytes.
	maxPayload = 4096
	// maxFDs is what one message may carry: a descriptor a memory region.
	maxFDs = maxRegions
)

var le = binary.LittleEndian

// message is one message from the front end. It owns its descriptors until a
// handler takes them.
type message struct {
	request request
	flags   uint32
	payload []byte
	fds     []int
	buf     [maxPayload]byte
}

// receive reads the next message. Descriptors travel with the header's bytes.
// It answers io.EOF when the front end has gone between two messages.
func (m *message) receive(c *net.UnixConn) error {
	var header [headerSize]byte
	oob := make([]byte, unix.CmsgSpace(maxFDs*4))
	for got := 0; got < headerSize; {
		// the net package asks for close-on-exec
		n, oobn, flags, _, err := c.ReadMsgUnix(header[got:], oob)
		if takeErr := m.takeFDs(oob[:oobn]); takeErr != nil {
			return takeErr
		}
		switch {
		case err != nil:
			return err
		case flags&unix.MSG_CTRUNC != 0:
			return errs.New(errs.InvalidArgument, "vhost-user message with more than %d descriptors", maxFDs)
		case n == 0 && got == 0:
			return io.EOF
		case n == 0:
			return io.ErrUnexpectedEOF
		}
		got += n
	}
	m.request, m.flags = request(le.Uint32(header[0:])), le.Uint32(header[4:])
	size := le.Uint32(header[8:])
	switch {
	case m.flags&flagVersionMask != flagVersion:
		return errs.New(errs.InvalidArgument, "vhost-user message of version %d", m.flags&flagVersionMask)
	case m.flags&flagReply != 0:
		return errs.New(errs.InvalidArgument, "vhost-user reply where a request was due")
	case size > maxPayload:
		return errs.New(errs.InvalidArgument, "vhost-user message of %d bytes", size)
	}
	m.payload = m.buf[:size]
	_, err := io.ReadFull(c, m.payload)
	return err
}

func (m *message) takeFDs(oob []byte) error {
	if len(oob) == 0 {
		return nil
	}
	controls, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("parse control message: %w", err)
	}
	for i := range controls {
		fds, err := unix.ParseUnixRights(&controls[i])
		if err != nil {
			continue // not descriptors
		}
		m.fds = append(m.fds, fds...)
	}
	if len(m.fds) > maxFDs {
		return errs.New(errs.InvalidArgument, "vhost-user message with more than %d descriptors", maxFDs)
	}
	return nil
}

// takeFD answers the one descriptor of the message, which is the caller's then,
// or -1 if there is not exactly one.
func (m *message) takeFD() int {
	if len(m.fds) != 1 {
		return -1
	}
	fd := m.fds[0]
	m.fds = m.fds[:0]
	return fd
}

// closeFDs closes what no handler has taken.
func (m *message) closeFDs() {
	for _, fd := range m.fds {
		unix.Close(fd)
	}
	m.fds = m.fds[:0]
}

// need refuses a message that is shorter than n bytes.
func (m *message) need(n int) error {
	if len(m.payload) < n {
		return errs.New(errs.InvalidArgument, "vhost-user request %d of %d bytes, not %d", m.request, len(m.payload), n)
	}
	return nil
}

func (m *message) wantsReply() bool { return m.flags&flagNeedReply != 0 }

// reply writes the answer to m.
func (m *message) reply(w io.Writer, payload []byte) error {
	b := make([]byte, headerSize, headerSize+len(payload))
	le.PutUint32(b[0:], uint32(m.request))
	le.PutUint32(b[4:], flagVersion|flagReply)
	le.PutUint32(b[8:], uint32(len(payload)))
	_, err := w.Write(append(b, payload...))
	return err
}

func payload64(v uint64) []byte { return le.AppendUint64(nil, v) }
