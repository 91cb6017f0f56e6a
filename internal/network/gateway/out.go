package gateway

import (
	"net"
	"net/netip"
	"slices"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

// leads returns where on the host a connection or flow of m to "to" goes, and
// whether it goes anywhere.
func (g *Gateway) leads(m *machine, network string, to netip.AddrPort) (netip.AddrPort, bool) {
	a := to.Addr().Unmap()
	switch {
	case g.o.Internal, !a.IsValid(), to.Port() == 0:
		return netip.AddrPort{}, false
	case a == g.o.V4.Addr():
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), to.Port()), m.mayReach(network, to.Port())
	case a == g.o.V6.Addr():
		return netip.AddrPortFrom(netip.IPv6Loopback(), to.Port()), m.mayReach(network, to.Port())
	case closed(a), g.host.has(a), g.o.Denied != nil && g.o.Denied(a):
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(a, to.Port()), true
}

// mayReach reports whether a port of the host's loopback is open to m.
func (m *machine) mayReach(network string, port uint16) bool {
	return slices.ContainsFunc(m.open, func(p Ports) bool { return p.Protocol == network && p.Low <= port && port <= p.High })
}

// closed reports whether a means the host itself, its links, or nobody in
// particular. 0.0.0.0/8 and :: are the host's loopback on Linux.
func closed(a netip.Addr) bool {
	if a.Is4() {
		if b := a.As4(); b[0] == 0 || b[0] >= 240 {
			return true
		}
	}
	return a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast()
}

// Listen answers TCP on the gateway's own addresses, one listener for each. They
// end with the gateway.
func (g *Gateway) Listen(port uint16) ([]net.Listener, error) {
	var all []net.Listener
	for _, a := range g.own() {
		l, err := gonet.ListenTCP(g.stack, tcpip.FullAddress{NIC: nic, Addr: address(a), Port: port}, protocol(a))
		if err != nil {
			for _, l := range all {
				l.Close()
			}
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

// ListenPacket is Listen for UDP.
func (g *Gateway) ListenPacket(port uint16) ([]net.PacketConn, error) {
	var all []net.PacketConn
	for _, a := range g.own() {
		at := tcpip.FullAddress{NIC: nic, Addr: address(a), Port: port}
		c, err := gonet.DialUDP(g.stack, &at, nil, protocol(a))
		if err != nil {
			for _, c := range all {
				c.Close()
			}
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

func (g *Gateway) own() []netip.Addr {
	if g.o.V6.IsValid() {
		return []netip.Addr{g.o.V4.Addr(), g.o.V6.Addr()}
	}
	return []netip.Addr{g.o.V4.Addr()}
}

// Counters of a gateway.
type Counters struct {
	Conns     uint64 `json:"conns"`      // TCP connections that were made from the host
	Flows     uint64 `json:"flows"`      // UDP flows likewise
	Denied    uint64 `json:"denied"`     // to where nothing leads
	OverLimit uint64 `json:"over_limit"` // of a machine that has as many as it may
	Failed    uint64 `json:"failed"`     // the host could not connect
}

type stats struct{ conns, flows, denied, overLimit, failed atomic.Uint64 }

// Counters answers what the gateway has counted so far.
func (g *Gateway) Counters() Counters {
	s := &g.stats
	return Counters{Conns: s.conns.Load(), Flows: s.flows.Load(), Denied: s.denied.Load(),
		OverLimit: s.overLimit.Load(), Failed: s.failed.Load()}
}
