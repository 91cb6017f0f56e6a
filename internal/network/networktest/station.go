package networktest

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/vzcompose/vzcompose/internal/network/frame"
)

// Station is an IP stack behind a frame socket, in place of a machine.
type Station struct {
	Stack *stack.Stack
	id    frame.Identity
}

// Config of a station. Addresses carry the length of their subnet's prefix.
type Config struct {
	MAC      frame.MAC
	V4, V6   netip.Prefix
	Gateways []netip.Addr // default routes
	MTU      int
}

const nic = 1

// Start makes a station on c, and ends it with the test.
func Start(t testing.TB, c net.Conn, o Config) *Station {
	t.Helper()
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	link := channel.New(1024, uint32(o.MTU+frame.HeaderSize), tcpip.LinkAddress(o.MAC[:]))
	if err := s.CreateNIC(nic, ethernet.New(link)); err != nil {
		t.Fatal(err)
	}
	var routes []tcpip.Route
	for _, p := range []netip.Prefix{o.V4, o.V6} {
		if !p.IsValid() {
			continue
		}
		at := tcpip.AddressWithPrefix{Address: tcpip.AddrFromSlice(p.Addr().AsSlice()), PrefixLen: p.Bits()}
		proto := protocol(p.Addr())
		if err := s.AddProtocolAddress(nic, tcpip.ProtocolAddress{Protocol: proto, AddressWithPrefix: at}, stack.AddressProperties{}); err != nil {
			t.Fatal(err)
		}
		routes = append(routes, tcpip.Route{Destination: at.Subnet(), NIC: nic})
	}
	for _, g := range o.Gateways {
		any := tcpip.AddressWithPrefix{Address: tcpip.AddrFromSlice(make([]byte, g.BitLen()/8))}
		routes = append(routes, tcpip.Route{Destination: any.Subnet(), Gateway: tcpip.AddrFromSlice(g.AsSlice()), NIC: nic})
	}
	s.SetRouteTable(routes)
	carry(t, s, link, c, o.MTU)
	return &Station{Stack: s, id: frame.Identity{MAC: o.MAC, V4: o.V4.Addr(), V6: o.V6.Addr()}}
}

// carry moves frames between c and link until the test ends.
func carry(t testing.TB, s *stack.Stack, link *channel.Endpoint, c net.Conn, mtu int) {
	ctx, cancel := context.WithCancel(context.Background())
	var pumps sync.WaitGroup
	pumps.Go(func() {
		for {
			p := link.ReadContext(ctx)
			if p == nil {
				return
			}
			v := p.ToView()
			_, err := c.Write(v.AsSlice())
			v.Release()
			p.DecRef()
			if err != nil {
				return
			}
		}
	})
	pumps.Go(func() {
		b := make([]byte, mtu+frame.HeaderSize)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b[:n])})
			link.InjectInbound(0, p)
			p.DecRef()
		}
	})
	t.Cleanup(func() {
		cancel()
		c.Close()
		pumps.Wait()
		s.Close()
		link.Close()
	})
}

// Dial connects over TCP.
func (s *Station) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	return gonet.DialContextTCP(ctx, s.Stack, full(to), protocol(to.Addr()))
}

// Listen accepts over TCP.
func (s *Station) Listen(at netip.AddrPort) (net.Listener, error) {
	return gonet.ListenTCP(s.Stack, full(at), protocol(at.Addr()))
}

// Packet sends datagrams to one address.
func (s *Station) Packet(to netip.AddrPort) (net.Conn, error) {
	remote := full(to)
	return gonet.DialUDP(s.Stack, nil, &remote, protocol(to.Addr()))
}

func full(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFromSlice(a.Addr().AsSlice()), Port: a.Port()}
}

func protocol(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}
