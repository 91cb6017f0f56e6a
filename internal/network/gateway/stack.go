package gateway

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Buffers of a connection, in bytes. The round trip to a machine takes far less
// than a millisecond, so that more would not be faster; a machine that does
// its worst has Limits.Conns times twice the greatest.
const (
	smallBuffer = 4 << 10
	usualBuffer = 64 << 10
	largeBuffer = 256 << 10
	window      = usualBuffer // of a connection that is being accepted
)

// synRetries bounds a handshake that a machine does not finish to 7 s.
const synRetries = 2

// newStack makes a stack that speaks for every address on link.
func newStack(link stack.LinkEndpoint, o Options) (*stack.Stack, error) {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	if err := configure(s, link, o); err != nil {
		s.Close()
		return nil, errs.New(errs.Internal, "%s", err)
	}
	return s, nil
}

func configure(s *stack.Stack, link stack.LinkEndpoint, o Options) tcpip.Error {
	sack, grow := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(true)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: smallBuffer, Default: usualBuffer, Max: largeBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: smallBuffer, Default: usualBuffer, Max: largeBuffer}
	tries := tcpip.TCPSynRetriesOption(synRetries)
	for _, option := range []tcpip.SettableTransportProtocolOption{&sack, &grow, &receive, &send, &tries} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return err
		}
	}
	if err := s.CreateNIC(nic, link); err != nil {
		return err
	}
	var routes []tcpip.Route
	for _, p := range []netip.Prefix{o.V4, o.V6} {
		if !p.IsValid() {
			continue
		}
		own := tcpip.AddressWithPrefix{Address: address(p.Addr()), PrefixLen: p.Bits()}
		at := tcpip.ProtocolAddress{Protocol: protocol(p.Addr()), AddressWithPrefix: own}
		if err := s.AddProtocolAddress(nic, at, stack.AddressProperties{}); err != nil {
			return err
		}
		routes = append(routes, tcpip.Route{Destination: own.Subnet(), NIC: nic})
	}
	if o.V6.IsValid() {
		// Machines may ask for their neighbours from their link-local address.
		local := tcpip.AddressWithPrefix{Address: address(netip.MustParseAddr("fe80::")), PrefixLen: 64}
		routes = append(routes, tcpip.Route{Destination: local.Subnet(), NIC: nic})
	}
	s.SetRouteTable(routes)
	if err := s.SetPromiscuousMode(nic, true); err != nil { // take what is for others
		return err
	}
	return s.SetSpoofing(nic, true) // and answer in their name
}

func address(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

func protocol(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

// addrPort is an address of the stack's.
func addrPort(a tcpip.Address, port uint16) netip.AddrPort {
	ip, _ := netip.AddrFromSlice(a.AsSlice()) // it has 4 or 16 bytes, or none and is invalid then
	return netip.AddrPortFrom(ip, port)
}
