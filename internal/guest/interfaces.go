//go:build linux

package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
)

// Bounds of what a set-up may ask of interfaces.
const (
	maxInterfaces = 16
	maxAddresses  = 16      // of one
	maxName       = 15      // bytes; IFNAMSIZ with its end
	minMTU        = 68      // RFC 791
	maxMTU        = 1 << 16 // bytes
	cardLimit     = 20 * time.Second
	cardPoll      = 5 * time.Millisecond
)

func checkInterfaces(all []agentproto.Interface) error {
	if len(all) > maxInterfaces {
		return errs.New(errs.InvalidArgument, "%d interfaces", len(all))
	}
	seen := map[string]bool{"lo": true}
	for _, i := range all {
		device, derr := net.ParseMAC(i.Device)
		mac, merr := net.ParseMAC(i.MAC)
		switch {
		case !soundName(i.Name) || len(i.Name) > maxName || seen[i.Name]:
			return errs.New(errs.InvalidArgument, "interface %q has no name or another's", cutName(i.Name))
		case derr != nil || merr != nil || len(device) != 6 || len(mac) != 6 || mac[0]&1 != 0 || seen[device.String()]:
			return errs.New(errs.InvalidArgument, "interface %s on the card %q with the MAC %q", i.Name, cutName(i.Device), cutName(i.MAC))
		case i.MTU < minMTU || i.MTU > maxMTU:
			return errs.New(errs.InvalidArgument, "interface %s with an MTU of %d bytes", i.Name, i.MTU)
		case len(i.Addresses) > maxAddresses || len(i.Gateways) > maxAddresses:
			return errs.New(errs.InvalidArgument, "interface %s with %d addresses and %d gateways", i.Name, len(i.Addresses), len(i.Gateways))
		}
		for _, a := range i.Addresses {
			if !a.IsValid() {
				return errs.New(errs.InvalidArgument, "interface %s with an address that is none", i.Name)
			}
		}
		for _, g := range i.Gateways {
			if !g.IsValid() {
				return errs.New(errs.InvalidArgument, "interface %s with a gateway that is none", i.Name)
			}
		}
		seen[i.Name], seen[device.String()] = true, true
	}
	return nil
}

// cardModule drives the cards. In templates it is loaded already, since loading
// it is most of the work; elsewhere it is where there are to be interfaces.
const cardModule = "virtio_net"

// bringUp makes the interfaces. A machine without any has none but lo: its card
// is put away.
func (m *setup) bringUp(ctx context.Context) error {
	if len(m.want.Interfaces) == 0 {
		return putAway()
	}
	if err := m.agent.modules.need(cardModule); err != nil {
		return err
	}
	links, err := m.findCards(ctx)
	if err != nil {
		return err
	}
	// Names that are wanted may be those of other cards as they are now.
	for n, l := range links {
		if was := l.Attrs().Name; was != m.want.Interfaces[n].Name {
			if err := netlink.LinkSetName(l, fmt.Sprintf("card%d", n)); err != nil {
				return fmt.Errorf("rename %s: %w", was, err)
			}
		}
	}
	for n, l := range links {
		if err := configure(l, m.want.Interfaces[n]); err != nil {
			return fmt.Errorf("interface %s: %w", m.want.Interfaces[n].Name, err)
		}
	}
	return nil
}

// Where the kernel shows cards, and gives them drivers or takes them away.
const (
	sysNet    = "/sys/class/net"
	sysVirtio = "/sys/bus/virtio/devices"
	sysDriver = "/sys/bus/virtio/drivers/virtio_net"
	cardID    = "0x0001" // of virtio devices: virtio 1.2, 5
)

// putAway takes the driver from every card, so that there is no interface.
func putAway() error {
	entries, err := os.ReadDir(sysNet)
	if err != nil {
		return nil // no network at all
	}
	for _, e := range entries {
		device, err := os.Readlink(sysNet + "/" + e.Name() + "/device")
		if err != nil {
			continue // lo is no card
		}
		if err := os.WriteFile(sysDriver+"/unbind", []byte(filepath.Base(device)), 0o200); err != nil {
			return fmt.Errorf("put network card %s away: %w", e.Name(), err)
		}
	}
	return nil
}

// takeOut gives the cards their driver back.
func takeOut() error {
	entries, err := os.ReadDir(sysVirtio)
	if err != nil {
		return nil // no devices
	}
	for _, e := range entries {
		id, err := os.ReadFile(sysVirtio + "/" + e.Name() + "/device")
		if err != nil || strings.TrimSpace(string(id)) != cardID {
			continue
		}
		if _, err := os.Lstat(sysVirtio + "/" + e.Name() + "/driver"); err == nil {
			continue // it has it
		}
		err = os.WriteFile(sysDriver+"/bind", []byte(e.Name()), 0o200)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // not loaded: so it was not in the template
			return fmt.Errorf("take network card %s out: %w", e.Name(), err)
		}
	}
	return nil
}

// findCards answers the card of each interface, once all are there.
func (m *setup) findCards(ctx context.Context) ([]netlink.Link, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, cardLimit, errs.New(errs.NotFound, "not all network cards are there"))
	defer cancel()
	tick := time.NewTicker(cardPoll)
	defer tick.Stop()
	for tries := 0; ; tries++ {
		links, err := netlink.LinkList()
		if err != nil {
			return nil, fmt.Errorf("list network cards: %w", err)
		}
		if found := match(links, m.want.Interfaces); !slices.Contains(found, nil) {
			return found, nil
		}
		if tries == 0 && m.agent.restored {
			if err := rescan(); err != nil { // one may have been plugged in
				return nil, err
			}
			continue
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// match answers the link on which each interface is to be, nil where there is
// none.
func match(links []netlink.Link, want []agentproto.Interface) []netlink.Link {
	found := make([]netlink.Link, len(want))
	for n, i := range want {
		mac, err := net.ParseMAC(i.Device)
		if err != nil {
			continue // it was checked
		}
		for _, l := range links {
			if bytes.Equal(l.Attrs().HardwareAddr, mac) {
				found[n] = l
			}
		}
	}
	return found
}

// configure makes l the interface i.
func configure(l netlink.Link, i agentproto.Interface) error {
	mac, err := net.ParseMAC(i.MAC)
	if err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"set its name", func() error { return netlink.LinkSetName(l, i.Name) }},
		{"set its MAC", func() error { return netlink.LinkSetHardwareAddr(l, mac) }},
		{"set its MTU", func() error { return netlink.LinkSetMTU(l, i.MTU) }},
		{"turn IPv6 off or its routers", func() error { return restrictIPv6(i) }},
		{"bring it up", func() error { return netlink.LinkSetUp(l) }},
		{"give it addresses", func() error { return addAddresses(l, i.Addresses) }},
		{"add its routes", func() error { return addRoutes(l, i.Gateways) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

// restrictIPv6 turns IPv6 off where the interface has no address of it, and
// lets no router configure it (Documentation/networking/ip-sysctl.rst).
func restrictIPv6(i agentproto.Interface) error {
	set := map[string]string{"accept_ra": "0"}
	has := false
	for _, a := range i.Addresses {
		has = has || a.Addr().Is6()
	}
	if !has {
		set = map[string]string{"disable_ipv6": "1"}
	}
	for key, value := range set {
		err := os.WriteFile("/proc/sys/net/ipv6/conf/"+i.Name+"/"+key, []byte(value), 0o200)
		if err != nil && (has || !errors.Is(err, fs.ErrNotExist)) { // a kernel without IPv6
			return err
		}
	}
	return nil
}

func addAddresses(l netlink.Link, all []netip.Prefix) error {
	for _, a := range all {
		address := &netlink.Addr{IPNet: &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}}
		if a.Addr().Is6() {
			address.Flags = unix.IFA_F_NODAD // the host has seen to it that it is nobody else's
		}
		if err := netlink.AddrAdd(l, address); err != nil {
			return fmt.Errorf("%v: %w", a, err)
		}
	}
	return nil
}

func addRoutes(l netlink.Link, gateways []netip.Addr) error {
	for _, g := range gateways {
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: g.AsSlice()}); err != nil {
			return fmt.Errorf("by %v: %w", g, err)
		}
	}
	return nil
}

// takeDown makes the cards what they were before the interfaces.
func takeDown(all []agentproto.Interface) error {
	if len(all) == 0 {
		return takeOut()
	}
	for _, i := range all {
		l, err := netlink.LinkByName(i.Name)
		if err != nil {
			return fmt.Errorf("interface %s: %w", i.Name, err)
		}
		device, err := net.ParseMAC(i.Device)
		if err != nil {
			return err
		}
		addresses, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return fmt.Errorf("interface %s: %w", i.Name, err)
		}
		for _, a := range addresses {
			if err := netlink.AddrDel(l, &a); err != nil {
				return fmt.Errorf("interface %s: %w", i.Name, err)
			}
		}
		if err := errors.Join(netlink.LinkSetDown(l), netlink.LinkSetHardwareAddr(l, device)); err != nil {
			return fmt.Errorf("interface %s: %w", i.Name, err)
		}
	}
	return nil
}
