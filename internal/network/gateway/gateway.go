// Package gateway is the way out of a network: an IP stack (gVisor's netstack)
// on a segment's uplink, which takes the connections and datagrams that leave
// the network and makes them anew from the host. Nothing that a machine sends is
// passed on as a packet.
//
// The host is closed: no address of it can be reached, on whichever of its
// interfaces. The gateway's own address stands for it, and those of its ports
// that a machine may reach lead to the host's loopback. An internal network has
// no way out, and none to the host. Echo requests to the gateway are answered,
// others are not: it does not claim that an address is there which it did not ask.
//
// A machine has a bounded number of connections and flows, and what it has ends
// with its Leave.
package gateway

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/network/frame"
	"github.com/vzcompose/vzcompose/internal/network/segment"
)

// Options of a gateway.
type Options struct {
	MAC frame.MAC
	// V4 and V6 are its addresses, with the length of their subnets' prefixes. V6
	// is invalid where the network has no IPv6.
	V4, V6 netip.Prefix
	// Internal networks have no way out, and no way to the host.
	Internal bool
	// Denied reports whether nothing leads to an address, beside the host's own:
	// those of the stack's networks. It may be called at any time. May be nil.
	Denied func(netip.Addr) bool
	Limits Limits
	// Dial makes connections from the host; nil: net.Dialer's, which also refuses
	// what the host's routes lead to the host itself.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// HostAddrs lists the addresses of the host's interfaces; nil:
	// net.InterfaceAddrs.
	HostAddrs func() ([]net.Addr, error)
}

// Ports are ports of the host's loopback, from Low to High.
type Ports struct {
	Low      uint16 `json:"low"`
	High     uint16 `json:"high"`
	Protocol string `json:"protocol"` // "tcp" or "udp"
}

// Limits of what one machine has at once, and of waiting. Zeroes mean what
// defaults says.
type Limits struct {
	Conns int           // TCP connections
	Flows int           // UDP flows: pairs of an own and another's address and port
	Dial  time.Duration // for a connection from the host
	Idle  time.Duration // of a UDP flow. TCP is probed instead, see tcp.go
	// Asks is how many datagrams a second the gateway itself takes of a machine:
	// all of them share the resolver's socket.
	Asks float64
}

func (l Limits) defaults() Limits {
	if l.Conns <= 0 {
		l.Conns = 512
	}
	if l.Flows <= 0 {
		l.Flows = 256
	}
	if l.Dial <= 0 {
		l.Dial = 10 * time.Second
	}
	if l.Idle <= 0 {
		l.Idle = time.Minute
	}
	if l.Asks <= 0 {
		l.Asks = 500
	}
	return l
}

// Gateway of one network. Make it with New.
type Gateway struct {
	o     Options
	stack *stack.Stack
	link  *channel.Endpoint
	ctx   context.Context // ends what the gateway carries
	stop  context.CancelFunc
	pump  sync.WaitGroup // moves what the stack sends
	work  sync.WaitGroup // connections and flows
	stats stats
	host  hostAddrs

	mu       sync.Mutex // guards the following
	machines map[netip.Addr]*machine
	closed   bool
}

// machine is what one machine has of the gateway.
type machine struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	conns  chan struct{} // one taken a connection
	flows  chan struct{} // one taken a flow
	open   []Ports       // of the host
	asks   *rate.Limiter
}

// nic is the number of the stack's only interface.
const nic tcpip.NICID = 1

// outgoing is how many packets the stack may have waiting for the pump, which
// waits for nobody.
const outgoing = 1024

// New makes the gateway of s and takes its uplink.
func New(s *segment.Segment, o Options) (*Gateway, error) {
	if !o.V4.IsValid() || !o.V4.Addr().Is4() || o.V6.IsValid() && !o.V6.Addr().Is6() {
		return nil, errs.New(errs.InvalidArgument, "gateway with the addresses %v and %v", o.V4, o.V6)
	}
	o.Limits = o.Limits.defaults()
	if o.Dial == nil {
		o.Dial = dialOut
	}
	if o.HostAddrs == nil {
		o.HostAddrs = net.InterfaceAddrs
	}
	g := &Gateway{o: o, host: hostAddrs{list: o.HostAddrs}, machines: map[netip.Addr]*machine{}}
	g.link = channel.New(outgoing, uint32(s.MTU()+frame.HeaderSize), tcpip.LinkAddress(o.MAC[:]))
	var err error
	if g.stack, err = newStack(ethernet.New(g.link), o); err != nil {
		return nil, fmt.Errorf("make the gateway's stack: %w", err)
	}
	g.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, tcp.NewForwarder(g.stack, window, inFlight, g.acceptTCP).HandlePacket)
	g.stack.SetTransportProtocolHandler(udp.ProtocolNumber, udp.NewForwarder(g.stack, g.acceptUDP).HandlePacket)
	uplink, err := s.Connect(o.MAC, g.deliver)
	if err != nil {
		g.stack.Close()
		return nil, err
	}
	g.ctx, g.stop = context.WithCancel(context.Background())
	g.pump.Go(func() { g.send(uplink) })
	return g, nil
}

// send moves what the stack sends to the segment.
func (g *Gateway) send(u *segment.Uplink) {
	for {
		p := g.link.ReadContext(g.ctx)
		if p == nil {
			return
		}
		u.Send(p.AsSlices()...)
		p.DecRef()
	}
}

// deliver gives the stack what a machine sent, on the goroutine of its port.
func (g *Gateway) deliver(f *frame.Frame, b []byte) {
	if !g.admits(f) || g.exceeds(f) {
		return
	}
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
	g.link.InjectInbound(0, p)
	p.DecRef()
}

// admits reports whether the stack may see f. It would answer for every address
// there is, since it speaks for all of them.
func (g *Gateway) admits(f *frame.Frame) bool {
	own := f.To == g.o.V4.Addr() || f.To == g.o.V6.Addr()
	solicits := f.Type == frame.IPv6 && f.Proto == frame.ICMPv6 && !f.Later && f.ICMPType == frame.Solicitation
	switch {
	case f.Type == frame.ARP:
		return own
	case solicits:
		return f.Target == g.o.V6.Addr()
	case own:
		return true
	case f.Dst.Group(), g.o.V4.Contains(f.To), g.o.V6.IsValid() && g.o.V6.Contains(f.To):
		return false // machines reach each other without us
	}
	return f.Proto == frame.TCP || f.Proto == frame.UDP
}

// exceeds reports whether f is a datagram to the gateway itself from a machine
// that has sent too many.
func (g *Gateway) exceeds(f *frame.Frame) bool {
	if f.Proto != frame.UDP || f.To != g.o.V4.Addr() && f.To != g.o.V6.Addr() {
		return false
	}
	g.mu.Lock()
	m := g.machines[f.From]
	g.mu.Unlock()
	if m == nil || m.asks.Allow() {
		return false
	}
	g.stats.overLimit.Add(1)
	return true
}

// Join admits a machine, before its port is attached, and opens ports of the host
// to it. A machine that is there already keeps what it has.
func (g *Gateway) Join(id frame.Identity, open []Ports) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return errs.New(errs.FailedPrecondition, "gateway is closed")
	}
	if g.machines[id.V4] != nil {
		return nil
	}
	m := &machine{conns: make(chan struct{}, g.o.Limits.Conns), flows: make(chan struct{}, g.o.Limits.Flows),
		asks: rate.NewLimiter(rate.Limit(g.o.Limits.Asks), int(g.o.Limits.Asks)), open: open}
	m.ctx, m.cancel = context.WithCancelCause(g.ctx)
	for _, a := range addresses(id) {
		if err := g.stack.AddStaticNeighbor(nic, protocol(a), address(a), tcpip.LinkAddress(id.MAC[:])); err != nil {
			return errs.New(errs.Internal, "tell the gateway's stack of %v: %s", a, err)
		}
		g.machines[a] = m
	}
	return nil
}

// Leave ends all that the machine has of the gateway. It does not wait for it:
// a handshake cannot be called off.
func (g *Gateway) Leave(id frame.Identity) {
	g.mu.Lock()
	m := g.machines[id.V4]
	for _, a := range addresses(id) {
		if g.machines[a] == m {
			delete(g.machines, a)
			// It was added as static, and nobody else removes.
			_ = g.stack.RemoveNeighbor(nic, protocol(a), address(a))
		}
	}
	g.mu.Unlock()
	if m != nil {
		m.cancel(errs.New(errs.Canceled, "the machine left the network"))
	}
}

// addresses of a machine. Its link-local one is not told, it follows.
func addresses(id frame.Identity) []netip.Addr {
	if id.V6.IsValid() {
		return []netip.Addr{id.V4, id.V6, frame.LinkLocal(id.MAC)}
	}
	return []netip.Addr{id.V4}
}

// begin takes a place of the machine that has address a, from conns or flows; nil
// where there is no such machine or no place. end gives it back.
func (g *Gateway) begin(a netip.Addr, places func(*machine) chan struct{}) (m *machine, end func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if m = g.machines[a]; m == nil || g.closed {
		return nil, nil
	}
	taken := places(m)
	select {
	case taken <- struct{}{}:
	default:
		g.stats.overLimit.Add(1)
		return nil, nil
	}
	g.work.Add(1)
	return m, func() { <-taken; g.work.Done() }
}

// Close ends everything the gateway carries and its stack, and waits for it. The
// segment keeps the uplink, so it is to be closed before.
func (g *Gateway) Close() {
	g.mu.Lock()
	g.closed = true
	g.machines = nil
	g.mu.Unlock()
	g.stop()
	g.stack.Close() // also ends handshakes
	g.work.Wait()
	g.pump.Wait()
	g.link.Close()
}
