package spec

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vzcompose/vzcompose/internal/diag"
)

// interfaces answers what a container's places on networks are, written out.
func (c *checker) interfaces(name string, d declared) []Interface {
	n := c.node(name)
	all := d.Interfaces
	switch {
	case n.said("interfaces") && n.said("networks"):
		c.w.error(n.entry("networks").key, c.at(name), "networks is short for interfaces: say all in one of them", "a container has interfaces or networks, not both")
	case n.said("networks"):
		all = d.networks
	case !n.said("interfaces"):
		return []Interface{{Network: DefaultNetwork}}
	}
	all = slices.Clone(all)
	for i := range all {
		all[i].Address = c.lengthened(all[i])
	}
	return append([]Interface{}, all...)
}

// lengthened answers the addresses of an interface, each with the length of its
// network's prefix where it has none.
func (c *checker) lengthened(i Interface) []string {
	subnets := c.file.networks[i.Network].Subnet
	var out []string
	for _, text := range i.Address {
		if a, err := netip.ParseAddr(text); err == nil {
			if p, found := prefixFor(subnets, a); found {
				text = netip.PrefixFrom(a, p.Bits()).String()
			}
		}
		out = append(out, text)
	}
	return out
}

// usedNetworks are the networks that containers are on, as they are declared.
func usedNetworks(containers map[string]Container, declared map[string]Network) map[string]Network {
	var all map[string]Network
	for _, ct := range containers {
		for _, i := range ct.Interfaces {
			if all == nil {
				all = map[string]Network{}
			}
			all[i.Network] = declared[i.Network]
		}
	}
	return all
}

// networks checks the networks, and every place on them.
func (c *checker) networks(containers *node) {
	c.overlaps()
	taken := map[string]map[netip.Addr]string{} // network → address → by whom
	macs := map[string]map[string]string{}
	for _, e := range containers.entries {
		d, ok := c.file.containers[e.key.text]
		if !ok {
			continue
		}
		for i, f := range d.Interfaces {
			if f.Network == "" {
				continue // it cannot be read, and that was said
			}
			n, at := c.place(e, i, f.Network)
			if _, declared := c.file.networks[f.Network]; !declared && f.Network != DefaultNetwork {
				if c.root.child("networks").entry(f.Network) == nil { // otherwise what is wrong with it was said
					c.unknownNetwork(n, at, f.Network)
				}
				continue
			}
			if (len(f.Address) > 0 || f.MAC != "") && d.Replicas > 1 {
				c.w.error(n, at, "leave it out, or make replicas 1", "%d instances of %q would have the same address", d.Replicas, e.key.text)
				continue
			}
			if !c.active[e.key.text] {
				continue // one that takes its place may have its address
			}
			c.addresses(n, at, e.key.text, f, taken)
			c.once(n, at, f.Network, f.MAC, e.key.text, macs)
		}
	}
}

// place answers where the i'th interface of a container stands.
func (c *checker) place(e entry, i int, network string) (*node, *trail) {
	at := c.at(e.key.text)
	if n := e.value.child("interfaces"); e.value.said("interfaces") && n.kind == listNode && i < len(n.items) {
		return n.items[i], at.key("interfaces").item(i)
	}
	if n := e.value.child("networks"); n != nil && n.kind == mappingNode && n.entry(network) != nil {
		return n.entry(network).key, at.key("networks").key(network)
	} else if n != nil && n.kind == listNode && i < len(n.items) {
		return n.items[i], at.key("networks").item(i)
	}
	return e.key, at
}

func (c *checker) unknownNetwork(n *node, at *trail, network string) {
	if child := n.child("network"); child != nil {
		n, at = child, at.key("network")
	}
	hint := ""
	if !c.w.report.full(diag.Error) {
		hint = suggest(network, sortedKeys(c.file.networks))
	}
	if hint == "" {
		hint = "declare it under networks"
	}
	c.w.error(n, at, hint, "no network %s", quote(network))
}

// addresses: each is one of a machine in the network's subnet, and used once.
func (c *checker) addresses(n *node, at *trail, container string, f Interface, taken map[string]map[netip.Addr]string) {
	network := c.file.networks[f.Network]
	gateways := Gateways(network)
	for i, text := range f.Address {
		where, path := n, at
		if child := n.child("address"); child != nil {
			where, path = itemNode(child, i), at.key("address")
		}
		given, bits, ok := parseAddress(text)
		if !ok {
			continue
		}
		p, found := prefixFor(network.Subnet, given)
		switch {
		case len(network.Subnet) == 0:
			c.w.error(where, path, "give the network a subnet", "network %s has no subnet of its own to have the address in", quote(f.Network))
		case !found && !p.IsValid():
			c.w.error(where, path, "", "network %s has no subnet of the kind of %s", quote(f.Network), given)
		case !found || !usable(p, given):
			c.w.error(where, path, "", "%s is no address of a machine in the subnet %s of network %s", given, p, quote(f.Network))
		case bits >= 0 && bits != p.Bits():
			c.w.error(where, path, "", "the subnet %s of network %s has a prefix of %d bits", p, quote(f.Network), p.Bits())
		case slices.Contains(gateways, given):
			c.w.error(where, path, "", "%s is the gateway of network %s", given, quote(f.Network))
		default:
			if taken[f.Network] == nil {
				taken[f.Network] = map[netip.Addr]string{}
			}
			if by := taken[f.Network][given]; by != "" {
				c.w.error(where, path, "", "%s is already the address of container %q", given, by)
			}
			taken[f.Network][given] = container
		}
	}
	c.gateway(n, at, network, f)
}

func (c *checker) gateway(n *node, at *trail, network Network, f Interface) {
	a, err := netip.ParseAddr(f.Gateway)
	if err != nil {
		return // none is said
	}
	if _, found := prefixFor(network.Subnet, a); !found {
		c.w.error(n.child("gateway"), at.key("gateway"), "", "%s is not in the subnet of network %s", a, quote(f.Network))
	}
}

func (c *checker) once(n *node, at *trail, network, mac, container string, macs map[string]map[string]string) {
	if mac == "" {
		return
	}
	if macs[network] == nil {
		macs[network] = map[string]string{}
	}
	if by := macs[network][mac]; by != "" {
		c.w.error(n, at, "", "%s is already the hardware address of container %q", mac, by)
	}
	macs[network][mac] = container
}

// parseAddress reads an address; bits is -1 where it has no prefix.
func parseAddress(text string) (a netip.Addr, bits int, ok bool) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Addr(), p.Bits(), true
	}
	a, err := netip.ParseAddr(text)
	return a, -1, err == nil
}

// Gateways answers the gateway of each subnet that is declared: the declared one
// or the first address.
func Gateways(n Network) []netip.Addr {
	var all []netip.Addr
	for _, text := range n.Subnet {
		p := netip.MustParsePrefix(text)
		g := p.Addr().Next()
		for _, said := range n.Gateway {
			if a := netip.MustParseAddr(said); p.Contains(a) {
				g = a
			}
		}
		all = append(all, g)
	}
	return all
}

// overlaps: no two networks have addresses in common.
func (c *checker) overlaps() {
	names := sortedKeys(c.file.networks)
	for i, name := range names {
		for _, text := range c.file.networks[name].Subnet {
			p := netip.MustParsePrefix(text)
			for _, other := range names[:i] {
				for _, o := range c.file.networks[other].Subnet {
					if p.Overlaps(netip.MustParsePrefix(o)) {
						n := c.root.child("networks").child(name)
						c.w.error(n.child("subnet"), (*trail)(nil).key("networks").key(name).key("subnet"), "",
							"%s has addresses of network %s, %s", text, quote(other), o)
					}
				}
			}
		}
	}
}

// published: no two ports of the host are the same.
func (c *checker) published(containers *node) {
	open := doors{}
	for _, e := range containers.entries {
		d, ok := c.file.containers[e.key.text]
		n := e.value.child("ports")
		if !ok || !c.active[e.key.text] || n == nil || len(d.Ports) == 0 || !c.w.spend(n, n) {
			continue
		}
		for i, p := range d.Ports {
			if p.Published[0] == 0 {
				continue
			}
			from := c.w.itemOf(n, i)
			where, at := portNode(from.node), c.at(e.key.text).key("ports").item(from.index)
			if room := p.Published[1] - p.Published[0] + 1; d.Replicas > room {
				c.w.error(where, at, "leave the port of the host out, or give a range", "%d instances of %q would open the same port of the host", d.Replicas, e.key.text)
				continue
			}
			if by, taken := open.take(p, doorway{e.key.text, where.line}); taken {
				c.w.error(where, at, "", "port %d of the host is already that of container %q (line %d)", p.Published[0], by.container, by.line)
			}
		}
	}
}

// movePorts adds offset to the ports of the host that the file fixes.
func (c *checker) movePorts(offset int) {
	if offset == 0 {
		return
	}
	for _, name := range sortedKeys(c.file.containers) {
		n := c.node(name).child("ports")
		for i, p := range c.file.containers[name].Ports {
			if p.Published[0] == 0 {
				continue
			}
			from := c.w.itemOf(n, i)
			moved := [2]int{p.Published[0] + offset, p.Published[1] + offset}
			if moved[0] < 1 || moved[1] > 65535 {
				c.w.error(portNode(from.node), c.at(name).key("ports").item(from.index), "",
					"port %d moved by %d is not between 1 and 65535", p.Published[1], offset)
				continue
			}
			c.file.containers[name].Ports[i].Published = moved
		}
	}
}

// portPlaces are where the ports of containers are declared, in the order of
// Container.Ports.
func (c *checker) portPlaces() map[string][]Place {
	all := map[string][]Place{}
	for name, d := range c.file.containers {
		n := c.node(name).child("ports")
		for i := range d.Ports {
			from := c.w.itemOf(n, i)
			all[name] = append(all[name], placeOf(portNode(from.node), c.at(name).key("ports").item(from.index)))
		}
	}
	return all
}

// resolverPort is the port of a gateway at which the stack's resolver answers.
const resolverPort = 53

// hostPorts: there is a way to the ports of the host that a container asks for, and
// to the host that it has a name for.
func (c *checker) hostPorts(containers *node) {
	for _, e := range containers.entries {
		d, ok := c.file.containers[e.key.text]
		reaches := slices.ContainsFunc(d.Interfaces, func(f Interface) bool { return !c.file.networks[f.Network].Internal })
		unreached := func(n *node, at *trail) {
			c.w.error(n, at, "put it on a network that is not internal", "%q is on no network with a way to the host", e.key.text)
		}
		if h := e.value.child("hosts").entry(HostGateway); h != nil && ok && !reaches {
			unreached(h.key, c.at(e.key.text).key("hosts"))
		}
		n := e.value.child("host_ports")
		if !ok || n == nil || len(d.HostPorts) == 0 || !c.w.spend(n, n) {
			continue
		}
		at := c.at(e.key.text).key("host_ports")
		if !reaches {
			unreached(n, at)
			continue
		}
		for i, text := range d.HostPorts {
			if p, err := ParseHostPort(text); err == nil && p.Low <= resolverPort && resolverPort <= p.High {
				c.w.error(itemNode(n, i), at, "have the server of the host listen on another port", "port %d is that of the stack's resolver", resolverPort)
			}
		}
	}
}

// portNode returns where a port says which of the host's it is.
func portNode(port *node) *node {
	if t := port.child("published"); t != nil {
		return t
	}
	return port
}

// doors has who opens which port of the host first, at each address, and at any
// (anyAddress) or all (allAddresses) of one family.
type doors map[door]doorway

type door struct {
	port              int
	protocol, address string
}

const anyAddress, allAddresses = "any", "all"

// addressesOf are the addresses that a port is opened at, one a family.
func addressesOf(p Port) []netip.Addr {
	if p.HostIP == AllAddresses {
		return []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	return []netip.Addr{netip.MustParseAddr(p.HostIP)}
}

type doorway struct {
	container string
	line      int
}

// take notes who opens p, unless it cannot be opened beside what another opens.
// Of ranges it is not known before.
func (all doors) take(p Port, who doorway) (by doorway, taken bool) {
	if p.Published[0] != p.Published[1] {
		return doorway{}, false
	}
	at := func(address string) door { return door{p.Published[0], p.Protocol, address} }
	var own, others []string
	for _, a := range addressesOf(p) {
		one, anyOf, allOf := a.String(), fmt.Sprint(anyAddress, a.BitLen()), fmt.Sprint(allAddresses, a.BitLen())
		own, others = append(own, one, anyOf), append(others, one, allOf)
		if a.IsUnspecified() {
			own, others = append(own, allOf), append(others, anyOf)
		}
	}
	for _, address := range others {
		if by, taken = all[at(address)]; taken {
			return by, true
		}
	}
	for _, address := range own {
		if _, ok := all[at(address)]; !ok {
			all[at(address)] = who
		}
	}
	return doorway{}, false
}
