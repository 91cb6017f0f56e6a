//go:build linux

package guest

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/wire"
	"github.com/vzcompose/vzcompose/relay"
)

// Limits of connections to ports of the container.
const (
	portDialLimit = 10 * time.Second
	portIdle      = 2 * time.Minute // of datagrams between two addresses
	maxPorts      = 512             // connections at a time
)

// openPort connects a stream of the host with a port of the container. It
// answers at once; whether somebody is there the stream tells.
func (a *agent) openPort(protocol string, port int, s *wire.Stream) error {
	c, err := a.running()
	if err != nil {
		return err
	}
	select {
	case a.ports <- struct{}{}:
	default:
		return errs.New(errs.ResourceExhausted, "more than %d connections to ports", maxPorts)
	}
	go func() {
		defer func() { <-a.ports }()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() { // what leads to a container that has ended is of no use
			select {
			case <-c.process.done:
				cancel()
			case <-ctx.Done():
			}
		}()
		to, err := dialPort(ctx, protocol, port, reachable)
		if err != nil {
			_ = s.Conn().SetWriteDeadline(time.Now().Add(time.Second))
			_ = s.Abort(err)
			_ = s.Close()
			return
		}
		if protocol == "udp" {
			relay.Datagrams(ctx, wire.AsConn(s), to, portIdle)
			return
		}
		_, _ = relay.Pair(ctx, wire.AsConn(s), to) // its ends see how it ended
	}()
	return nil
}

// dialPort connects to a port at the first address that does not refuse it. A
// server may listen at one of them only.
func dialPort(ctx context.Context, protocol string, port int, addresses func() []netip.Addr) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, portDialLimit)
	defer cancel()
	var d net.Dialer
	var first error
	for _, at := range addresses() {
		if protocol == "udp" && !bound(at, port) {
			continue
		}
		c, err := d.DialContext(ctx, protocol, net.JoinHostPort(at.String(), strconv.Itoa(port)))
		if err == nil {
			return c, nil
		}
		if first == nil {
			first = err
		}
		if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENETUNREACH) {
			break
		}
	}
	if first == nil {
		return nil, errs.New(errs.Unavailable, "nobody listens at port %d/%s", port, protocol)
	}
	return nil, errs.New(errs.Unavailable, "connect to port %d: %w", port, first)
}

// bound reports whether somebody receives datagrams at an address: otherwise it
// could be had.
func bound(at netip.Addr, port int) bool {
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, uint16(port))))
	if err != nil {
		return true
	}
	_ = c.Close() // it was only tried
	return false
}

// reachable are the machine's own addresses: those of its interfaces first, as
// others reach the container, then lo's.
func reachable() []netip.Addr {
	var outer, inner []netip.Addr
	all, _ := net.InterfaceAddrs() // none: lo is left
	for _, a := range all {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		if ip = ip.Unmap(); !ok || ip.IsLinkLocalUnicast() {
			continue
		}
		if ip.IsLoopback() {
			inner = append(inner, ip)
		} else {
			outer = append(outer, ip)
		}
	}
	return append(outer, inner...)
}
