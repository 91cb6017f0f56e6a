package planner

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/spec"
)

// moveNetworks finds the networks that are declared otherwise than they are, and
// has what is on them come again: addresses, routes and names follow from the
// declaration. It answers why, by network.
func (u *up) moveNetworks() map[string]string {
	moved := make(map[string]string)
	if u.o.NoRecreate { // what is there stays as it was made
		return moved
	}
	for _, o := range u.observed.Networks {
		if n, ok := u.networks[o.Name]; ok {
			if why := networkDifference(o, n); why != "" {
				moved[o.Name] = why
			}
		}
	}
	for _, network := range sortedKeys(moved) {
		if held := u.holders(network); len(held) > 0 {
			u.warn("network %s: %s is not applied while %s, which this leaves alone, is on it", network, moved[network], list(held))
			delete(moved, network)
		}
	}
	for _, name := range sortedKeys(u.changes) {
		for _, ch := range u.changes[name] {
			u.moveWith(ch, moved)
		}
	}
	return moved
}

// holders are the instances on a network that run and that this plan leaves
// alone.
func (u *up) holders(network string) (names []string) {
	for i := range u.observed.Instances {
		o := &u.observed.Instances[i]
		if o.State.Live() && on(network, o) && !slices.ContainsFunc(u.changes[targetOf(o).Container], func(ch *change) bool {
			return ch.there().Instance == o.Name && (!ch.done || ch.stop != "" || ch.remove != "")
		}) {
			names = append(names, o.Name)
		}
	}
	return names
}

// on reports whether an instance, as its record says, is on a network.
func on(network string, o *state.Instance) bool {
	c, err := readable(o)
	return err == nil && slices.ContainsFunc(c.Interfaces, func(i spec.Interface) bool { return i.Network == network })
}

// moveWith has an instance that is there come again with its networks. What it
// is on is in its declaration.
func (u *up) moveWith(ch *change, moved map[string]string) {
	if ch.create != "" || ch.remove != "" || ch.done {
		return
	}
	for _, i := range ch.spec.Interfaces {
		why := moved[i.Network]
		if why == "" {
			continue
		}
		why = "network " + i.Network + ": " + why
		if o := u.instance(ch.Instance); o != nil && o.State.Live() && ch.stop == "" {
			ch.stop = why
			if ch.start == "" && !u.o.NoStart {
				ch.start = why
			}
		}
		if ch.update == "" || ch.live {
			ch.update, ch.live, ch.healthy = why, false, false
		}
		return
	}
}

func (u *up) instance(name string) *state.Instance {
	for i := range u.observed.Instances {
		if u.observed.Instances[i].Name == name {
			return &u.observed.Instances[i]
		}
	}
	return nil
}

// networkDifference says how a network is declared otherwise than it is; "": it
// is not. A subnet that is left open stays what it is.
func networkDifference(o state.Network, n spec.Network) string {
	var all []string
	add := func(key string, differs bool, old, now any) {
		if differs {
			all = append(all, fmt.Sprintf("%s %v → %v", key, old, now))
		}
	}
	said := func(list []string) string {
		if len(list) == 0 {
			return absent
		}
		return strings.Join(list, ", ")
	}
	add("subnet", !slices.Equal(o.Subnet, n.Subnet), said(o.Subnet), said(n.Subnet))
	add("gateway", !slices.Equal(o.Gateway, n.Gateway), said(o.Gateway), said(n.Gateway))
	add("internal", o.Internal != n.Internal, o.Internal, n.Internal)
	add("mtu", o.MTU != n.MTU, mtu(o.MTU), mtu(n.MTU))
	return list(all)
}

func mtu(n int) string {
	if n == 0 {
		return "default"
	}
	return fmt.Sprint(n)
}

// updateNetworks adds the steps that give networks another declaration, after
// all that was on them is gone.
func (a *arrangement) updateNetworks(moved map[string]string, w state.World) {
	a.renewed = make(map[string]int)
	gone := a.goneByName()
	for _, name := range sortedKeys(moved) {
		var after []int
		for i := range w.Instances {
			if id := gone[w.Instances[i].Name]; id != 0 && on(name, &w.Instances[i]) {
				after = append(after, id)
			}
		}
		a.renewed[name] = a.plan.add(Step{Op: UpdateNetwork{Name: name, Spec: a.networks[name]}, After: sorted(after), Cause: moved[name]})
	}
}

// removeNetworks adds the removal of networks after that of what is on them, or
// may be: a record that cannot be read may name any. Those of containers that
// stay do too.
func (a *arrangement) removeNetworks(w state.World, selected map[string]bool) {
	removed := a.goneByName()
	for _, n := range w.Networks {
		var after []int
		kept := false
		for i := range w.Instances {
			o := &w.Instances[i]
			c, err := readable(o)
			if err == nil && !slices.ContainsFunc(c.Interfaces, func(i spec.Interface) bool { return i.Network == n.Name }) {
				continue
			}
			if id := removed[o.Name]; id != 0 {
				after = append(after, id)
			}
			kept = kept || !selected[targetOf(o).Container]
		}
		if !kept {
			a.plan.add(Step{Op: RemoveNetwork{n.Name}, After: sorted(after), Cause: causeDown})
		}
	}
}
