//go:build linux

package guest

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
)

func eth(n int) agentproto.Interface {
	digit := string(rune('0' + n))
	return agentproto.Interface{Device: "02:56:ff:00:00:0" + digit, Name: "eth" + digit, MAC: "02:56:0a:28:00:0" + digit, MTU: 1280,
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.40.0.10/24")}, Gateways: []netip.Addr{netip.MustParseAddr("10.40.0.1")}}
}

func TestCheckInterfaces(t *testing.T) {
	if err := checkInterfaces([]agentproto.Interface{eth(0), eth(1)}); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*agentproto.Interface){
		"no name":        func(i *agentproto.Interface) { i.Name = "" },
		"path":           func(i *agentproto.Interface) { i.Name = "../lo" },
		"lo":             func(i *agentproto.Interface) { i.Name = "lo" },
		"long name":      func(i *agentproto.Interface) { i.Name = strings.Repeat("e", 16) },
		"other's name":   func(i *agentproto.Interface) { i.Name = "eth0" },
		"other's card":   func(i *agentproto.Interface) { i.Device = eth(0).Device },
		"no card":        func(i *agentproto.Interface) { i.Device = "" },
		"long MAC":       func(i *agentproto.Interface) { i.MAC = "02:00:5e:10:00:00:00:01" },
		"group MAC":      func(i *agentproto.Interface) { i.MAC = "03:00:00:00:00:01" },
		"small MTU":      func(i *agentproto.Interface) { i.MTU = 60 },
		"large MTU":      func(i *agentproto.Interface) { i.MTU = 1 << 20 },
		"no address":     func(i *agentproto.Interface) { i.Addresses = make([]netip.Prefix, 1) },
		"no gateway":     func(i *agentproto.Interface) { i.Gateways = make([]netip.Addr, 1) },
		"many addresses": func(i *agentproto.Interface) { i.Addresses = slices.Repeat(i.Addresses, 17) },
	} {
		i := eth(1)
		change(&i)
		if err := checkInterfaces([]agentproto.Interface{eth(0), i}); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := checkInterfaces(make([]agentproto.Interface, 17)); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("17 interfaces: %v", err)
	}
}

func TestMatch(t *testing.T) {
	link := func(mac string) netlink.Link {
		hw, err := net.ParseMAC(mac)
		if err != nil {
			t.Fatal(err)
		}
		return &netlink.Device{LinkAttrs: netlink.LinkAttrs{HardwareAddr: hw}}
	}
	one, other := link(eth(1).Device), link("02:00:00:00:00:99")
	got := match([]netlink.Link{other, one}, []agentproto.Interface{eth(0), eth(1)})
	if len(got) != 2 || got[0] != nil || got[1] != one {
		t.Errorf("found %v", got)
	}
}
