// Package frame reads Ethernet frames that a machine sent, and says whether the
// machine may send them: only ARP, IPv4 and IPv6, only in its own name. It is
// what stands between machines that do not trust each other, so every length is
// checked, and it is fuzzed.
//
// It does no I/O, keeps nothing and allocates nothing.
package frame

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
)

// MAC is a link-layer address.
type MAC [6]byte

func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// MarshalText writes m as String does.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText is ParseMAC.
func (m *MAC) UnmarshalText(b []byte) (err error) {
	*m, err = ParseMAC(string(b))
	return err
}

// ParseMAC reads what String writes.
func ParseMAC(s string) (m MAC, err error) {
	if _, err := fmt.Sscanf(s, "%02x:%02x:%02x:%02x:%02x:%02x", &m[0], &m[1], &m[2], &m[3], &m[4], &m[5]); err != nil || m.String() != strings.ToLower(s) {
		return MAC{}, fmt.Errorf("%q is not a MAC such as 02:00:00:00:00:10", s)
	}
	return m, nil
}

// Group reports whether m names several stations: broadcast or multicast.
func (m MAC) Group() bool { return m[0]&1 != 0 }

// HeaderSize of a frame without a VLAN tag, in bytes. Tagged frames are refused.
const HeaderSize = 14

// Types of what a frame carries: IEEE 802 numbers.
const (
	IPv4 uint16 = 0x0800
	ARP  uint16 = 0x0806
	IPv6 uint16 = 0x86dd
)

// Protocols above IP: IANA numbers.
const (
	ICMP   uint8 = 1
	TCP    uint8 = 6
	UDP    uint8 = 17
	ICMPv6 uint8 = 58
)

// Fault is why a frame does not pass.
type Fault uint8

// The faults.
const (
	None    Fault = iota
	Short         // fewer bytes than its headers say
	Kind          // neither ARP, IPv4 nor IPv6, or a message that only routers send
	Garbled       // headers that contradict each other
	Spoofed       // in the name of another
)

func (f Fault) String() string {
	return [...]string{"none", "short", "kind", "garbled", "spoofed"}[f]
}

// Frame is what the headers of a frame say.
type Frame struct {
	Dst, Src MAC
	Type     uint16
	// From and To are the addresses of IP, or the sender and the target of ARP.
	From, To netip.Addr
	Proto    uint8 // what IP carries
	Later    bool  // a fragment of IP other than the first: what it carries has no header

	Op     uint16 // of ARP: 1 request, 2 reply
	Sender MAC    // of ARP

	ICMPType uint8      // of ICMP or ICMPv6
	Target   netip.Addr // of neighbour solicitations and advertisements
	Link     MAC        // the link-layer address that neighbour discovery tells
	HasLink  bool
}

// Parse reads the headers of b.
func Parse(b []byte) (f Frame, fault Fault) {
	if len(b) < HeaderSize {
		return f, Short
	}
	f.Dst, f.Src = MAC(b[:6]), MAC(b[6:12])
	f.Type = binary.BigEndian.Uint16(b[12:])
	switch b = b[HeaderSize:]; f.Type {
	case ARP:
		return f, f.arp(b)
	case IPv4:
		return f, f.ipv4(b)
	case IPv6:
		return f, f.ipv6(b)
	}
	return f, Kind
}

// arp reads ARP for IPv4 on Ethernet: RFC 826.
func (f *Frame) arp(b []byte) Fault {
	if len(b) < 28 {
		return Short
	}
	if binary.BigEndian.Uint16(b) != 1 || binary.BigEndian.Uint16(b[2:]) != IPv4 || b[4] != 6 || b[5] != 4 {
		return Garbled
	}
	f.Op = binary.BigEndian.Uint16(b[6:])
	if f.Op != 1 && f.Op != 2 {
		return Kind
	}
	f.Sender = MAC(b[8:14])
	f.From = netip.AddrFrom4([4]byte(b[14:18]))
	f.To = netip.AddrFrom4([4]byte(b[24:28]))
	return None
}

// ipv4 reads the header of RFC 791. What follows the packet is padding.
func (f *Frame) ipv4(b []byte) Fault {
	if len(b) < 20 {
		return Short
	}
	size, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if b[0]>>4 != 4 || size < 20 || total < size {
		return Garbled
	}
	if total > len(b) {
		return Short
	}
	f.From, f.To = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	f.Proto = b[9]
	f.Later = binary.BigEndian.Uint16(b[6:])&0x1fff != 0
	if f.Proto == ICMP && !f.Later {
		if total < size+4 {
			return Short
		}
		f.ICMPType = b[size]
	}
	return None
}
