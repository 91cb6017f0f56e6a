package spec

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vzcompose/vzcompose/internal/diag"
)

// link is one entry of links: another container, and a further name for it.
type link struct {
	to    string
	alias string // in lower case; "": none
}

// links are names of containers, or NAME:ALIAS. They are not stored: a container
// that is linked has aliases, and one that links depends on it.
func links() kind[[]link] {
	one := scalar("a string", anyScalar, textSchema, func(_ *walker, _ *node, text string) (link, error) {
		to, alias, said := strings.Cut(text, ":")
		switch {
		case !nameText.MatchString(to):
			return link{}, wrong{quote(to) + " is not a name for a container", "write NAME, or NAME:ALIAS"}
		case said && (len(alias) > 253 || !hostText.MatchString(alias)):
			return link{}, wrong{quote(alias) + " is not a name of a host", "write NAME:ALIAS"}
		}
		return link{to, strings.ToLower(alias)}, nil
	}, func(link) any { return nil })
	k := list(one)
	k.encode = func([]link) any { return nil }
	return k
}

// linkDependencies has what links to a container depend on it, as in Compose:
// unless it says otherwise of it, it is started after it, and again with it.
func (c *checker) linkDependencies() {
	for name, d := range c.file.containers {
		if len(d.links) == 0 {
			continue
		}
		on := maps.Clone(d.DependsOn)
		for _, l := range d.links {
			_, said := on[l.to]
			if _, there := c.file.containers[l.to]; said || !there || l.to == name {
				continue
			}
			if on == nil {
				on = map[string]Dependency{}
			}
			on[l.to] = Dependency{Condition: ConditionStarted, Required: true, Restart: true}
		}
		d.DependsOn = on
		c.file.containers[name] = d
	}
}

// dependency returns where a container says that it depends on another: in
// depends_on, or else in links.
func (c *checker) dependency(of, on string) (*node, *trail) {
	at := c.at(of).key("depends_on")
	if n := c.node(of).child("depends_on"); n != nil {
		if e := pairs(c.w, n, at, "").entry(on); e != nil {
			return e.key, at
		}
	}
	for i, l := range c.file.containers[of].links {
		if l.to == on {
			from := c.w.itemOf(c.node(of).child("links"), i)
			return from.node, c.at(of).key("links").item(from.index)
		}
	}
	return c.node(of), c.at(of)
}

// linkNames gives the containers that are linked their further names, on the
// networks that they share with the one that links. Unlike Docker's, a name holds
// for all that is on the network: it must not be that of two containers.
func (c *checker) linkNames(all map[string]Container) {
	var taken map[[2]string]string // network and name → container; "": several
	for _, name := range sortedKeys(all) {
		n := c.node(name).child("links")
		for i, l := range c.file.containers[name].links {
			if taken == nil {
				taken = networkNames(all)
			}
			from := c.w.itemOf(n, i)
			c.linkName(from.node, c.at(name).key("links").item(from.index), name, l, all, taken)
		}
	}
}

func (c *checker) linkName(n *node, at *trail, name string, l link, all map[string]Container, taken map[[2]string]string) {
	to, active := all[l.to]
	switch _, there := c.file.containers[l.to]; {
	case l.to == name:
		c.w.error(n, at, "", "a container cannot link to itself")
		return
	case !there:
		hint := ""
		if !c.w.report.full(diag.Error) {
			hint = suggest(l.to, sortedKeys(c.file.containers))
		}
		c.w.error(n, at, hint, "no container %s", quote(l.to))
		return
	case !active: // whether it can be without it is checked with its dependencies
		return
	}
	shared := false
	to.Interfaces = slices.Clone(to.Interfaces)
	for i, f := range to.Interfaces {
		if !slices.ContainsFunc(all[name].Interfaces, func(own Interface) bool { return own.Network == f.Network }) {
			continue
		}
		shared = true
		place := [2]string{f.Network, l.alias}
		switch by, named := taken[place]; {
		case l.alias == "" || named && by == l.to:
		case !named && len(f.Aliases) >= maxAliases:
			c.w.error(n, at, "", "container %s has %d further names on network %s already", quote(l.to), maxAliases, quote(f.Network))
			return
		case named:
			c.w.error(n, at, "a link is a name for all that is on the network: give it another", "%s is already a name of%s on network %s",
				quote(l.alias), nameWords(by), quote(f.Network))
			return
		default:
			taken[place] = l.to
			aliases := append(slices.Clone(f.Aliases), l.alias)
			slices.Sort(aliases)
			to.Interfaces[i].Aliases = aliases
		}
	}
	if !shared {
		severity := diag.Error
		if n.compose() { // where it is no more than a dependency
			severity = diag.Warning
		}
		c.w.finding(severity, n, n.place, at, "put both on one network",
			fmt.Sprintf("container %s shares no network with %s", quote(l.to), quote(name)))
		return
	}
	all[l.to] = to
	d := c.file.containers[l.to]
	d.Interfaces = to.Interfaces
	c.file.containers[l.to] = d
}

func nameWords(container string) string {
	if container == "" {
		return " other containers"
	}
	return " container " + quote(container)
}

// networkNames are the names that there are on each network, and whose they are.
func networkNames(all map[string]Container) map[[2]string]string {
	names := map[[2]string]string{}
	for container, d := range all {
		for _, f := range d.Interfaces {
			for _, name := range append([]string{container, d.ContainerName}, f.Aliases...) {
				place := [2]string{f.Network, strings.ToLower(name)}
				if by, ok := names[place]; ok && by != container {
					names[place] = ""
				} else {
					names[place] = container
				}
			}
		}
	}
	return names
}
