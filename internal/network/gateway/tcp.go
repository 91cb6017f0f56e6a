package gateway

import (
	"context"
	"net"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/vzcompose/vzcompose/relay"
)

// inFlight is how many connections may be under way in all. What bounds them is
// the machines' own limits; this is only not to be reached.
const inFlight = 1 << 16

// A machine that answers nothing for some probes is gone, and so are its
// connections. A connection over which nothing passes is not cut.
const (
	probeIdle     = time.Minute
	probeInterval = 15 * time.Second
	probes        = 4
)

// acceptTCP is called, on a goroutine of its own, with a connection that a
// machine wants to make to an address outside. It is first made from the host,
// so that a refusal is one to the machine too.
func (g *Gateway) acceptTCP(r *tcp.ForwarderRequest) {
	id := r.ID() // local is whom the machine calls
	m, end := g.begin(addrPort(id.RemoteAddress, 0).Addr(), func(m *machine) chan struct{} { return m.conns })
	if m == nil {
		r.Complete(true)
		return
	}
	defer end()
	to, ok := g.leads(m, "tcp", addrPort(id.LocalAddress, id.LocalPort))
	if !ok {
		g.stats.denied.Add(1)
		r.Complete(true)
		return
	}
	host, err := g.dial(m.ctx, "tcp", to)
	if err != nil {
		g.stats.failed.Add(1)
		r.Complete(true)
		return
	}
	var q waiter.Queue
	ep, terr := r.CreateEndpoint(&q)
	r.Complete(false)
	if terr != nil { // the machine did not finish its handshake
		host.Close()
		return
	}
	probe(ep)
	g.stats.conns.Add(1)
	// What ended it is the two sides' affair, who have seen it.
	_, _ = relay.Pair(m.ctx, gonet.NewTCPConn(&q, ep), host)
}

func (g *Gateway) dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, g.o.Limits.Dial)
	defer cancel()
	c, err := g.o.Dial(ctx, network, to.String())
	if other, own := otherLoopback(to); err != nil && own && ctx.Err() == nil {
		// The host's servers often listen at one of the two only, and who asks for
		// the host by name has an address of each.
		if c, oerr := g.o.Dial(ctx, network, other.String()); oerr == nil {
			return c, nil
		}
	}
	return c, err
}

// otherLoopback answers the host's other loopback address; own says that to is
// one.
func otherLoopback(to netip.AddrPort) (other netip.AddrPort, own bool) {
	switch a := to.Addr(); {
	case !a.IsLoopback():
		return to, false
	case a.Is4():
		return netip.AddrPortFrom(netip.IPv6Loopback(), to.Port()), true
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), to.Port()), true
}

func probe(ep tcpip.Endpoint) {
	idle, interval := tcpip.KeepaliveIdleOption(probeIdle), tcpip.KeepaliveIntervalOption(probeInterval)
	// These cannot fail on an endpoint of TCP.
	_ = ep.SetSockOpt(&idle)
	_ = ep.SetSockOpt(&interval)
	_ = ep.SetSockOptInt(tcpip.KeepaliveCountOption, probes)
	ep.SocketOptions().SetKeepAlive(true)
}
