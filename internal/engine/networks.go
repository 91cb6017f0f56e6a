package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/internal/filelock"
	"github.com/vzcompose/vzcompose/internal/network/frame"
	"github.com/vzcompose/vzcompose/internal/network/lease"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/internal/undo"
	"github.com/vzcompose/vzcompose/planner"
	"github.com/vzcompose/vzcompose/spec"
)

// defaultMTU is that of Apple's containers.
const defaultMTU = 1280 // bytes

// Static is an address that a stack file gives to an instance.
type Static struct {
	Network, Instance string
	Address           netip.Addr
	MAC               string // "": follows from the address
}

// Statics answers the addresses that a stack file gives.
func Statics(s *spec.Stack) (all []Static) {
	for _, i := range s.Instances() {
		for _, f := range s.Containers[i.Container].Interfaces {
			if a := asked(f); a.IsValid() || f.MAC != "" {
				all = append(all, Static{f.Network, i.Name, a, f.MAC})
			}
		}
	}
	return all
}

// asked is the IPv4 address that is declared, if one is.
func asked(f spec.Interface) netip.Addr {
	for _, text := range f.Address {
		if p, err := netip.ParsePrefix(text); err == nil && p.Addr().Is4() {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// book has do change the stack's leases, one at a time, and keeps what came of
// it. In the place of a book that is damaged, which is set aside, another is written
// from the records of the instances: each has what it was given.
func (s *Stack) book(do func(*lease.Book) error) error {
	s.leases.Lock()
	defer s.leases.Unlock()
	path := s.o.Home.Leases(s.Name)
	b, err := lease.Open(path, s.Name)
	if store.Damaged(err) {
		if _, err := store.SetAside(path); err != nil {
			return fmt.Errorf("set the damaged leases aside: %w", err)
		}
		b, err = s.rebuildBook()
	}
	if err != nil {
		return err
	}
	if err := do(b); err != nil {
		return err
	}
	return b.Save()
}

// rebuildBook returns the leases that the records of the instances tell of.
func (s *Stack) rebuildBook() (*lease.Book, error) {
	b := lease.New(s.o.Home.Leases(s.Name), s.Name)
	names, err := s.o.Home.ListInstances(s.Name)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		rec, err := s.o.Home.ReadInstance(s.Name, name)
		if err != nil {
			continue // Observe reports it
		}
		for _, i := range rec.Interfaces {
			b.Recover(recovered(name, i))
		}
	}
	return b, nil
}

// recovered is what an instance and its network were given, as its record has it.
func recovered(instance string, i store.Interface) (lease.Network, lease.Lease) {
	n := lease.Network{Subnet: i.On.Gateway.Masked(), Gateway: i.On.Gateway.Addr()}
	if i.On.Gateway6.IsValid() {
		n.Subnet6, n.Gateway6 = i.On.Gateway6.Masked(), i.On.Gateway6.Addr()
	}
	l := lease.Lease{Network: i.Network, Instance: instance, MAC: parseMAC(i.MAC)}
	for _, p := range i.Addresses {
		if p.Addr().Is4() {
			l.Address = p.Addr()
		} else {
			l.Address6 = p.Addr()
		}
	}
	return n, l
}

// defineNetwork gives a network what its declaration wants, and records that.
func (s *Stack) defineNetwork(name string, n spec.Network) error {
	avoid, err := lease.HostPrefixes()
	if err != nil {
		return err
	}
	if err := s.record(); err != nil { // the folder
		return err
	}
	err = s.book(func(b *lease.Book) error {
		if _, err := b.Define(name, wish(n), avoid); err != nil {
			return err
		}
		return s.giveStatics(b, name)
	})
	if err != nil {
		return err
	}
	return s.declare(func(all []state.Network) []state.Network {
		return append(all, state.Network{Name: name, Subnet: n.Subnet, Gateway: n.Gateway, Internal: n.Internal, MTU: n.MTU})
	}, name)
}

// giveStatics gives the declared addresses before any is given by chance.
func (s *Stack) giveStatics(b *lease.Book, network string) error {
	for _, st := range s.Statics {
		if st.Network != network || !st.Address.IsValid() {
			continue
		}
		if _, err := b.Give(network, st.Instance, st.Address, parseMAC(st.MAC)); err != nil {
			return err
		}
	}
	return nil
}

// removeNetwork forgets a network. It need not be there.
func (s *Stack) removeNetwork(name string) error {
	if _, err := os.Stat(s.o.Home.Stack(s.Name)); os.IsNotExist(err) {
		return nil
	}
	if err := s.book(func(b *lease.Book) error { b.Drop(name); return nil }); err != nil {
		return err
	}
	return s.declare(func(all []state.Network) []state.Network { return all }, name)
}

// declare changes the record of the declared networks: that of name goes, then
// add has its way.
func (s *Stack) declare(add func([]state.Network) []state.Network, name string) error {
	s.leases.Lock()
	defer s.leases.Unlock()
	all, err := s.o.Home.ReadNetworks(s.Name)
	if store.Damaged(err) { // the plan, which did not know of them, declares each anew
		_, err = store.SetAside(s.o.Home.NetworkRecord(s.Name))
	}
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(n state.Network) bool { return n.Name == name })
	all = add(all)
	slices.SortFunc(all, func(a, b state.Network) int { return strings.Compare(a.Name, b.Name) })
	return s.o.Home.WriteNetworks(s.Name, all)
}

func wish(n spec.Network) lease.Wish {
	var w lease.Wish
	for _, text := range n.Subnet {
		if p := netip.MustParsePrefix(text); p.Addr().Is4() {
			w.Subnet = p
		} else {
			w.IPv6, w.Subnet6 = true, p
		}
	}
	for _, text := range n.Gateway {
		if a := netip.MustParseAddr(text); a.Is4() {
			w.Gateway = a
		}
	}
	return w
}

func parseMAC(text string) (m frame.MAC) {
	if hw, err := net.ParseMAC(text); err == nil { // spec has checked it; "" is none
		copy(m[:], hw)
	}
	return m
}

// interfaces gives an instance its places on networks.
func (s *Stack) interfaces(instance string, c spec.Container) (all []store.Interface, err error) {
	if len(c.Interfaces) == 0 {
		return nil, nil
	}
	declared, err := s.o.Home.ReadNetworks(s.Name)
	if err != nil {
		return nil, err
	}
	err = s.book(func(b *lease.Book) error {
		way := false // the first way out is the machine's
		for _, f := range c.Interfaces {
			at := slices.IndexFunc(declared, func(n state.Network) bool { return n.Name == f.Network })
			if at < 0 {
				return errs.New(errs.NotFound, "network %q was not made", f.Network)
			}
			i, err := s.place(b, instance, f, declared[at])
			if err != nil {
				return err
			}
			if f.Gateway == "" && (way || declared[at].Internal) {
				i.Gateways = nil
			}
			way = way || len(i.Gateways) > 0
			all = append(all, i)
		}
		return nil
	})
	return all, err
}

// place gives an instance a place on one network.
func (s *Stack) place(b *lease.Book, instance string, f spec.Interface, n state.Network) (i store.Interface, err error) {
	if err := s.unused(b, instance, f); err != nil {
		return i, err
	}
	l, err := b.Give(f.Network, instance, asked(f), parseMAC(f.MAC))
	if err != nil {
		return i, err
	}
	given, _ := b.Network(f.Network)
	mtu := cmp.Or(n.MTU, defaultMTU)
	i = store.Interface{Network: f.Network, MAC: l.MAC.String(), MTU: cmp.Or(f.MTU, mtu), Aliases: f.Aliases,
		Addresses: []netip.Prefix{netip.PrefixFrom(l.Address, given.Subnet.Bits())}, Gateways: []netip.Addr{given.Gateway},
		On: store.Network{Gateway: netip.PrefixFrom(given.Gateway, given.Subnet.Bits()), MAC: lease.MAC(given.Gateway).String(), MTU: mtu, Internal: n.Internal}}
	if l.Address6.IsValid() {
		i.Addresses = append(i.Addresses, netip.PrefixFrom(l.Address6, given.Subnet6.Bits()))
		i.Gateways = append(i.Gateways, given.Gateway6)
		i.On.Gateway6 = netip.PrefixFrom(given.Gateway6, given.Subnet6.Bits())
	}
	switch {
	case i.MTU > mtu:
		return i, errs.New(errs.InvalidArgument, "interface on network %q: an MTU of %d bytes is over the network's %d", f.Network, i.MTU, mtu)
	case f.Gateway == "none":
		i.Gateways = nil
	case f.Gateway != "":
		i.Gateways = []netip.Addr{netip.MustParseAddr(f.Gateway)} // spec has checked it
	}
	return i, nil
}

// unused makes sure that nobody runs with the address that is declared. Who has it
// by chance and does not run gets another when it is made anew.
func (s *Stack) unused(b *lease.Book, instance string, f spec.Interface) error {
	a := asked(f)
	for _, l := range b.Leases(f.Network) {
		if !a.IsValid() || l.Address != a || l.Instance == instance {
			continue
		}
		alive, err := s.o.Home.Alive(s.Name, l.Instance)
		if err == nil && alive {
			err = errs.WithHint(errs.New(errs.FailedPrecondition, "%s of network %q is %s's, which runs", a, f.Network, l.Instance),
				"declare it before, or: vzcompose rm -s %s", l.Instance)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// switchLimit is how long a switch may take to end.
const switchLimit = 10 * time.Second

// EndSwitch ends the stack's switch, where there is one. Nobody should be on its
// networks.
func (s *Stack) EndSwitch(ctx context.Context) error {
	path := s.o.Home.SwitchLock(s.Name)
	if _, err := os.Stat(path); os.IsNotExist(err) {
		return nil
	}
	ctx, cancel := limited(ctx, switchLimit, "end the switch")
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	asked := false
	for {
		held, err := filelock.Held(path)
		if err != nil || !held {
			return err
		}
		if pid, err := filelock.Signed(path); err == nil && !asked {
			asked = true
			if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("end the switch: %w", err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// RemoveStack removes what is left of a stack of which every instance is gone: its
// switch and its folder. While it has volumes, the record of whose they are stays.
// Where an instance is left nothing is removed. The caller holds the stack's lock.
func (s *Stack) RemoveStack(ctx context.Context) error {
	left, err := s.o.Home.ListInstances(s.Name)
	if err != nil || len(left) > 0 {
		return err
	}
	if err := s.EndSwitch(ctx); err != nil {
		return err
	}
	volumes, err := s.volumes().List()
	if err != nil {
		return err
	}
	return s.o.Home.RemoveStack(s.Name, len(volumes) > 0)
}

// returnLeases takes back what an instance that is removed was given. A damaged
// book is written anew without it when it is needed next.
func (s *Stack) returnLeases(instance string) error {
	if _, err := lease.Open(s.o.Home.Leases(s.Name), s.Name); store.Damaged(err) {
		return nil
	}
	if _, err := os.Stat(s.o.Home.Leases(s.Name)); os.IsNotExist(err) {
		return nil
	}
	return s.book(func(b *lease.Book) error { b.Return(instance); return nil })
}

// leasesOf answers what an instance has been given, for undo.
func (s *Stack) leasesOf(instance string) (had []lease.Lease, err error) {
	if _, err := os.Stat(s.o.Home.Leases(s.Name)); os.IsNotExist(err) {
		return nil, nil
	}
	s.leases.Lock()
	defer s.leases.Unlock()
	b, err := lease.Open(s.o.Home.Leases(s.Name), s.Name)
	if err != nil {
		return nil, err
	}
	return b.Of(instance), nil
}

// restoreLeases undoes what was given to an instance since leasesOf.
func (s *Stack) restoreLeases(instance string, had []lease.Lease) error {
	now, err := s.leasesOf(instance)
	if err != nil || slices.Equal(now, had) {
		return err
	}
	return s.book(func(b *lease.Book) error { b.Restore(instance, had); return nil })
}

// describeWithUndo is instance, and pushes what takes back the leases that it gives.
func (s *Stack) describeWithUndo(ctx context.Context, un *undo.Stack, t planner.Target, c spec.Container, report func(event.Progress)) (store.Instance, error) {
	if len(c.Interfaces) == 0 {
		return s.instance(ctx, t, c, report)
	}
	had, err := s.leasesOf(t.Instance)
	if err != nil {
		return store.Instance{}, err
	}
	un.Push("give addresses", func(context.Context) error { return s.restoreLeases(t.Instance, had) })
	return s.instance(ctx, t, c, report)
}
