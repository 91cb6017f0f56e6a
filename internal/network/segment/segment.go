// Package segment is one layer-2 network: ports with a machine behind each, and
// at most one uplink, which is the gateway's place. Nothing leads from one
// segment to another.
//
// Machines do not trust each other. A port forwards only what frame.Identity
// lets its machine say, to ports whose addresses are told beforehand and never
// learned, so that nothing is flooded but broadcasts, which are bounded. What a
// machine does not take waits in a bounded queue of its own and is then lost;
// nobody waits for it. Senders take turns in a queue, and none has more of it than
// it leaves free, so that one that floods delays and loses its own frames only.
package segment

import (
	"fmt"
	"io"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/network/frame"
)

// MTUs a segment can have, in bytes. 1280 is the least of IPv6.
const (
	MinMTU     = 1280
	MaxMTU     = 65535 - frame.HeaderSize
	DefaultMTU = 1280
)

// Conn carries frames: one Read answers one, one Write takes one whole. Closing
// it wakes both. A datagram socket is one.
type Conn = io.ReadWriteCloser

// Options of a segment. The zero value is usable.
type Options struct {
	// MTU of the network in bytes, without the frame's header; 0: DefaultMTU.
	MTU int
	// Broadcasts a second that a port may send, broadcast or multicast, and how
	// many at once; 0: 100 and 200. The rest is lost.
	Broadcasts float64
	Burst      int
}

// Queues: frames that may wait for a machine, within bytes that they take.
const (
	queueBytes  = 4 << 20
	queueFrames = 1024
)

// Segment is a network. Make it with New.
type Segment struct {
	o     Options
	pool  sync.Pool
	table atomic.Pointer[table] // replaced whole, so that forwarding takes no lock

	mu     sync.Mutex // held to replace table; guards the following
	closed bool
}

// table is where frames go. It is never written once it is published.
type table struct {
	ports  map[frame.MAC]*Port
	uplink *Uplink
}

// New makes a segment without ports.
func New(o Options) (*Segment, error) {
	if o.MTU == 0 {
		o.MTU = DefaultMTU
	}
	if o.MTU < MinMTU || o.MTU > MaxMTU {
		return nil, errs.New(errs.InvalidArgument, "MTU %d is not within %d and %d", o.MTU, MinMTU, MaxMTU)
	}
	if o.Broadcasts <= 0 {
		o.Broadcasts = 100
	}
	if o.Burst <= 0 {
		o.Burst = 200
	}
	s := &Segment{o: o}
	// One byte more than a frame may have shows that a datagram was cut.
	s.pool.New = func() any { return &buffer{b: make([]byte, o.MTU+frame.HeaderSize+1)} }
	s.table.Store(&table{})
	return s, nil
}

// MTU answers the MTU in bytes.
func (s *Segment) MTU() int { return s.o.MTU }

// Attach gives the machine id a port that is served on c, which the segment
// owns from here on, also where Attach fails. A port that id.MAC has already
// ends with errs.AlreadyExists: a machine that comes back means that its old
// connection is of no use.
func (s *Segment) Attach(id frame.Identity, c Conn) (*Port, error) {
	if id.MAC.Group() || id.MAC == (frame.MAC{}) {
		c.Close()
		return nil, errs.New(errs.InvalidArgument, "%s is no MAC of a machine", id.MAC)
	}
	p := newPort(s, id, c)
	old, err := s.replace(func(t *table) error {
		if t.uplink != nil && t.uplink.mac == id.MAC {
			return errs.New(errs.AlreadyExists, "%s is the gateway's MAC", id.MAC)
		}
		t.ports[id.MAC] = p
		return nil
	})
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("attach: %w", err)
	}
	if before := old.ports[id.MAC]; before != nil {
		before.end(errs.New(errs.AlreadyExists, "port of %s was taken over", id.MAC))
		<-before.done
	}
	p.start()
	return p, nil
}

// Connect gives the segment its uplink, whose MAC is mac. deliver is called with
// what is for it, on the goroutine of the port that sent; b is valid until it
// returns.
func (s *Segment) Connect(mac frame.MAC, deliver func(f *frame.Frame, b []byte)) (*Uplink, error) {
	u := &Uplink{s: s, mac: mac, deliver: deliver}
	_, err := s.replace(func(t *table) error {
		if t.uplink != nil || t.ports[mac] != nil {
			return errs.New(errs.AlreadyExists, "uplink, or a port with its MAC")
		}
		t.uplink = u
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("connect uplink: %w", err)
	}
	return u, nil
}

// replace publishes the table as change leaves it, and answers the one before.
func (s *Segment) replace(change func(*table) error) (old *table, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errs.New(errs.FailedPrecondition, "segment is closed")
	}
	old = s.table.Load()
	next := &table{ports: maps.Clone(old.ports), uplink: old.uplink}
	if next.ports == nil {
		next.ports = map[frame.MAC]*Port{}
	}
	if err := change(next); err != nil {
		return nil, err
	}
	s.table.Store(next)
	return old, nil
}

// forget takes p out, unless another has its place already.
func (s *Segment) forget(p *Port) {
	// A closed segment forgets all its ports itself.
	_, _ = s.replace(func(t *table) error {
		if t.ports[p.id.MAC] == p {
			delete(t.ports, p.id.MAC)
		}
		return nil
	})
}

// Close ends all ports and waits until they are gone.
func (s *Segment) Close() {
	s.mu.Lock()
	s.closed = true
	t := s.table.Swap(&table{})
	s.mu.Unlock()
	for _, p := range t.ports {
		p.Detach()
	}
}

// Uplink is the place of the gateway.
type Uplink struct {
	s       *Segment
	mac     frame.MAC
	deliver func(*frame.Frame, []byte)
}

// Send forwards the frame that parts are in sequence, and keeps nothing of them.
// A frame that is too short or too long is lost.
func (u *Uplink) Send(parts ...[]byte) {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	if size < frame.HeaderSize || size > u.s.o.MTU+frame.HeaderSize {
		return
	}
	buf := u.s.get()
	defer u.s.put(buf)
	buf.n = 0
	for _, p := range parts {
		buf.n += copy(buf.b[buf.n:], p)
	}
	u.s.forward(u, frame.MAC(buf.b[:6]), buf)
}

// forward queues buf at who is addressed, in the name of from, and answers
// whether there is anybody and whether a queue took it. It takes references of
// its own.
func (s *Segment) forward(from any, to frame.MAC, buf *buffer) (there, took bool) {
	t := s.table.Load()
	if !to.Group() {
		p := t.ports[to]
		if p == nil || p == from {
			return false, false
		}
		return true, p.offer(from, buf)
	}
	for _, p := range t.ports {
		if p != from {
			took = p.offer(from, buf) || took
		}
	}
	return true, took || len(t.ports) < 2
}

// buffer is one frame, shared by the queues that it stands in.
type buffer struct {
	b    []byte
	n    int         // bytes of the frame
	f    frame.Frame // what its headers say, where a machine sent it
	refs atomic.Int32
}

func (s *Segment) get() *buffer {
	b := s.pool.Get().(*buffer)
	b.refs.Store(1)
	return b
}

func (s *Segment) put(b *buffer) {
	if b.refs.Add(-1) == 0 {
		s.pool.Put(b)
	}
}
