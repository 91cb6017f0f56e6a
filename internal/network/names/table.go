// Package names is the resolver of a stack's networks: it answers for
// containers, their aliases and instances, and for the host, and asks the host's
// resolvers for all else.
//
// Who asks decides what there is: a machine finds those that share a network
// with it, on the networks that they share, whichever of its gateways it asks. A
// name leads to machines that are ready only, in another order each time. What
// is asked is hostile: it is decoded with bounds, and each asker has a bounded
// number of questions under way.
package names

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// Zone is where every name of the stack is found too: web.vzcompose.internal.
// What is not there is nowhere.
const Zone = "vzcompose.internal"

// The host's names: one in Zone, and the one that container engines use.
const (
	host       = "host"
	dockerHost = "host.docker.internal"
)

// Network is what the resolver knows of a network.
type Network struct {
	Name string
	// Gateways are the gateway's addresses with the length of their subnets'
	// prefixes. V6 is invalid where the network has no IPv6.
	V4, V6 netip.Prefix
	// Internal networks have no way to the host, and nothing is asked beyond them.
	Internal bool
}

// Machine is what the resolver knows of a machine.
type Machine struct {
	Instance   string // web-1
	Container  string // web
	Ready      bool   // it runs and, where that is checked, is healthy
	Interfaces []Interface
}

// Interface of a machine on a network. V6 may be invalid.
type Interface struct {
	Network string
	V4, V6  netip.Addr
	Aliases []string
}

// Table is what names there are. The zero value is empty and ready for use.
type Table struct {
	mu       sync.RWMutex // guards the following
	networks map[string]Network
	machines map[string]Machine // by instance
}

// SetNetwork adds or replaces a network.
func (t *Table) SetNetwork(n Network) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.networks == nil {
		t.networks = map[string]Network{}
	}
	t.networks[n.Name] = n
}

// Set adds or replaces a machine.
func (t *Table) Set(m Machine) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.machines == nil {
		t.machines = map[string]Machine{}
	}
	t.machines[m.Instance] = m
}

// Remove forgets a machine.
func (t *Table) Remove(instance string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.machines, instance)
}

// asker is who asks: a machine, by the address from which it does, on the
// network whose gateway it asks.
type asker struct {
	network string
	from    netip.Addr
}

// found is what a table says of a name.
type found struct {
	known bool // it is ours: what is not here is nowhere
	some  bool // there is such a name, with addresses or without
	addrs []netip.Addr
	names []string // of an address
}

// sight is what an asker sees: its networks, the one on which it asks first.
func (t *Table) sightLocked(a asker) (networks []Network, beyond bool) {
	seen := []string{a.network}
	for _, m := range t.machines {
		if slices.ContainsFunc(m.Interfaces, func(i Interface) bool { return i.Network == a.network && i.has(a.from) }) {
			for _, i := range m.Interfaces {
				seen = append(seen, i.Network)
			}
		}
	}
	slices.Sort(seen[1:])
	for _, name := range seen {
		n, ok := t.networks[name]
		if ok && !slices.ContainsFunc(networks, func(o Network) bool { return o.Name == name }) {
			networks = append(networks, n)
			beyond = beyond || !n.Internal
		}
	}
	return networks, beyond
}

func (i Interface) has(a netip.Addr) bool { return a.IsValid() && (i.V4 == a || i.V6 == a) }

// lookup answers what a finds under name, which is lower case and has no dot at
// its end, and whether a may ask beyond the stack.
func (t *Table) lookup(a asker, name string) (f found, beyond bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	networks, beyond := t.sightLocked(a)
	local, zone := strings.CutSuffix(name, "."+Zone)
	switch {
	case name == Zone:
		return found{known: true, some: true}, beyond
	case zone && local == host, name == dockerHost:
		return t.hostLocked(networks), beyond
	}
	f = t.machinesLocked(networks, local)
	// A name of one label is nobody's beyond the stack.
	f.known = f.some || zone || !strings.Contains(name, ".")
	return f, beyond
}

func (t *Table) hostLocked(networks []Network) found {
	f := found{known: true}
	for _, n := range networks {
		if !n.Internal {
			f.some = true
			f.add(n.V4.Addr(), n.V6.Addr())
			break // they all mean the same host
		}
	}
	return f
}

func (t *Table) machinesLocked(networks []Network, name string) (f found) {
	for _, n := range networks {
		for _, m := range t.machines {
			for _, i := range m.Interfaces {
				if i.Network != n.Name || !m.called(i, name) {
					continue
				}
				f.some = true
				if m.Ready {
					f.add(i.V4, i.V6)
				}
			}
		}
	}
	return f
}

// called reports whether name is one of m's on interface i. Case does not count in
// DNS (RFC 4343).
func (m Machine) called(i Interface, name string) bool {
	is := func(own string) bool { return strings.EqualFold(own, name) }
	return is(m.Instance) || is(m.Container) || slices.ContainsFunc(i.Aliases, is)
}

func (f *found) add(addrs ...netip.Addr) {
	for _, a := range addrs {
		if a.IsValid() && !slices.Contains(f.addrs, a) {
			f.addrs = append(f.addrs, a)
		}
	}
}

// reverse answers the names of addr, as a sees it.
func (t *Table) reverse(a asker, addr netip.Addr) (f found, beyond bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	networks, beyond := t.sightLocked(a)
	for _, n := range networks {
		if n.V4.Contains(addr) || n.V6.IsValid() && n.V6.Contains(addr) {
			f.known = true
		}
		if (addr == n.V4.Addr() || addr == n.V6.Addr()) && !n.Internal {
			f.names = append(f.names, host+"."+Zone)
		}
		for _, m := range t.machines {
			if slices.ContainsFunc(m.Interfaces, func(i Interface) bool { return i.Network == n.Name && i.has(addr) }) {
				f.names = append(f.names, m.Instance)
			}
		}
	}
	f.some = len(f.names) > 0
	slices.Sort(f.names)
	return f, beyond
}
