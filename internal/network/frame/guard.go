package frame

import "net/netip"

// Identity is the names in which a machine may speak on one network. V6 is
// invalid where the network has no IPv6, which then does not pass at all.
type Identity struct {
	MAC MAC
	V4  netip.Addr
	V6  netip.Addr
}

// Check answers whether the machine id may send f.
func (id Identity) Check(f *Frame) Fault {
	if f.Src != id.MAC {
		return Spoofed
	}
	switch f.Type {
	case ARP:
		return id.arp(f)
	case IPv4:
		if f.From != id.V4 {
			return Spoofed
		}
		return None
	case IPv6:
		if !id.V6.IsValid() {
			return Kind
		}
		return id.ipv6(f)
	}
	return Kind
}

// arp lets pass what is told of the machine itself. A probe (RFC 5227) has no
// sender's address.
func (id Identity) arp(f *Frame) Fault {
	probe := f.Op == 1 && f.From.IsUnspecified()
	if f.Sender != id.MAC || f.From != id.V4 && !probe {
		return Spoofed
	}
	return None
}

func (id Identity) ipv6(f *Frame) Fault {
	icmp := f.Proto == ICMPv6 && !f.Later
	switch {
	case id.owns(f.From):
	case f.From.IsUnspecified() && icmp && id.early(f):
	default:
		return Spoofed
	}
	if !icmp {
		return None
	}
	if f.HasLink && f.Link != id.MAC {
		return Spoofed
	}
	if f.ICMPType == Advertisement && !id.owns(f.Target) {
		return Spoofed
	}
	return None
}

// early reports whether f is what a machine sends before it has an address:
// "is this one taken?", and what it listens to.
func (id Identity) early(f *Frame) bool {
	switch f.ICMPType {
	case Solicitation:
		return id.owns(f.Target)
	case routerSolicit, listenerReport, listenerDone, listenerReport2:
		return true
	}
	return false
}

func (id Identity) owns(a netip.Addr) bool { return a == id.V6 || a == LinkLocal(id.MAC) }

// LinkLocal is the address that a kernel gives itself from m: RFC 4291,
// appendix A.
func LinkLocal(m MAC) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
}
