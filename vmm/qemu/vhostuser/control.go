//go:build linux

package vhostuser

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

const (
	// maxConfig is VHOST_USER_MAX_CONFIG_SIZE.
	maxConfig = 256
	// noFD is the bit of a SET_VRING_KICK, CALL or ERR that carries no
	// descriptor; the bits below are the queue.
	noFD      = 1 << 8
	indexMask = noFD - 1
)

// dispatch does what m asks: vhost-user.rst, "Front-end message types". A reply
// that is not nil is due. The lock is held, in Guard.
func (s *Server) dispatch(m *message) (reply []byte, err error) {
	switch m.request {
	case getFeatures:
		return payload64(s.offered()), nil
	case setFeatures:
		return nil, s.setFeatures(m)
	case getProtocolFeatures:
		return payload64(protocolFeatures), nil
	case setProtocolFeatures:
		return nil, s.setProtocol(m)
	case getQueueNum:
		return payload64(uint64(len(s.queues))), nil
	case setMemTable:
		return nil, s.setMemTable(m)
	case setVringNum, setVringBase, setVringEnable:
		return nil, s.setVring(m)
	case getVringBase:
		return s.stopVring(m)
	case setVringAddr:
		return nil, s.setVringAddr(m)
	case setVringKick, setVringCall, setVringErr:
		return nil, s.setVringFD(m)
	case getConfig:
		return s.config(m)
	case setOwner, resetOwner, setConfig:
		return nil, nil // nobody else has it; nothing in it can be written
	}
	return nil, errs.New(errs.Unsupported, "vhost-user request %d", m.request)
}

func (s *Server) offered() uint64 { return s.device.Features() | ringFeatures }

func (s *Server) setFeatures(m *message) error {
	if err := m.need(8); err != nil {
		return err
	}
	features := le.Uint64(m.payload)
	if extra := features &^ s.offered(); extra != 0 {
		return errs.New(errs.InvalidArgument, "features %#x were not offered", extra)
	}
	s.features = features
	return nil
}

func (s *Server) setProtocol(m *message) error {
	if err := m.need(8); err != nil {
		return err
	}
	features := le.Uint64(m.payload)
	if extra := features &^ protocolFeatures; extra != 0 {
		return errs.New(errs.InvalidArgument, "protocol features %#x were not offered", extra)
	}
	s.protocol = features
	return nil
}

// setMemTable maps a new table. Rings may run, because memory was plugged in:
// they are found in the new one, or stopped.
func (s *Server) setMemTable(m *message) error {
	regions, err := parseRegions(m)
	if err != nil {
		return err
	}
	mem, err := mapMemory(regions, m.fds, s.RequireSealed)
	if err != nil {
		return err
	}
	old := s.mem
	s.mem = mem
	for _, q := range s.queues {
		if q.mem == nil {
			continue
		}
		if resolveErr := q.resolve(mem); resolveErr != nil {
			err = resolveErr
			q.enabled = false
			s.announce(q)
			q.stop()
		}
	}
	if old != nil {
		old.release()
	}
	return err
}

// queue answers the queue of number i.
func (s *Server) queue(i uint32) (*Queue, error) {
	if i >= uint32(len(s.queues)) {
		return nil, errs.New(errs.InvalidArgument, "queue %d of %d", i, len(s.queues))
	}
	return s.queues[i], nil
}

// vring decodes a "vring state": a queue and a number.
func (s *Server) vring(m *message) (*Queue, uint32, error) {
	if err := m.need(8); err != nil {
		return nil, 0, err
	}
	q, err := s.queue(le.Uint32(m.payload))
	return q, le.Uint32(m.payload[4:]), err
}

func (s *Server) setVring(m *message) error {
	q, n, err := s.vring(m)
	if err != nil {
		return err
	}
	if m.request == setVringEnable {
		q.enabled = n == 1
		s.announce(q)
		return nil
	}
	if q.mem != nil {
		return errs.New(errs.FailedPrecondition, "queue %d runs (request %d)", q.index, m.request)
	}
	if m.request == setVringBase {
		q.nextAvail = uint16(n)
		return nil
	}
	if n < 1 || n > maxQueueSize || n&(n-1) != 0 {
		return errs.New(errs.InvalidArgument, "queue %d of size %d", q.index, n)
	}
	q.size = uint16(n)
	return nil
}

// stopVring stops a ring and answers where. No byte of the guest's memory is
// touched for it afterwards, so it waits for the requests in flight.
func (s *Server) stopVring(m *message) ([]byte, error) {
	q, _, err := s.vring(m)
	if err != nil {
		return nil, err
	}
	if q.mem != nil {
		q.draining = true
		s.announce(q)
		for q.inflight > 0 && !s.closed {
			s.drained.Wait()
		}
		q.stop()
	}
	q.closeKick()
	replaceFD(&q.callFD, -1)
	return le.AppendUint32(le.AppendUint32(nil, uint32(q.index)), uint32(q.nextAvail)), nil
}

// setVringAddr takes the addresses of a ring, in this order: descriptors, used,
// available.
func (s *Server) setVringAddr(m *message) error {
	if err := m.need(40); err != nil {
		return err
	}
	q, err := s.queue(le.Uint32(m.payload))
	if err != nil {
		return err
	}
	p := m.payload
	q.descUVA, q.usedUVA, q.availUVA = le.Uint64(p[8:]), le.Uint64(p[16:]), le.Uint64(p[24:])
	if q.mem != nil {
		return q.resolve(s.mem)
	}
	return nil
}

func (s *Server) setVringFD(m *message) error {
	if err := m.need(8); err != nil {
		return err
	}
	v := le.Uint64(m.payload)
	q, err := s.queue(uint32(v & indexMask))
	if err != nil {
		return err
	}
	fd := -1
	if v&noFD == 0 {
		if fd = m.takeFD(); fd < 0 {
			return errs.New(errs.InvalidArgument, "queue %d gets no descriptor (request %d)", q.index, m.request)
		}
	}
	switch m.request {
	case setVringKick:
		return s.startVring(q, fd)
	case setVringErr:
		return takeEvent(&q.errFD, fd)
	}
	err = takeEvent(&q.callFD, fd)
	if q.mem != nil {
		// it may replace another one on which an interrupt was lost
		signal(q.callFD)
	}
	return err
}

// takeEvent puts an eventfd that is written to in the place of another.
func takeEvent(place *int, fd int) error {
	replaceFD(place, fd)
	if fd < 0 {
		return nil
	}
	// QEMU has it non-blocking already; a write must never block under the lock
	if err := unix.SetNonblock(fd, true); err != nil {
		replaceFD(place, -1)
		return fmt.Errorf("take event descriptor: %w", err)
	}
	return nil
}

// startVring makes the ring run: vhost-user.rst, "Starting and stopping rings".
// It is enabled at once if the front end does not know SET_VRING_ENABLE.
func (s *Server) startVring(q *Queue, fd int) error {
	if fd < 0 {
		return errs.New(errs.Unsupported, "queue %d without a kick descriptor", q.index)
	}
	if err := s.setKick(q, fd); err != nil {
		return err
	}
	if q.mem == nil {
		if s.mem == nil {
			return errs.New(errs.FailedPrecondition, "queue %d starts without memory", q.index)
		}
		if err := q.start(s.mem, s.features&featureIndirect != 0); err != nil {
			return err
		}
		if s.features&featureProtocol == 0 {
			q.enabled = true
		}
	}
	signal(q.callFD)
	s.announce(q)
	q.Poke() // kicks may wait in the descriptor that was there before
	return nil
}

// config answers a part of the device's configuration space, in the size that
// was asked for; an empty payload says that it cannot.
func (s *Server) config(m *message) ([]byte, error) {
	const header = 12 // offset, size, flags
	if err := m.need(header); err != nil {
		return nil, err
	}
	offset, size := le.Uint32(m.payload), le.Uint32(m.payload[4:])
	if offset > maxConfig || size > maxConfig-offset || len(m.payload) != header+int(size) {
		return []byte{}, nil
	}
	reply := make([]byte, header+int(size))
	copy(reply, m.payload[:header])
	if config := s.device.Config(); int(offset) < len(config) {
		copy(reply[header:], config[offset:])
	}
	return reply, nil
}
