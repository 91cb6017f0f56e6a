package networktest

import (
	"encoding/binary"
	"net/netip"

	"github.com/vzcompose/vzcompose/internal/network/frame"
)

// Broadcast is everybody.
func Broadcast() frame.MAC { return frame.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff} }

// Ethernet puts a header before payload.
func Ethernet(dst, src frame.MAC, kind uint16, payload []byte) []byte {
	b := append(append([]byte{}, dst[:]...), src[:]...)
	return append(binary.BigEndian.AppendUint16(b, kind), payload...)
}

// ARP says that sender has the address from, and asks for to (op 1) or tells
// to's owner (op 2).
func ARP(dst, src frame.MAC, op uint16, sender frame.MAC, from, to netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, byte(op)}
	b = append(append(b, sender[:]...), from.AsSlice()...)
	b = append(append(b, make([]byte, 6)...), to.AsSlice()...)
	return Ethernet(dst, src, frame.ARP, b)
}

// IPv4 is a packet of size bytes of payload in protocol proto, without a
// checksum: nothing here reads one.
func IPv4(dst, src frame.MAC, from, to netip.Addr, proto uint8, size int) []byte {
	b := make([]byte, 20, 20+size)
	b[0], b[8], b[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(b[2:], uint16(20+size))
	copy(b[12:], from.AsSlice())
	copy(b[16:], to.AsSlice())
	return Ethernet(dst, src, frame.IPv4, append(b, make([]byte, size)...))
}

// IPv6 is a packet with payload in protocol next.
func IPv6(dst, src frame.MAC, from, to netip.Addr, next uint8, payload []byte) []byte {
	b := make([]byte, 40, 40+len(payload))
	b[0], b[6], b[7] = 0x60, next, 255
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	copy(b[8:], from.AsSlice())
	copy(b[24:], to.AsSlice())
	return Ethernet(dst, src, frame.IPv6, append(b, payload...))
}

// Neighbour is a message of neighbour discovery about target, with an option
// that tells link.
func Neighbour(kind uint8, target netip.Addr, option uint8, link frame.MAC) []byte {
	b := make([]byte, 8, 32)
	b[0] = kind
	b = append(b, target.AsSlice()...)
	return append(append(b, option, 1), link[:]...)
}
