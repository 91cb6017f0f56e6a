package lease

import (
	"net/netip"

	"github.com/vzcompose/vzcompose/internal/network/frame"
)

// MAC derives the link-layer address of who has the IPv4 address a. A machine
// that comes back has the same one, so that nobody's neighbour table is wrong.
// It is local (RFC 7042, 2.1), and within a network as unique as a is.
func MAC(a netip.Addr) frame.MAC {
	b := a.As4()
	return frame.MAC{0x02, 0x56, b[0], b[1], b[2], b[3]}
}
