package gateway

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// hostAddrsAge is for how long a list of the host's addresses is used. Listing
// them takes longer the more interfaces the host has, and a machine may ask
// thousands of times a second.
const hostAddrsAge = time.Second

// hostAddrs is the addresses that mean the host: those of its interfaces, and the
// broadcasts of their subnets, which the host receives too.
type hostAddrs struct {
	list func() ([]net.Addr, error)

	mu   sync.Mutex // guards the following
	read time.Time
	all  map[netip.Addr]bool // nil: they could not be listed
}

// has reports whether a means the host. While the addresses cannot be listed every
// address might, and does.
func (h *hostAddrs) has(a netip.Addr) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now := time.Now(); h.read.IsZero() || now.Sub(h.read) > hostAddrsAge {
		h.read, h.all = now, addrsOf(h.list)
	}
	return h.all == nil || h.all[a.WithZone("")]
}

func addrsOf(list func() ([]net.Addr, error)) map[netip.Addr]bool {
	addrs, err := list()
	if err != nil {
		return nil
	}
	all := map[netip.Addr]bool{}
	for _, addr := range addrs {
		n, ok := addr.(*net.IPNet)
		if !ok {
			continue
		}
		own, _ := netip.AddrFromSlice(n.IP)
		bits, _ := n.Mask.Size()
		own = own.Unmap()
		all[own] = true
		if p := netip.PrefixFrom(own, bits); own.Is4() && bits < 31 {
			all[p.Masked().Addr()] = true
			all[lastOf(p)] = true
		}
	}
	return all
}

// lastOf returns the last address of an IPv4 subnet.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}

// dialOut is net.Dialer's, for all but what is routed to the host itself: an
// address of the host need not be on an interface (ip route add local), and a
// connection to one begins at that address. Connecting a datagram socket sends
// nothing.
func dialOut(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	probe, err := d.DialContext(ctx, "udp", address)
	if err != nil {
		return nil, err
	}
	from, to := probe.LocalAddr().(*net.UDPAddr).IP, probe.RemoteAddr().(*net.UDPAddr).IP
	if from.Equal(to) && !to.IsLoopback() {
		_ = probe.Close() // nothing was sent
		return nil, errs.New(errs.PermissionDenied, "%s is an address of this host", address)
	}
	if network == "udp" {
		return probe, nil
	}
	_ = probe.Close() // nothing was sent
	return d.DialContext(ctx, network, address)
}
