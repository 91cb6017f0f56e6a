package spec

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/vzcompose/vzcompose/internal/diag"
)

// This file has the keys of what a container is given beside its root: sockets,
// secrets, configs, and names of hosts.

func givenKeys() []field[declared] {
	return []field[declared]{
		key("sockets", "Unix sockets that stand for servers on the other side.", sockets(),
			func(c *declared) *[]Socket { return &c.Sockets }),
		key("secrets", "Secrets of the stack that the container sees as files in memory.", given("secret", "/run/secrets"),
			func(c *declared) *[]Given { return &c.Secrets }),
		key("configs", "Configs of the stack that the container sees as files in memory.", given("config", "/"),
			func(c *declared) *[]Given { return &c.Configs }),
		key("hosts", "Further lines of /etc/hosts: names by address.", hosts(),
			func(c *declared) *map[string][]string { return &c.Hosts }),
		key("dns", "What /etc/resolv.conf says.", pointer(dnsKeys().kind()),
			func(c *declared) **DNS { return &c.DNS }),
	}
}

func sockets() kind[[]Socket] {
	one := socketKeys().kind()
	k := list(one)
	decode := k.decode
	k.decode = func(w *walker, n *node, at *trail) ([]Socket, bool) {
		all, ok := decode(w, n, at)
		if ok && len(all) == len(n.items) {
			first := map[string]int{}
			for i, s := range all {
				if j, used := first[s.Destination]; used && all[j].Direction == s.Direction {
					w.error(n.items[i].child("destination"), at.item(i), "", "%s is already the destination of sockets[%d]", quote(s.Destination), j)
					ok = false
				} else {
					first[s.Destination] = i
				}
			}
		}
		return all, ok
	}
	return k
}

// maxHostSocket is what a path of the host has room for in sockaddr_un, without
// its zero byte: that of macOS, which has less than Linux (unix(4)).
const maxHostSocket = 103

func socketKeys() *object[Socket] {
	direction := enum[string](choice{name: "out_of"}, choice{name: "into"})
	return &object[Socket]{
		required: []string{"direction", "source", "destination"},
		fields: []field[Socket]{
			key("direction", "out_of: the server is in the container; into: it is on the host.", direction,
				func(s *Socket) *string { return &s.Direction }),
			key("source", "Where the server listens. In the container: a path, or vsock:PORT.", verbatim(), func(s *Socket) *string { return &s.Source }),
			key("destination", "Where the other side finds it. In the container: a path, or vsock:PORT.", verbatim(), func(s *Socket) *string { return &s.Destination }),
			key("mode", "Of the socket at the destination. Default: 0600.", unlessZero(mode()), func(s *Socket) *uint32 { return &s.Mode }),
		},
		finish: func(w *walker, n *node, at *trail, s *Socket) bool {
			inside, outside := "destination", "source"
			guest, host := &s.Destination, &s.Source
			if s.Direction == "out_of" {
				inside, outside, guest, host = outside, inside, host, guest
			}
			if s.Direction == "" || *guest == "" || *host == "" {
				for _, name := range []string{"source", "destination"} {
					if c := n.child(name); c.text == "" && !c.broken {
						w.error(c, at.key(name), "", "the path is empty")
					}
				}
				return false
			}
			end, err := guestEnd(*guest)
			if err != nil {
				w.wrong(n.child(inside), at.key(inside), err)
				return false
			}
			if strings.HasPrefix(*host, vsockScheme) {
				w.error(n.child(outside), at.key(outside), "write a path", "%s is the host's end, which is no virtual socket", quote(*host))
				return false
			}
			*guest, *host = end, w.path(n.child(outside), *host)
			if s.Mode != 0 && s.Direction == "into" && s.onVsock() {
				w.error(n.child("mode"), at.key("mode"), "take it away", "a port of virtual sockets has no mode")
				return false
			}
			if len(*host) > maxHostSocket {
				w.error(n.child(outside), at.key(outside), "use a shorter path", "%s has %d bytes; a socket of the host has at most %d", quote(*host), len(*host), maxHostSocket)
				return false
			}
			return true
		},
	}
}

// guestEnd is the container's end of a socket, in its one form.
func guestEnd(end string) (string, error) {
	switch {
	case strings.HasPrefix(end, vsockScheme):
		return vsockEnd(end)
	case !strings.HasPrefix(end, "/"):
		return "", fmt.Errorf("%s is not an absolute path in the container", quote(end))
	}
	return path.Clean(end), nil
}

// given is a list of secrets or configs: names, or mappings. Where target is
// relative it is below dir.
func given(what, dir string) kind[[]Given] {
	one := givenEntryKeys(what, dir).kind()
	k := list(one)
	k.schema = schemaDoc{"type": "array", "items": schemaDoc{"anyOf": []any{schemaDoc{"type": "string"}, one.schema}}}
	// Where it comes from is no key of the container, but a change of it.
	k.diff = func(field string, old, new []Given) []Change {
		before, after := givenWords(old), givenWords(new)
		return diffMaps(verbatim(), func(name string) string { return field + "[" + name + "]" }, before, after)
	}
	k.decode = func(w *walker, n *node, at *trail) ([]Given, bool) {
		if !w.list(n, at) {
			return nil, false
		}
		var all byPlace[Given]
		for i, use := range n.items {
			if use.kind == scalarNode && !use.null() {
				use = &node{kind: mappingNode, place: use.place, path: use.path, entries: []entry{{&node{place: use.place, text: "source", quoted: true}, use}}}
			}
			g, ok := one.decode(w, use, at.item(i))
			if !ok {
				continue
			}
			if by, taken := all.put(g.Target, g, item{use, i}); taken {
				w.error(use, at.item(i), "", "%s is already the target of [%d]", quote(g.Target), by.index)
			}
		}
		w.items[n] = all.from
		return all.all, true
	}
	return k
}

func givenWords(all []Given) map[string]string {
	out := map[string]string{}
	for _, g := range all {
		out[g.Target] = strings.TrimSpace(fmt.Sprintf("%s %d:%d %04o %s", g.Source, g.UID, g.GID, g.Mode, g.Origin))
	}
	return out
}

func (o Origin) String() string {
	switch {
	case o.File != "":
		return "file " + o.File
	case o.Environment != "":
		return "environment " + o.Environment
	case o.Content != "":
		return "content " + o.Content
	}
	return ""
}

func givenEntryKeys(what, dir string) *object[Given] {
	return &object[Given]{
		required: []string{"source"},
		fresh:    Given{Mode: 0o444},
		fields: []field[Given]{
			key("source", "Its name in the stack.", verbatim(), func(g *Given) *string { return &g.Source }),
			key("target", "Where the container sees it. A name is below "+dir+".", text(nil, anyText), func(g *Given) *string { return &g.Target }),
			key("uid", "Its owner. Default: 0.", unlessZero(number32()), func(g *Given) *uint32 { return &g.UID }),
			key("gid", "Its group. Default: 0.", unlessZero(number32()), func(g *Given) *uint32 { return &g.GID }),
			key("mode", "Default: 0444.", mode(), func(g *Given) *uint32 { return &g.Mode }),
		},
		finish: func(w *walker, n *node, at *trail, g *Given) bool {
			if g.Source == "" {
				w.error(n, at, "", "the %s has no name", what)
				return false
			}
			if g.Target == "" {
				g.Target = g.Source
			}
			if !strings.HasPrefix(g.Target, "/") {
				g.Target = dir + "/" + g.Target
			}
			if g.Target = path.Clean(g.Target); g.Target == "/" || len(g.Target) > 4095 {
				w.error(n, at, "", "%s is no place for a file", quote(g.Target))
				return false
			}
			return true
		},
	}
}

// originKeys are those of a secret or config of the stack.
func originKeys(content bool) *object[Origin] {
	o := &object[Origin]{
		alternatives: []string{"file", "environment", "content"},
		fields: []field[Origin]{
			key("file", "File of the host with its text.", hostPath(), func(o *Origin) *string { return &o.File }),
			key("environment", "Variable of the caller with its text.", text(nil, environmentName), func(o *Origin) *string { return &o.Environment }),
		},
		extra: schemaDoc{"minProperties": 1, "maxProperties": 1},
		finish: func(w *walker, n *node, at *trail, o *Origin) bool {
			said := 0
			for _, name := range []string{"file", "environment", "content"} {
				if n.said(name) {
					said++
				}
			}
			if said != 1 {
				w.error(n, at, "", "give one of %s", map[bool]string{true: "file, environment and content", false: "file and environment"}[content])
			}
			return said == 1
		},
	}
	if content {
		o.fields = append(o.fields, key("content", "Its text.", verbatimUnlessEmpty(), func(o *Origin) *string { return &o.Content }))
	}
	o.fields = append(o.fields, instead[Origin]("external", "name a file or a variable: there is no store of secrets"))
	return o
}

// verbatimUnlessEmpty leaves the key out where there is no text.
func verbatimUnlessEmpty() kind[string] { return text(nil, anyText) }

func environmentName(name string) (string, error) {
	if name == "" || strings.ContainsAny(name, "=\x00") {
		return "", fmt.Errorf("%s is not the name of a variable", quote(name))
	}
	return name, nil
}

// HostGateway is an address among Container.Hosts: that at which the host is found,
// which is not known before the container's networks have theirs.
const HostGateway = "host-gateway"

func hosts() kind[map[string][]string] {
	name := text(nil, func(text string) (string, error) {
		if len(text) > 253 || !hostText.MatchString(text) {
			return "", fmt.Errorf("%s is not a name of a host", quote(text))
		}
		return text, nil
	})
	names := list(name)
	one := kind[[]string]{
		schema: schemaDoc{"anyOf": []any{name.schema, names.schema}}, encode: names.encode,
		decode: func(w *walker, n *node, at *trail) ([]string, bool) {
			all, ok := names.decode(w, asList(n), at)
			if ok && len(all) == 0 && len(asList(n).items) == 0 {
				w.error(n, at, "", "the address has no name")
				return nil, false
			}
			return all, ok && len(all) > 0
		},
	}
	return mapping(one, func(address string) error {
		if _, err := netip.ParseAddr(address); err != nil && address != HostGateway {
			return wrong{quote(address) + " is not an address", `write "10.0.0.1": [name], or host-gateway: [name]`}
		}
		return nil
	})
}

func dnsKeys() *object[DNS] {
	address := text(nil, func(text string) (string, error) {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return "", fmt.Errorf("%s is not an address", quote(text))
		}
		return a.String(), nil
	})
	domain := text(nil, func(text string) (string, error) {
		if len(text) > 253 || !hostText.MatchString(strings.TrimSuffix(text, ".")) {
			return "", fmt.Errorf("%s is not a domain", quote(text))
		}
		return text, nil
	})
	option := text(nil, func(text string) (string, error) {
		if text == "" || strings.ContainsAny(text, " \t\n\r") {
			return "", fmt.Errorf("%s is not an option of resolv.conf", quote(text))
		}
		return text, nil
	})
	return &object[DNS]{fields: []field[DNS]{
		key("nameservers", "Addresses, in order.", list(address), func(d *DNS) *[]string { return &d.Nameservers }),
		key("domain", "Of names without a dot.", domain, func(d *DNS) *string { return &d.Domain }),
		key("search", "Domains, in order.", list(domain), func(d *DNS) *[]string { return &d.Search }),
		key("options", "As of resolv.conf(5): ndots:1.", list(option), func(d *DNS) *[]string { return &d.Options }),
	}}
}

// given: secrets and configs are those of the stack. It answers them with where
// they come from.
func (c *checker) given(name, key, what string, uses []Given, all map[string]Origin) []Given {
	n := c.node(name).child(key)
	out := slices.Clone(uses)
	for i := range out {
		origin, ok := all[out[i].Source]
		if !ok && c.root.child(key).entry(out[i].Source) != nil {
			continue // what is wrong with it was said
		}
		if !ok {
			hint := ""
			if !c.w.report.full(diag.Error) {
				hint = suggest(out[i].Source, sortedKeys(all))
			}
			if hint == "" {
				hint = "declare it under " + key
			}
			c.w.error(givenNode(c.w.itemOf(n, i).node), c.at(name).key(key), hint, "no %s %s", what, quote(out[i].Source))
			continue
		}
		out[i].Origin = origin
	}
	return out
}

// givenNode returns where a use of a secret names it.
func givenNode(use *node) *node {
	if s := use.child("source"); s != nil {
		return s
	}
	return use
}

// origins: the files of secrets and configs are there.
func (c *checker) origins(key string, all map[string]Origin) {
	for _, name := range sortedKeys(all) {
		f := all[name].File
		if f == "" {
			continue
		}
		n, at := c.root.child(key).child(name).child("file"), (*trail)(nil).key(key).key(name).key("file")
		switch info, err := os.Stat(f); {
		case errors.Is(err, fs.ErrNotExist):
			c.w.error(n, at, "", "%s does not exist", quote(n.text))
		case err != nil:
			c.w.error(n, at, "", "%s: %s", quote(n.text), reason(err))
		case info.IsDir():
			c.w.error(n, at, "", "%s is a folder", quote(n.text))
		}
	}
}

// places: a secret, a config and a mount are not at the same place.
func (c *checker) places(e entry) {
	d := c.file.containers[e.key.text]
	used := map[string]string{}
	for i, m := range d.Mounts {
		used[m.Destination] = fmt.Sprintf("mounts[%d]", i)
	}
	for _, of := range []struct {
		key string
		all []Given
	}{{"secrets", d.Secrets}, {"configs", d.Configs}} {
		for i, g := range of.all {
			if by, ok := used[g.Target]; ok {
				from := c.w.itemOf(e.value.child(of.key), i)
				c.w.error(givenNode(from.node), c.at(e.key.text).key(of.key).item(from.index), "", "%s is already the place of %s", quote(g.Target), by)
			}
			used[g.Target] = fmt.Sprintf("%s[%d]", of.key, i)
		}
	}
	if len(d.Hosts) > 0 {
		c.taken(e, "hosts", "/etc/hosts", used)
	}
	if d.DNS != nil {
		c.taken(e, "dns", "/etc/resolv.conf", used)
	}
}

func (c *checker) taken(e entry, key, place string, used map[string]string) {
	if by, ok := used[place]; ok {
		c.w.error(e.value.entry(key).key, c.at(e.key.text), "", "%q is already the place of %s", place, by)
	}
}

// hostSockets: no two relays open the same socket of the host.
func (c *checker) hostSockets(containers *node) {
	type use struct {
		container string
		line      int
	}
	first := map[string]use{}
	for _, e := range containers.entries {
		d := c.file.containers[e.key.text]
		items := e.value.child("sockets")
		for i, s := range d.Sockets {
			if s.Direction != "out_of" || !c.active[e.key.text] || items == nil {
				continue
			}
			from := c.w.itemOf(items, i)
			n, at := from.node.child("destination"), c.at(e.key.text).key("sockets").item(from.index)
			if d.Replicas > 1 {
				c.w.error(n, at, "", "%d instances of %q would open the same socket of the host", d.Replicas, e.key.text)
			}
			if u, ok := first[s.Destination]; ok && u.container != e.key.text {
				c.w.error(n, at, "", "%s is already opened for container %q (line %d)", quote(n.text), u.container, u.line)
				continue
			}
			first[s.Destination] = use{e.key.text, n.line}
		}
	}
}
