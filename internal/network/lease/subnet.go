package lease

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// pool is where networks get a subnet from that name none: 4096 of them, in a
// part of 10.0.0.0/8 that few use.
const (
	poolFirst  = 10<<24 | 208<<16 // 10.208.0.0/12
	poolCount  = 1 << 12
	subnetBits = 24
)

// pick answers a subnet for a network that names none. It is the same for the
// same name, unless something else has it: taken are the subnets of the stack
// and those of the host's own interfaces, which machines could not reach.
func pick(name string, taken []netip.Prefix) (netip.Prefix, error) {
	start := binary.BigEndian.Uint32(digest("subnet", name))
	for i := range uint32(poolCount) {
		p := netip.PrefixFrom(from4(poolFirst|(start+i)%poolCount<<(32-subnetBits)), subnetBits)
		if !overlaps(p, taken) {
			return p, nil
		}
	}
	return netip.Prefix{}, errs.WithHint(errs.New(errs.ResourceExhausted, "no subnet is left for network %q", name),
		"give it one with subnet")
}

// local answers the IPv6 subnet of a network: a unique local one (RFC 4193)
// whose number comes from its name.
func local(name string) netip.Prefix {
	b := [16]byte{0xfd}
	copy(b[1:8], digest("subnet6", name))
	return netip.PrefixFrom(netip.AddrFrom16(b), 64)
}

// pair answers the IPv6 address in subnet that belongs to a: its last four bytes
// are a's.
func pair(subnet netip.Prefix, a netip.Addr) netip.Addr {
	if !subnet.IsValid() {
		return netip.Addr{}
	}
	b, v4 := subnet.Masked().Addr().As16(), a.As4()
	copy(b[12:], v4[:])
	return netip.AddrFrom16(b)
}

// usable answers the first and the last address of p that a machine can have:
// neither the network's own nor broadcast.
func usable(p netip.Prefix) (first, last netip.Addr) {
	size := uint32(1) << (32 - p.Bits())
	base := to4(p.Masked().Addr())
	return from4(base + 1), from4(base + size - 2)
}

func overlaps(p netip.Prefix, with []netip.Prefix) bool {
	for _, o := range with {
		if p.Overlaps(o) {
			return true
		}
	}
	return false
}

func to4(a netip.Addr) uint32 { b := a.As4(); return binary.BigEndian.Uint32(b[:]) }

func from4(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
}

func digest(what, name string) []byte {
	h := sha256.Sum256([]byte(what + "\x00" + name))
	return h[:]
}
