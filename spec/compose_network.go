package spec

import (
	"strings"
)

// This file has what of Compose says where a service is reached: networks, ports,
// names and addresses. Secrets and configs of the stack are here too.

func lowerDomain(l *lowering, e entry, out *node) {
	if l.unset(e.value) {
		return
	}
	dns := l.like(e.value, mappingNode)
	dns.add(e.key.place, "domain", e.value)
	l.put(out, e.key, "dns", dns)
}

func lowerDNS(key string) func(l *lowering, e entry, out *node) {
	return func(l *lowering, e entry, out *node) {
		if l.unset(e.value) {
			return
		}
		dns := l.like(e.value, mappingNode)
		dns.add(e.key.place, key, l.list(e.value, l.items(e.value)))
		l.put(out, e.key, "dns", dns)
	}
}

// lowerAttachments: no network at all is the default one.
func lowerAttachments(l *lowering, e entry, out *node) {
	if n := e.value; n.kind == scalarNode || n.override || len(n.items)+len(n.entries) > 0 {
		each(composeAttachment(), "networks", true)(l, e, out)
	}
}

func lowerNetworkMode(l *lowering, e entry, out *node) {
	text, ok := l.text(e.value)
	if !ok {
		return
	}
	kind, of, _ := strings.Cut(text, ":")
	if n := l.in.entry("networks"); n != nil && text != "" && !n.value.null() && len(n.value.items)+len(n.value.entries) > 0 {
		l.w.error(e.key, nil, "take one of them away", "a service has network_mode or networks, not both")
		return
	}
	switch {
	case text == "", text == "bridge", text == "default":
	case text == "none":
		l.put(out, e.key, "interfaces", l.like(e.value, listNode))
	case text == "host":
		l.w.refuse(e.value, nil, "publish the ports that it serves with ports, and reach the host's by host.docker.internal", "a machine is not on the host's network")
	case kind == "service" || kind == "container":
		l.w.refuse(e.value, nil, "put both on a network, and use the name "+plain(of), "two machines do not share a network card")
	default:
		l.w.error(e.value, nil, "name it under networks", "%s is not none or bridge", quote(text))
	}
}

func lowerMAC(l *lowering, e entry, out *node) {
	if l.unset(e.value) {
		return
	}
	one := l.like(e.value, mappingNode)
	one.add(e.key.place, "network", l.word(e.value, DefaultNetwork))
	one.add(e.key.place, "mac", e.value)
	if out.child("networks") != nil {
		l.hint(e.key, "write it in the network", "%q has no effect beside networks", "mac_address")
		return
	}
	l.put(out, e.key, "interfaces", l.like(e.value, listNode).with([]*node{one}))
}

// lowerPorts: a port without an address is on all of the host's.
func lowerPorts(l *lowering, e entry, out *node) {
	keys := l.loader.serviceKeys().key("ports").of
	if e.value.kind != listNode {
		l.put(out, e.key, "ports", e.value)
		return
	}
	var all []*node
	for _, item := range l.items(e.value) {
		if item.kind == mappingNode {
			item = l.mapping(item, keys)
			if !item.said("host_ip") {
				item.add(item.place, "host_ip", l.word(item, l.w.publishAddress()))
			}
		} else if l.unset(item) {
			continue
		}
		all = append(all, item)
	}
	l.put(out, e.key, "ports", l.list(e.value, all))
}

// lowerHosts: NAME:ADDRESS, NAME=ADDRESS, or a mapping from names to addresses; the
// language has names by address.
func lowerHosts(l *lowering, e entry, out *node) {
	all := l.like(e.value, mappingNode)
	add := func(at *node, name, address string) {
		address = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(address), "["), "]")
		list := l.list(at, []*node{l.word(at, strings.TrimSpace(name))})
		l.put(all, at, address, list)
	}
	switch e.value.kind {
	case listNode:
		for _, item := range l.items(e.value) {
			text, ok := l.text(item)
			if !ok {
				continue
			}
			i := strings.IndexByte(text, '=')
			if i < 0 {
				i = strings.IndexByte(text, ':')
			}
			if i < 0 {
				l.w.error(item, nil, `write "name:10.0.0.1"`, "%s has no address", quote(text))
				continue
			}
			add(item, text[:i], text[i+1:])
		}
	case mappingNode:
		for _, h := range e.value.entries {
			for _, address := range l.items(h.value) {
				if text, ok := l.text(address); ok {
					add(address, h.key.text, text)
				}
			}
		}
	default:
		if !l.unset(e.value) {
			l.w.error(e.value, nil, "", "expected a list or a mapping, found %s", e.value.describe())
		}
		return
	}
	l.put(out, e.key, "hosts", all)
}

func lowerDriver(l *lowering, e entry, _ *node) {
	text, ok := l.text(e.value)
	switch {
	case !ok || text == "" || text == "bridge" || text == "default":
	case text == "host" || text == "none":
		l.w.refuse(e.value, nil, "publish ports, or leave the network out", "a machine is not on the host's network")
	default:
		l.hint(e.value, "", "%s is read as bridge: every network is carried by the stack's own switch", quote(text))
	}
}

func lowerDriverOptions(l *lowering, e entry, out *node) {
	if v := e.value.child("com.docker.network.driver.mtu"); v != nil && !v.null() && !l.unset(v) {
		l.put(out, e.key, "mtu", l.plain(v, v.text))
	}
}

func lowerPools(l *lowering, e entry, out *node) {
	keys := composeNetwork().key("ipam").of.key("config").of
	for _, item := range l.items(e.value) {
		pool := l.mapping(item, keys)
		for _, key := range []string{"subnet", "gateway"} {
			if v := pool.entry(key); v != nil && !v.value.null() && !l.unset(v.value) {
				l.put(out, v.key, key, l.like(v.value, listNode).with([]*node{v.value}))
			}
		}
	}
}

func lowerIPv6(l *lowering, e entry, _ *node) {
	if on, ok := l.flag(e.value); ok && on {
		l.w.warnUnlessIPv6(e.key)
	}
}

// externals returns what external says: true, or a mapping with a name.
func (l *lowering) externals(n *node) bool {
	if n.kind == mappingNode {
		return true
	}
	on, ok := l.flag(n)
	return ok && on
}

func externalNetwork(l *lowering, e entry, _ *node) {
	if l.externals(e.value) {
		l.w.refuse(e.key, nil, "take external away: the network is made for this stack; to reach another stack publish a port there and use host.docker.internal", "an external network cannot be joined: one switch serves one stack")
	}
}

func externalOrigin(l *lowering, e entry, out *node) {
	if l.externals(e.value) {
		out.broken = true // it comes from nowhere
		l.w.refuse(e.key, nil, "name a file or a variable", "there is no store of secrets and configs")
	}
}

func originDriver(l *lowering, e entry, out *node) {
	if !l.unset(e.value) {
		out.broken = true // it comes from nowhere
		l.w.refuse(e.key, nil, "use file or environment", "there is no store of secrets")
	}
}

// warnUnlessIPv6 says that IPv6 takes a subnet.
func (w *walker) warnUnlessIPv6(n *node) {
	w.warn(n, nil, `write ipam: {config: [{subnet: "10.40.0.0/24"}, {subnet: "fd00:40::/64"}]}`, "%q has no effect without a subnet of IPv6", "enable_ipv6")
}

// publishAddress is where ports of a Compose file without an address are opened.
func (w *walker) publishAddress() string {
	if w.publish == "" {
		return AllAddresses
	}
	return w.publish
}
