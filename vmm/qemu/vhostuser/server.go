//go:build linux

package vhostuser

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Server serves one front end with one device, once.
type Server struct {
	// RequireSealed refuses guest memory whose file could be shrunk later
	// (F_SEAL_SHRINK is missing). NewServer sets it; it may be changed before
	// Serve. Without it the guard against faults is what is left. In either case
	// the front end must have mapped the file shared: this side writes to it.
	RequireSealed bool

	device Device
	queues []*Queue

	mu sync.Mutex
	// mu guards the following, the queues, and what is the device's
	phase    phase
	conn     *net.UnixConn
	cause    error // why the server gave up
	mem      *memory
	features uint64
	protocol uint64
	closed   bool

	drained sync.Cond      // a queue has no request in flight, or the server ends
	kickers sync.WaitGroup // one goroutine each kick descriptor
	done    chan struct{}  // closed when Serve has let go of everything
}

type phase int

const (
	fresh phase = iota
	serving
	ended
)

// NewServer makes a server for d that waits for Serve.
func NewServer(d Device) *Server {
	s := &Server{RequireSealed: true, device: d, done: make(chan struct{})}
	s.drained.L = &s.mu
	for i := range d.Queues() {
		s.queues = append(s.queues, &Queue{index: i, kickFD: -1, callFD: -1, errFD: -1})
	}
	return s
}

// Lock takes the lock of the server and its device. It must not be held when
// Serve or Close is called.
func (s *Server) Lock() { s.mu.Lock() }

// Unlock gives the lock back.
func (s *Server) Unlock() { s.mu.Unlock() }

// Queue answers queue i of the device.
func (s *Server) Queue(i int) *Queue { return s.queues[i] }

// Serve owns c and serves the front end behind it until that goes, or Close, or
// an error: nil in the first two cases. A message that breaks the protocol,
// memory that cannot be had, or a fault in it is an error. When it returns,
// nothing of the front end's is left: memory, descriptors or goroutines.
func (s *Server) Serve(c *net.UnixConn) error {
	if err := s.begin(c); err != nil {
		c.Close()
		return err
	}
	err := s.converse(c)
	c.Close()
	if cause := s.end(); cause != nil {
		return cause
	}
	return err
}

func (s *Server) begin(c *net.UnixConn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errs.New(errs.Unavailable, "vhost-user device is closed")
	}
	if s.phase != fresh {
		return errs.New(errs.FailedPrecondition, "vhost-user device has served a front end already")
	}
	s.phase, s.conn = serving, c
	return nil
}

// Close makes Serve return, and waits for that. It is idempotent.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	if s.phase == serving {
		s.conn.Close()
	}
	s.drained.Broadcast()
	wait := s.phase == serving
	s.mu.Unlock()
	if wait {
		<-s.done
	}
	return nil
}

// converse answers messages until there are none. A front end that dies is not
// an error, at whatever byte.
func (s *Server) converse(c *net.UnixConn) error {
	var m message
	for {
		err := m.receive(c)
		if err == nil {
			err = s.answer(c, &m)
		}
		m.closeFDs()
		if err == nil {
			continue
		}
		if errs.ClassOf(err) == errs.Unknown && isHangup(err) {
			return nil
		}
		return fmt.Errorf("serve vhost-user front end: %w", err)
	}
}

func isHangup(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}

// answer handles one message and replies to it. An error is told to the front
// end, if it wants to know, and ends the conversation.
func (s *Server) answer(c *net.UnixConn, m *message) error {
	reply, acks, err := s.handle(m)
	if reply == nil && acks {
		ack := uint64(0)
		if err != nil {
			ack = 1
		}
		reply = payload64(ack)
	}
	if reply != nil {
		if writeErr := m.reply(c, reply); err == nil {
			err = writeErr
		}
	}
	return err
}

// handle does what m asks, under the lock. acks says that the front end wants
// to know of success if there is no other reply.
func (s *Server) handle(m *message) (reply []byte, acks bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Guard(func() { reply, err = s.dispatch(m) })
	if s.cause != nil {
		reply, err = nil, s.cause
	}
	return reply, s.protocol&protocolReplyAck != 0 && m.wantsReply(), err
}

// fail ends the device because of err: no ring is ready any more, and Serve
// returns err. The lock is held.
func (s *Server) fail(err error) {
	if s.cause == nil {
		s.cause = err
	}
	for _, q := range s.queues {
		q.Fail(err)
	}
	if s.conn != nil {
		s.conn.Close()
	}
}

// end lets go of all that the front end gave, and answers why the server gave
// up, if it did.
func (s *Server) end() error {
	s.mu.Lock()
	s.phase = ended
	s.Guard(func() {
		for _, q := range s.queues {
			q.enabled = false
			s.announce(q)
		}
	})
	for _, q := range s.queues {
		q.stop()
		q.closeKick()
		replaceFD(&q.callFD, -1)
		replaceFD(&q.errFD, -1)
	}
	if s.mem != nil {
		s.mem.release()
		s.mem = nil
	}
	s.drained.Broadcast()
	cause := s.cause
	s.mu.Unlock()
	s.kickers.Wait()
	close(s.done)
	return cause
}

// announce tells the device when a ring has become usable or unusable. The lock
// is held, in Guard.
func (s *Server) announce(q *Queue) {
	usable := q.mem != nil && q.enabled && !q.draining
	if usable == q.announced {
		return
	}
	q.announced = usable
	if usable {
		s.device.Started(q.index)
	} else {
		s.device.Stopped(q.index)
	}
}

// serveKicks calls the device for each kick, until f is closed.
func (s *Server) serveKicks(q *Queue, f *os.File) {
	var count [8]byte
	for {
		if n, err := f.Read(count[:]); err != nil || n == 0 {
			return
		}
		for s.kicked(q, f) {
			runtime.Gosched() // a guest that never stops must not pin us
		}
	}
}

func (s *Server) kicked(q *Queue, f *os.File) (more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q.kick != f || !q.Ready() {
		return false
	}
	s.Guard(func() { more = s.device.Kicked(q.index) })
	return more && q.Ready()
}

// setKick takes fd as the descriptor on which the driver kicks.
func (s *Server) setKick(q *Queue, fd int) error {
	q.closeKick()
	// QEMU has it non-blocking already; only then can Close end a Read
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return fmt.Errorf("take kick descriptor: %w", err)
	}
	q.kick, q.kickFD = os.NewFile(uintptr(fd), "kick"), fd
	f := q.kick
	s.kickers.Go(func() { s.serveKicks(q, f) })
	return nil
}

func (q *Queue) closeKick() {
	if q.kick != nil {
		q.kick.Close()
		q.kick, q.kickFD = nil, -1
	}
}

// replaceFD closes *fd and puts another in its place.
func replaceFD(fd *int, with int) {
	if *fd >= 0 {
		unix.Close(*fd)
	}
	*fd = with
}
