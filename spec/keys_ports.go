package spec

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// DefaultHostIP is where ports of the host are opened when nothing is said.
const DefaultHostIP = "127.0.0.1"

// AllAddresses is every address of the host, of IPv4 and IPv6. 0.0.0.0 is every one
// of IPv4, :: every one of IPv6.
const AllAddresses = "*"

// ParseHostIP reads where a port of the host is opened: an address, or AllAddresses.
func ParseHostIP(s string) (string, error) {
	if s == AllAddresses {
		return s, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return "", fmt.Errorf("%s is not an address of the host", quote(s))
	}
	return a.Unmap().String(), nil
}

// ports is a list of ports, each a mapping or the short form
// [[address:]published:]target[/protocol].
func ports() kind[[]Port] {
	one := portKeys().kind()
	k := list(one)
	return kind[[]Port]{
		schema: schemaDoc{"type": "array", "items": schemaDoc{"anyOf": []any{schemaDoc{"type": []any{"string", "integer"}}, one.schema}}},
		encode: k.encode,
		diff: func(field string, old, now []Port) []Change {
			if slices.Equal(old, now) {
				return nil
			}
			return []Change{{field, portWords(old), portWords(now)}}
		},
		merge: func(_ *walker, base, over *node, _ *trail) *node {
			if over.override || base.kind != listNode || over.kind != listNode {
				return over
			}
			out := *over
			out.items = append(append([]*node(nil), base.items...), over.items...)
			return &out
		},
		decode: func(w *walker, n *node, at *trail) ([]Port, bool) {
			if !w.list(n, at) {
				return nil, false
			}
			var all []Port
			var from []item
			said := map[Port]bool{}
			for i, port := range n.items {
				before := len(all)
				if port.kind == scalarNode && !port.null() {
					all = append(all, shortPorts(w, port, at.item(i))...)
				} else if p, ok := one.decode(w, port, at.item(i)); ok {
					all = append(all, p)
				}
				if port.compose() { // a later file may say a port again
					all = append(all[:before], slices.DeleteFunc(slices.Clone(all[before:]), func(p Port) bool { return said[p] })...)
					for _, p := range all[before:] {
						said[p] = true
					}
				}
				for len(from) < len(all) {
					from = append(from, item{port, i})
				}
			}
			w.items[n] = from
			return all, true
		},
	}
}

// portKeys are those of the long form, which is how ports are printed too.
func portKeys() *object[Port] {
	number := func() kind[int] { return integer(1, 65535) }
	published := scalar("a port", intScalar|stringScalar, textSchema, func(_ *walker, _ *node, s string) ([2]int, error) {
		low, high, err := portRange(s)
		if err != nil {
			return [2]int{}, wrong{quote(s) + " is not a port", `write 8080, or "8000-8010" for one of them`}
		}
		return [2]int{int(low), int(high)}, nil
	}, func(p [2]int) any {
		switch {
		case p[0] == 0:
			return nil
		case p[0] == p[1]:
			return p[0]
		}
		return fmt.Sprintf("%d-%d", p[0], p[1])
	})
	return &object[Port]{
		required: []string{"target"},
		fresh:    Port{HostIP: DefaultHostIP, Protocol: "tcp"},
		fields: []field[Port]{
			key("target", "Port in the container.", number(), func(p *Port) *int { return &p.Target }),
			key("published", "Port of the host, or a range of which one is taken. Default: one that is free.", published,
				func(p *Port) *[2]int { return &p.Published }),
			key("host_ip", "Address of the host; *: all of them. Default: 127.0.0.1.", hostIP(), func(p *Port) *string { return &p.HostIP }),
			key("protocol", "tcp or udp. Default: tcp.", enum[string](choice{name: "tcp"}, choice{name: "udp"}), func(p *Port) *string { return &p.Protocol }),
			instead[Port]("mode", "a port is opened where its container runs"),
			instead[Port]("name", "leave it out"), instead[Port]("app_protocol", "leave it out"),
		},
	}
}

func hostIP() kind[string] { return text(nil, ParseHostIP) }

// shortPorts reads the short form: a range of ports is as many.
func shortPorts(w *walker, n *node, at *trail) []Port {
	if !w.visit(n) || !w.resolve(n, at) {
		return nil
	}
	const hint = `write "8080:80", "127.0.0.1:8080:80/udp", "8000-8010:80-90" or "80"`
	fail := func(format string, args ...any) []Port {
		w.error(n, at, hint, format, args...)
		return nil
	}
	if n.scalar()&(stringScalar|intScalar) == 0 {
		return fail("expected a port, found %s", n.describe())
	}
	rest, protocol, said := strings.Cut(n.text, "/")
	if !said {
		protocol = "tcp"
	}
	if protocol != "tcp" && protocol != "udp" {
		return fail("%s is neither tcp nor udp", quote(protocol))
	}
	host, published, target := splitPort(rest)
	switch {
	case host == "" && n.compose():
		host = w.publishAddress()
	case host == "":
		host = DefaultHostIP
	}
	ip, err := ParseHostIP(host)
	if err != nil {
		return fail("%s", err)
	}
	low, high, err := portRange(target)
	if err != nil {
		return fail("%s is not a port", quote(target))
	}
	if published == "" {
		return portsFrom(Port{HostIP: ip, Protocol: protocol}, low, high, 0)
	}
	from, to, err := portRange(published)
	switch {
	case err != nil:
		return fail("%s is not a port", quote(published))
	case low == high && from != to: // one of them
		return []Port{{Target: int(low), Published: [2]int{int(from), int(to)}, HostIP: ip, Protocol: protocol}}
	case high-low != to-from:
		return fail("%d ports of the host for %d of the container", int(to-from)+1, int(high-low)+1)
	}
	return portsFrom(Port{HostIP: ip, Protocol: protocol}, low, high, from)
}

// portsFrom is like p for each target of a range; published counts on from from,
// 0 is none.
func portsFrom(p Port, low, high, from uint16) []Port {
	var all []Port
	for t := int(low); t <= int(high); t++ {
		p.Target = t
		if from != 0 {
			at := int(from) + t - int(low)
			p.Published = [2]int{at, at}
		}
		all = append(all, p)
	}
	return all
}

// splitPort takes "[::1]:8080:80" apart.
func splitPort(s string) (host, published, target string) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", "", s
	}
	s, target = s[:i], s[i+1:]
	if i = strings.LastIndexByte(s, ':'); i < 0 {
		return "", s, target
	}
	host, published = s[:i], s[i+1:]
	return strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"), published, target
}

// portWords says ports as the short form does.
func portWords(all []Port) string {
	if len(all) == 0 {
		return absent
	}
	texts := make([]any, len(all))
	for i, p := range all {
		texts[i] = p.String()
	}
	return words(texts)
}

// String is the port as the short form has it.
func (p Port) String() string {
	host := p.HostIP
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	at := ""
	switch {
	case p.Published[0] == 0:
	case p.Published[0] == p.Published[1]:
		at = strconv.Itoa(p.Published[0])
	default:
		at = fmt.Sprintf("%d-%d", p.Published[0], p.Published[1])
	}
	return fmt.Sprintf("%s:%s:%d/%s", host, at, p.Target, p.Protocol)
}
