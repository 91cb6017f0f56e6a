package networktest

import (
	"context"
	"fmt"
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
	link  *channel.Endpoint
	conn  net.Conn
	stop  context.CancelFunc
	pumps sync.WaitGroup
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
	s, err := New(c, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// New makes a station on c, which Close closes.
func New(c net.Conn, o Config) (*Station, error) {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	link := channel.New(1024, uint32(o.MTU+frame.HeaderSize), tcpip.LinkAddress(o.MAC[:]))
	st := &Station{Stack: s, id: frame.Identity{MAC: o.MAC, V4: o.V4.Addr(), V6: o.V6.Addr()}, link: link, conn: c}
	if err := s.CreateNIC(nic, ethernet.New(link)); err != nil {
		s.Close()
		return nil, fmt.Errorf("make the station's interface: %s", err)
	}
	var routes []tcpip.Route
	for _, p := range []netip.Prefix{o.V4, o.V6} {
		if !p.IsValid() {
			continue
		}
		at := tcpip.AddressWithPrefix{Address: tcpip.AddrFromSlice(p.Addr().AsSlice()), PrefixLen: p.Bits()}
		proto := protocol(p.Addr())
		if err := s.AddProtocolAddress(nic, tcpip.ProtocolAddress{Protocol: proto, AddressWithPrefix: at}, stack.AddressProperties{}); err != nil {
			s.Close()
			return nil, fmt.Errorf("give the station %s: %s", p, err)
		}
		routes = append(routes, tcpip.Route{Destination: at.Subnet(), NIC: nic})
	}
	for _, g := range o.Gateways {
		any := tcpip.AddressWithPrefix{Address: tcpip.AddrFromSlice(make([]byte, g.BitLen()/8))}
		routes = append(routes, tcpip.Route{Destination: any.Subnet(), Gateway: tcpip.AddrFromSlice(g.AsSlice()), NIC: nic})
	}
	s.SetRouteTable(routes)
	st.carry(o.MTU)
	return st, nil
}

// carry moves frames between the socket and the stack until Close.
func (s *Station) carry(mtu int) {
	var ctx context.Context
	ctx, s.stop = context.WithCancel(context.Background())
	s.pumps.Go(func() {
		for {
			p := s.link.ReadContext(ctx)
			if p == nil {
				return
			}
			v := p.ToView()
			_, err := s.conn.Write(v.AsSlice())
			v.Release()
			p.DecRef()
			if err != nil {
				return
			}
		}
	})
	s.pumps.Go(func() {
		b := make([]byte, mtu+frame.HeaderSize)
		for {
			n, err := s.conn.Read(b)
			if err != nil {
				return
			}
			p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b[:n])})
			s.link.InjectInbound(0, p)
			p.DecRef()
		}
	})
}

// Close ends the station, and closes its socket.
func (s *Station) Close() {
	s.stop()
	_ = s.conn.Close()
	s.pumps.Wait()
	s.Stack.Close()
	s.link.Close()
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
