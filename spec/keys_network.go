package spec

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// This file has the keys of networks: those of the stack, a container's
// interfaces on them, and the ports of the host that lead to it.

// DefaultNetwork is the network of a container that names none.
const DefaultNetwork = "default"

// Limits of what is asked of a network.
const (
	minMTU       = 576  // what IPv4 has to carry (RFC 791)
	minMTU6      = 1280 // IPv6 (RFC 8200, 5)
	maxMTU       = 65535
	maxAliases   = 64
	maxPortRange = 1000
)

func reachKeys() []field[declared] {
	return []field[declared]{
		key("interfaces", "Places on networks: eth0 is the first. Default: one on the network default; []: none.", interfaces(),
			func(c *declared) *[]Interface { return &c.Interfaces }),
		key("networks", "Names of networks, or what to be on them: short for interfaces.", attachments(),
			func(c *declared) *[]Interface { return &c.networks }),
		key("links", "Containers that it depends on, each with a further name on the networks that they share: NAME, or NAME:ALIAS.", links(),
			func(c *declared) *[]link { return &c.links }),
		key("ports", "Ports of the host that lead to the container: [[address:]port:]port[/protocol].", ports(),
			func(c *declared) *[]Port { return &c.Ports }),
		key("expose", "Ports at which it is reached by others; for people.", portNumbers("the container"),
			func(c *declared) *[]string { return &c.Expose }),
		key("host_ports", "Ports of the host's loopback that it reaches, as host.vzcompose.internal. Default: none.", portNumbers("the host"),
			func(c *declared) *[]string { return &c.HostPorts }),
	}
}

func networkKeys() *object[Network] {
	return &object[Network]{
		fields: []field[Network]{
			key("subnet", "Its addresses, as a prefix: of IPv4, of IPv6, or one of each. Default: one of IPv4 that is free.", prefixes(),
				func(n *Network) *[]string { return &n.Subnet }),
			key("gateway", "Address of the way out, and of the resolver. Default: the first of the subnet.", addresses("address of the subnet"),
				func(n *Network) *[]string { return &n.Gateway }),
			key("internal", "There is no way out. Default: false.", unlessZero(boolean()), func(n *Network) *bool { return &n.Internal }),
			key("mtu", "Bytes of the largest packet. Default: 1280.", unlessZero(integer(minMTU, maxMTU)), func(n *Network) *int { return &n.MTU }),
			instead[Network]("driver", "every network is carried by vzcompose's own switch"),
			instead[Network]("driver_opts", "every network is carried by vzcompose's own switch"),
			instead[Network]("external", "a network belongs to its stack"),
			instead[Network]("ipam", "write subnet: 10.40.0.0/24"),
			instead[Network]("enable_ipv6", "write subnet: [10.40.0.0/24, fd00:40::/64]"),
			instead[Network]("attachable", "a network belongs to its stack"),
		},
		finish: finishNetwork,
	}
}

// finishNetwork: the gateway is in the subnet, and what is written of both is of
// the same kinds.
func finishNetwork(w *walker, n *node, at *trail, v *Network) bool {
	ok := true
	for i, g := range v.Gateway {
		addr := netip.MustParseAddr(g)
		if prefix, found := prefixFor(v.Subnet, addr); !found || !usable(prefix, addr) {
			w.error(itemNode(n.child("gateway"), i), at.key("gateway"), "", "%s is no address of a machine in the subnet%s", g, listed(v.Subnet))
			ok = false
		}
	}
	if v.MTU != 0 && v.MTU < minMTU6 && slices.ContainsFunc(v.Subnet, is6) {
		w.error(n.child("mtu"), at.key("mtu"), "", "%d is below %d, the least of IPv6", v.MTU, minMTU6)
		ok = false
	}
	return ok
}

func listed(subnets []string) string {
	if len(subnets) == 0 {
		return ", of which nothing is said"
	}
	return " " + strings.Join(subnets, ", ")
}

func is6(prefix string) bool { return netip.MustParsePrefix(prefix).Addr().Is6() }

// itemNode is the i'th of a list, or what stands for it.
func itemNode(n *node, i int) *node {
	if n.kind == listNode && i < len(n.items) {
		return n.items[i]
	}
	return n
}

// prefixFor answers the prefix of the list that is of the address's kind.
func prefixFor(prefixes []string, a netip.Addr) (netip.Prefix, bool) {
	for _, text := range prefixes {
		if p := netip.MustParsePrefix(text); p.Addr().Is4() == a.Is4() {
			return p, p.Contains(a)
		}
	}
	return netip.Prefix{}, false
}

// usable reports whether an address of a subnet may be a machine's: neither its
// first nor, of IPv4, its last.
func usable(p netip.Prefix, a netip.Addr) bool {
	if a == p.Masked().Addr() {
		return false
	}
	return !a.Is4() || p.Contains(a.Next())
}

// oneOfEach is a list, or one alone, in which there is at most one of IPv4 and
// one of IPv6; that of IPv4 comes first.
func oneOfEach(want string, parse func(string) (string, bool, error)) kind[[]string] {
	one := text(nil, func(s string) (string, error) { out, _, err := parse(s); return out, err })
	all := list(one)
	return kind[[]string]{
		schema: schemaDoc{"anyOf": []any{one.schema, all.schema}},
		encode: func(v []string) any {
			if len(v) == 1 {
				return v[0]
			}
			return all.encode(v)
		},
		decode: func(w *walker, n *node, at *trail) ([]string, bool) {
			l := asList(n)
			v, ok := all.decode(w, l, at)
			if !ok || len(v) != len(l.items) {
				return nil, false
			}
			slices.SortStableFunc(v, func(a, b string) int { return strings.Count(a, ":") - strings.Count(b, ":") })
			if len(v) > 2 || len(v) == 2 && strings.Contains(v[0], ":") == strings.Contains(v[1], ":") {
				w.error(n, at, "", "more than one %s of a kind; there may be one of IPv4 and one of IPv6", want)
				return nil, false
			}
			return v, true
		},
	}
}

func prefixes() kind[[]string] {
	return oneOfEach("prefix", func(s string) (string, bool, error) {
		p, err := netip.ParsePrefix(s)
		switch {
		case err != nil:
			return "", false, wrong{quote(s) + " is not an IP prefix", "write 10.40.0.0/24"}
		case p != p.Masked():
			return "", false, wrong{fmt.Sprintf("%s is an address in a subnet, not a subnet", s), "write " + p.Masked().String()}
		case p.Addr().Is4() && p.Bits() > 29 || p.Addr().Is6() && p.Bits() > 125:
			return "", false, fmt.Errorf("%s has room for less than five machines", s)
		case p.Addr().Is4() && p.Bits() < 8 || p.Addr().Is6() && p.Bits() < 48:
			return "", false, fmt.Errorf("%s is larger than a subnet may be", s)
		case p.Addr().IsMulticast() || p.Addr().IsLoopback() || p.Addr().IsLinkLocalUnicast() || p.Addr().IsUnspecified() || p.Addr().Is4In6():
			return "", false, fmt.Errorf("%s is not for networks of machines", s)
		}
		return p.String(), p.Addr().Is4(), nil
	})
}

// addresses are plain ones; a prefix length is allowed and checked elsewhere.
func addresses(want string) kind[[]string] {
	return oneOfEach("address", func(s string) (string, bool, error) {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" || a.Is4In6() {
			return "", false, fmt.Errorf("%s is not an %s", quote(s), want)
		}
		return a.String(), a.Is4(), nil
	})
}

func interfaces() kind[[]Interface] {
	one := interfaceKeys().kind()
	k := list(one)
	k.null = false
	k.encode = func(all []Interface) any {
		if all == nil || reflect.DeepEqual(all, []Interface{{Network: DefaultNetwork}}) {
			return nil // it is so without the key
		}
		return encodeAll(one, all)
	}
	decode := k.decode
	k.decode = func(w *walker, n *node, at *trail) ([]Interface, bool) {
		all, ok := decode(w, n, at)
		if !ok {
			return nil, false
		}
		first := map[string]int{}
		for i, f := range all {
			if len(all) != len(n.items) { // something is wrong with one, and has been said
				break
			}
			if j, used := first[f.Network]; used {
				w.error(n.items[i], at.item(i), "", "network %s is already that of interfaces[%d]", quote(f.Network), j)
			}
			first[f.Network] = i
		}
		return append([]Interface{}, all...), true
	}
	return k
}

func interfaceKeys() *object[Interface] {
	return &object[Interface]{
		required: []string{"network"},
		fields: []field[Interface]{
			key("network", "Name of a network of the stack.", nameOf("network"), func(i *Interface) *string { return &i.Network }),
			key("address", "Of IPv4, of IPv6, or one of each; in the network's subnet. Default: one that is free.", interfaceAddresses(),
				func(i *Interface) *[]string { return &i.Address }),
			key("gateway", "Its way out, in place of the network's; none: there is none by this interface.", interfaceGateway(),
				func(i *Interface) *string { return &i.Gateway }),
			key("mac", "Its hardware address. Default: one that follows from its address.", macAddress(), func(i *Interface) *string { return &i.MAC }),
			key("mtu", "Bytes of the largest packet. Default: the network's.", unlessZero(integer(minMTU, maxMTU)), func(i *Interface) *int { return &i.MTU }),
			key("aliases", "Further names in the network.", hostNames(), func(i *Interface) *[]string { return &i.Aliases }),
		},
	}
}

// interfaceAddresses are addresses with or without the length of the prefix.
func interfaceAddresses() kind[[]string] {
	return oneOfEach("address", func(s string) (string, bool, error) {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a, aerr := netip.ParseAddr(s)
			if aerr != nil || a.Zone() != "" || a.Is4In6() {
				if strings.Contains(s, ":") {
					return "", false, fmt.Errorf("%s is not an IPv6 prefix", s)
				}
				return "", false, fmt.Errorf("%s is not an IPv4 prefix", s)
			}
			return a.String(), a.Is4(), nil
		}
		return p.String(), p.Addr().Is4(), nil
	})
}

func interfaceGateway() kind[string] {
	return text(nil, func(s string) (string, error) {
		if s == "none" {
			return s, nil
		}
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return "", fmt.Errorf("%s is neither an address nor none", quote(s))
		}
		return a.String(), nil
	})
}

func macAddress() kind[string] {
	return text(nil, func(s string) (string, error) {
		m, err := net.ParseMAC(s)
		switch {
		case err != nil || len(m) != 6:
			return "", wrong{quote(s) + " is not a hardware address", "write 02:00:00:00:00:10"}
		case m[0]&1 != 0:
			return "", fmt.Errorf("%s is an address of many machines, not of one", s)
		case m.String() == "00:00:00:00:00:00":
			return "", fmt.Errorf("%s is no machine's address", s)
		}
		return m.String(), nil
	})
}

// hostNames are names, sorted, each once.
func hostNames() kind[[]string] {
	k := list(text(nil, func(s string) (string, error) {
		if len(s) > 253 || !hostText.MatchString(s) {
			return "", fmt.Errorf("%s is not a name of a host", quote(s))
		}
		return strings.ToLower(s), nil
	}))
	decode := k.decode
	k.decode = func(w *walker, n *node, at *trail) ([]string, bool) {
		all, ok := decode(w, n, at)
		if ok && len(all) > maxAliases {
			w.error(n, at, "", "%d names; there may be %d", len(all), maxAliases)
			return nil, false
		}
		slices.Sort(all)
		return slices.Compact(all), ok
	}
	return k
}

// attachments are Compose's shorthand for interfaces: names of networks, or a
// mapping from them to addresses and aliases.
func attachments() kind[[]Interface] {
	k := named("network", attachmentKeys().kind())
	names := schemaDoc{"type": "array", "items": schemaDoc{"type": "string"}}
	return kind[[]Interface]{
		schema: schemaDoc{"anyOf": []any{k.schema, names}},
		encode: func([]Interface) any { return nil }, // they are interfaces
		merge: func(w *walker, base, over *node, at *trail) *node {
			return k.merge(w, pairs(w, base, at, ""), pairs(w, over, at, ""), at)
		},
		decode: func(w *walker, n *node, at *trail) ([]Interface, bool) {
			n = pairs(w, n, at, "")
			all, ok := k.decode(w, n, at)
			if !ok {
				return nil, false
			}
			out := []Interface{}
			for _, e := range n.entries { // in the order of the file
				if a, ok := all[e.key.text]; ok {
					out = append(out, a.interfaceOf(e.key.text))
				}
			}
			return out, true
		},
	}
}

// attachment is what the shorthand says of one network.
type attachment struct {
	v4, v6, mac string
	aliases     []string
}

func (a attachment) interfaceOf(network string) Interface {
	i := Interface{Network: network, MAC: a.mac, Aliases: a.aliases}
	for _, address := range []string{a.v4, a.v6} {
		if address != "" {
			i.Address = append(i.Address, address)
		}
	}
	return i
}

func attachmentKeys() *object[attachment] {
	address := func(is4 bool) kind[string] {
		return text(nil, func(s string) (string, error) {
			a, err := netip.ParseAddr(s)
			if err != nil || a.Is4() != is4 || a.Zone() != "" || a.Is4In6() {
				return "", fmt.Errorf("%s is not an %s address", quote(s), map[bool]string{true: "IPv4", false: "IPv6"}[is4])
			}
			return a.String(), nil
		})
	}
	return &object[attachment]{
		fields: []field[attachment]{
			key("aliases", "Further names in the network.", hostNames(), func(a *attachment) *[]string { return &a.aliases }),
			key("ipv4_address", "In the network's subnet.", address(true), func(a *attachment) *string { return &a.v4 }),
			key("ipv6_address", "In the network's subnet.", address(false), func(a *attachment) *string { return &a.v6 }),
			key("mac_address", "Its hardware address.", macAddress(), func(a *attachment) *string { return &a.mac }),
			instead[attachment]("priority", "the order of the networks is that of the file"),
			instead[attachment]("gw_priority", "the first network that is not internal has the way out"),
		},
	}
}

var errPort = errors.New("not a port")

// portRange reads "80" or "80-90".
func portRange(s string) (low, high uint16, err error) {
	first, last, ranged := strings.Cut(s, "-")
	a, err := strconv.ParseUint(first, 10, 16)
	if err != nil || a == 0 {
		return 0, 0, errPort
	}
	b := a
	if ranged {
		if b, err = strconv.ParseUint(last, 10, 16); err != nil || b < a || b-a >= maxPortRange {
			return 0, 0, errPort
		}
	}
	return uint16(a), uint16(b), nil
}

// portNumbers is a list of ports and ranges of them, each with its protocol
// unless that is TCP.
func portNumbers(of string) kind[[]string] {
	return list(text(nil, func(s string) (string, error) {
		ports, protocol, said := strings.Cut(s, "/")
		low, high, err := portRange(ports)
		if err != nil || said && protocol != "tcp" && protocol != "udp" {
			return "", wrong{quote(s) + " is not a port of " + of, `write "80", "3000-3005" or "53/udp"`}
		}
		if low == high {
			ports = strconv.Itoa(int(low))
		}
		if protocol == "udp" {
			ports += "/udp"
		}
		return ports, nil
	}))
}

// HostPort is ports of the host's loopback, from Low to High.
type HostPort struct {
	Low, High uint16
	Protocol  string // "tcp" or "udp"
}

// ParseHostPort reads one of Container.HostPorts.
func ParseHostPort(s string) (HostPort, error) {
	ports, protocol, said := strings.Cut(s, "/")
	if !said {
		protocol = "tcp"
	}
	low, high, err := portRange(ports)
	return HostPort{Low: low, High: high, Protocol: protocol}, err
}
