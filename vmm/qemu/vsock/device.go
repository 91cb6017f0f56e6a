//go:build linux

package vsock

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm/qemu/vhostuser"
)

// The queues: VIRTIO 1.2, 5.10.2. Their names are the guest's view. The front
// end keeps the third one, for events, to itself.
const (
	rxQueue   = 0 // to the guest
	txQueue   = 1 // from the guest
	numQueues = 3
)

// Device is the socket device of one machine. Its methods may be called from
// any goroutine, before Serve and after it.
type Device struct {
	srv *vhostuser.Server
	cid uint64

	// the server's lock guards the following
	served    bool
	conns     map[key]*conn
	listeners map[uint32]*listener
	line      line       // connections that have something to send
	resets    resetQueue // owed to packets of no connection
	held      bool       // the guest's packets wait until resets has room
	granted   grants
	nextPort  uint32
	alarms    map[*alarm]struct{} // those that are set
	stopped   [2]uint16           // the positions at which the rings stopped
	change    chan struct{}       // closed and replaced when running or ended may have changed
	broken    error               // how the guest broke its rings; nil once they run again
	ended     error               // why there is no machine any more
	stats     Stats

	ringing sync.WaitGroup // alarms whose function may still run
}

// key names a connection: there is one host and one guest.
type key struct{ host, guest uint32 }

// Stats are the counters of a device. They only grow, except for Conns and
// Buffers.
type Stats struct {
	Conns     int    // connections, in any state
	Buffers   int    // bytes of receive buffer that the guest may fill
	ToGuest   Count  // packets with data to the guest
	FromGuest Count  // and from it
	Resets    uint64 // packets of the guest that belonged to no connection
	Stalls    uint64 // times a writer ran out of the guest's credit
	Starved   uint64 // times the guest had no buffer for what was to be sent
}

// Count counts packets and the bytes of payload in them.
type Count struct{ Packets, Bytes uint64 }

// Option changes a new Device.
type Option func(*Device)

// Unsealed takes guest memory whose file is not sealed against shrinking. Who
// holds that file can then end the device (not the process) at any time. It must
// be the machine's memory all the same: of a file that the front end has mapped
// privately, the device would see, and write to, what the machine does not have.
func Unsealed() Option { return func(d *Device) { d.srv.RequireSealed = false } }

// New makes the device of a machine whose address is guestCID: 3 or more, and
// unique in nothing but the machine. It waits for Serve.
func New(guestCID uint64, options ...Option) *Device {
	d := &Device{
		cid:       guestCID,
		conns:     map[key]*conn{},
		listeners: map[uint32]*listener{},
		nextPort:  firstPort,
		alarms:    map[*alarm]struct{}{},
		change:    make(chan struct{}),
	}
	d.srv = vhostuser.NewServer(model{d})
	for _, option := range options {
		option(d)
	}
	return d
}

// Serve owns c and serves the front end behind it until that goes or Close is
// called (nil), or it or its memory cannot be served any more (the reason). A
// device serves once: afterwards its connections, listeners and dials fail with
// errs.Unavailable, and nothing of it runs any more.
func (d *Device) Serve(c *net.UnixConn) error {
	d.srv.Lock()
	again := d.served
	d.served = true
	d.srv.Unlock()
	if again {
		c.Close()
		return errs.New(errs.FailedPrecondition, "socket device has served a front end already")
	}
	err := d.srv.Serve(c)
	cause := errs.New(errs.Unavailable, "machine is gone")
	if err != nil {
		cause = errs.As(errs.Unavailable, fmt.Errorf("socket device ended: %w", err))
	}
	d.end(cause)
	return err
}

// Close ends Serve, and the device, and waits until nothing of it runs. It is
// idempotent.
func (d *Device) Close() error {
	err := d.srv.Close()
	d.end(errs.New(errs.Unavailable, "socket device is closed"))
	return err
}

// Stats answers the counters.
func (d *Device) Stats() Stats {
	d.srv.Lock()
	defer d.srv.Unlock()
	s := d.stats
	s.Conns, s.Buffers = len(d.conns), d.granted.bytes()
	return s
}

// end makes everything fail with err from now on, once.
func (d *Device) end(err error) {
	d.srv.Lock()
	if d.ended == nil {
		d.ended = err
		d.dropConns(err)
		for port, l := range d.listeners {
			delete(d.listeners, port)
			l.end(err)
		}
		for a := range d.alarms {
			a.stop()
		}
		d.changed()
	}
	d.srv.Unlock()
	d.ringing.Wait()
}

// changed wakes those that wait for the driver.
func (d *Device) changed() {
	close(d.change)
	d.change = make(chan struct{})
}

func (d *Device) rx() *vhostuser.Queue { return d.srv.Queue(rxQueue) }
func (d *Device) tx() *vhostuser.Queue { return d.srv.Queue(txQueue) }

// running says whether the driver is there to send and receive.
func (d *Device) running() bool { return d.rx().Ready() && d.tx().Ready() }

// broke ends all connections because the guest broke the rules of its rings.
// The device works again when the driver has reset it.
func (d *Device) broke(err error) {
	d.rx().Fail(err)
	d.tx().Fail(err)
	d.broken = err
	d.dropConns(errs.As(errs.Unavailable, fmt.Errorf("guest broke its socket device: %w", err)))
	d.changed()
}

// dropConns ends all connections without a word to the guest.
func (d *Device) dropConns(err error) {
	for _, c := range d.conns {
		d.remove(c, err)
	}
	for _, l := range d.listeners {
		for _, c := range l.backlog {
			d.discard(c)
		}
		l.backlog = nil
	}
	d.resets = resetQueue{}
	d.held = false
}

// model is the Device as the server sees it.
type model struct{ d *Device }

var _ vhostuser.Device = model{}

func (m model) Queues() int { return numQueues }

// Features are none: a device without any has streams. VIRTIO 1.2, 5.10.3.
func (m model) Features() uint64 { return 0 }

// Config is struct virtio_vsock_config: VIRTIO 1.2, 5.10.4.
func (m model) Config() []byte { return binary.LittleEndian.AppendUint64(nil, m.d.cid) }

// Started resumes the connections if both rings go on where they stopped, after
// a pause; otherwise the driver is a new one, which knows none of them.
func (m model) Started(int) {
	d := m.d
	if !d.running() {
		return
	}
	d.broken = nil
	if d.stopped != [2]uint16{d.rx().Position(), d.tx().Position()} {
		d.dropConns(errDriverReset)
	}
	d.changed()
	d.rx().Poke()
	d.tx().Poke()
}

func (m model) Stopped(q int) {
	if q < len(m.d.stopped) {
		m.d.stopped[q] = m.d.srv.Queue(q).Position()
		m.d.changed()
	}
}

func (m model) Kicked(q int) (more bool) {
	d := m.d
	switch {
	case !d.running():
		return false
	case q == rxQueue:
		return d.pump()
	case q == txQueue:
		return d.take()
	}
	return false
}
