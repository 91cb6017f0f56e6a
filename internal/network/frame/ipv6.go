package frame

import (
	"encoding/binary"
	"net/netip"
)

// Extension headers of IPv6 that may stand before what it carries.
const (
	hopByHop = 0
	routing  = 43
	fragment = 44
	options  = 60
)

// maxExtensions bounds their chain. Linux sends two at most.
const maxExtensions = 8

// Messages of ICMPv6 that matter here: RFC 4443, 2710, 4861, 3810.
const (
	listenerQuery   = 130
	listenerReport  = 131
	listenerDone    = 132
	routerSolicit   = 133
	routerAdvertise = 134
	Solicitation    = 135
	Advertisement   = 136
	redirect        = 137
	listenerReport2 = 143
)

// Echo requests, of ICMP and of ICMPv6.
const (
	Echo   = 8
	EchoV6 = 128
)

// ipv6 reads the header of RFC 8200 and the extensions behind it.
func (f *Frame) ipv6(b []byte) Fault {
	if len(b) < 40 {
		return Short
	}
	if b[0]>>4 != 6 {
		return Garbled
	}
	size := int(binary.BigEndian.Uint16(b[4:]))
	if 40+size > len(b) {
		return Short
	}
	f.From, f.To = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	if f.From.Is4In6() || f.To.Is4In6() {
		return Garbled // never on a link: RFC 4291, 2.5.5.2
	}
	rest, whole, fault := f.extensions(b[6], b[40:40+size])
	if fault != None || f.Later || f.Proto != ICMPv6 {
		return fault
	}
	return f.icmpv6(rest, whole)
}

// extensions walks the chain that begins with next, and answers what is behind
// it, and whether no fragment header stood in the chain.
func (f *Frame) extensions(next uint8, b []byte) (rest []byte, whole bool, fault Fault) {
	whole = true
	for range maxExtensions {
		size := 8
		switch next {
		case hopByHop, routing, options:
			if len(b) < 8 {
				return nil, false, Short
			}
			size += int(b[1]) * 8
		case fragment:
			if len(b) < 8 {
				return nil, false, Short
			}
			if binary.BigEndian.Uint16(b[2:])&^7 != 0 {
				f.Proto, f.Later = b[0], true
				return nil, false, None
			}
			whole = false
		default:
			f.Proto = next
			return b, whole, None
		}
		if len(b) < size {
			return nil, false, Short
		}
		next, b = b[0], b[size:]
	}
	return nil, false, Garbled
}

// icmpv6 reads the type, and of neighbour discovery what it claims. In
// fragments neighbour discovery is refused: RFC 6980.
func (f *Frame) icmpv6(b []byte, whole bool) Fault {
	if len(b) < 4 {
		return Short
	}
	f.ICMPType = b[0]
	head := 0
	switch f.ICMPType {
	case routerSolicit:
		head = 8
	case Solicitation, Advertisement:
		head = 24
	case listenerQuery, routerAdvertise, redirect:
		return Kind // only routers send them, and no machine is one
	default:
		return None
	}
	if !whole {
		return Kind
	}
	if len(b) < head {
		return Short
	}
	if head == 24 {
		f.Target = netip.AddrFrom16([16]byte(b[8:24]))
	}
	return f.links(b[head:])
}

// links reads the options of neighbour discovery: RFC 4861, 4.6.
func (f *Frame) links(b []byte) Fault {
	for len(b) > 0 {
		if len(b) < 8 || int(b[1])*8 > len(b) {
			return Short
		}
		if b[1] == 0 {
			return Garbled
		}
		if b[0] == 1 || b[0] == 2 {
			link := MAC(b[2:8])
			if b[1] != 1 || f.HasLink && f.Link != link {
				return Garbled
			}
			f.Link, f.HasLink = link, true
		}
		b = b[int(b[1])*8:]
	}
	return None
}
