package lease

import (
	"net/netip"
	"slices"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/network/frame"
)

// Define gives a network its subnets. avoid are the prefixes of the host's own
// interfaces, of which none is picked. What the network has already it keeps
// where w leaves it open; where w says otherwise it gets anew, and all its
// leases are void.
func (b *Book) Define(name string, w Wish, avoid []netip.Prefix) (Network, error) {
	had, there := b.networks[name]
	n := Network{Subnet: w.Subnet.Masked(), Gateway: w.Gateway}
	if !n.Subnet.IsValid() {
		n.Subnet = had.Subnet
		if !there || overlaps(n.Subnet, b.others(name)) {
			var err error
			if n.Subnet, err = pick(b.stack+"/"+name, append(b.others(name), avoid...)); err != nil {
				return Network{}, err
			}
		}
	}
	if err := b.fits(name, n.Subnet); err != nil {
		return Network{}, err
	}
	first, last := usable(n.Subnet)
	if !n.Gateway.IsValid() {
		n.Gateway = first
	}
	if n.Gateway.Less(first) || last.Less(n.Gateway) {
		return Network{}, errs.New(errs.InvalidArgument, "the gateway %v of network %q is not within %v and %v", n.Gateway, name, first, last)
	}
	if w.IPv6 {
		n.Subnet6 = w.Subnet6.Masked()
		if !n.Subnet6.IsValid() {
			n.Subnet6 = local(b.stack + "/" + name)
		}
		n.Gateway6 = pair(n.Subnet6, n.Gateway)
	}
	if there && n != had {
		b.leases = slices.DeleteFunc(b.leases, func(l Lease) bool { return l.Network == name })
	}
	b.networks[name] = n
	return n, nil
}

// fits checks what a subnet has to be.
func (b *Book) fits(name string, p netip.Prefix) error {
	if !p.Addr().Is4() || p.Bits() < 8 || p.Bits() > 29 {
		return errs.New(errs.InvalidArgument, "the subnet %v of network %q is not an IPv4 prefix of 8 to 29 bits", p, name)
	}
	for other, n := range b.networks {
		if other != name && n.Subnet.Overlaps(p) {
			return errs.New(errs.InvalidArgument, "the subnet %v of network %q overlaps %v of network %q", p, name, n.Subnet, other)
		}
	}
	return nil
}

// others answers the subnets of the networks but name.
func (b *Book) others(name string) (all []netip.Prefix) {
	for other, n := range b.networks {
		if other != name {
			all = append(all, n.Subnet)
		}
	}
	return all
}

// Recover enters what an instance was given, as its own record has it, in a book
// that was lost. What contradicts the book stays out of it: one record may be older
// than another.
func (b *Book) Recover(n Network, l Lease) {
	had, there := b.networks[l.Network]
	if !there {
		b.networks[l.Network] = n
	}
	b.leases = append(b.leases, l)
	if there && had != n || b.check() != nil {
		b.leases = b.leases[:len(b.leases)-1]
		if !there {
			delete(b.networks, l.Network)
		}
	}
}

// Drop forgets a network and all that was given on it.
func (b *Book) Drop(network string) {
	delete(b.networks, network)
	b.leases = slices.DeleteFunc(b.leases, func(l Lease) bool { return l.Network == network })
}

// Give answers the lease of an instance on a network: the address asked for, or
// the one that it has, or one that nobody has. Who has an address by chance that
// another asks for loses its lease, so give those first that ask. A MAC of zeroes means the one
// that follows from the address.
func (b *Book) Give(network, instance string, asked netip.Addr, mac frame.MAC) (Lease, error) {
	n, ok := b.networks[network]
	if !ok {
		return Lease{}, errs.New(errs.NotFound, "network %q", network)
	}
	l := Lease{Network: network, Instance: instance, Address: asked, Static: asked.IsValid()}
	if at := b.find(l); at >= 0 && !l.Static {
		l.Address = b.leases[at].Address
	}
	var err error
	if l.Static {
		err = b.free(n, l)
	} else if !l.Address.IsValid() {
		l.Address, err = b.next(n, l)
	}
	if err != nil {
		return Lease{}, err
	}
	l.Address6 = pair(n.Subnet6, l.Address)
	if l.MAC = mac; mac == (frame.MAC{}) {
		l.MAC = MAC(l.Address)
	}
	if o, taken := b.mac(l); taken {
		return Lease{}, errs.New(errs.AlreadyExists, "%s of %s is the MAC of %s on network %q", l.MAC, instance, o, network)
	}
	if at := b.find(l); at >= 0 {
		b.leases[at] = l
	} else {
		b.leases = append(b.leases, l)
	}
	return l, nil
}

// find answers where the lease is that l's instance has, or -1.
func (b *Book) find(l Lease) int {
	return slices.IndexFunc(b.leases, func(o Lease) bool { return o.Network == l.Network && o.Instance == l.Instance })
}

// free checks an address that the stack file names, and takes it from who has it
// by chance.
func (b *Book) free(n Network, l Lease) error {
	first, last := usable(n.Subnet)
	if !l.Address.Is4() || l.Address.Less(first) || last.Less(l.Address) || l.Address == n.Gateway {
		return errs.New(errs.InvalidArgument, "%s cannot have %v on network %q, which has %v to %v without its gateway %v",
			l.Instance, l.Address, l.Network, first, last, n.Gateway)
	}
	for _, o := range b.leases {
		if o.Network == l.Network && o.Address == l.Address && o.Instance != l.Instance && o.Static {
			return errs.New(errs.AlreadyExists, "%v of %s is the address of %s on network %q", l.Address, l.Instance, o.Instance, l.Network)
		}
	}
	b.leases = slices.DeleteFunc(b.leases, func(o Lease) bool {
		return o.Network == l.Network && o.Address == l.Address && o.Instance != l.Instance
	})
	return nil
}

// next answers the first address that nobody has.
func (b *Book) next(n Network, l Lease) (netip.Addr, error) {
	taken := map[netip.Addr]bool{n.Gateway: true}
	for _, o := range b.leases {
		if o.Network == l.Network && o.Instance != l.Instance {
			taken[o.Address] = true
		}
	}
	first, last := usable(n.Subnet)
	for a := first; !last.Less(a); a = a.Next() {
		if !taken[a] {
			return a, nil
		}
	}
	return netip.Addr{}, errs.WithHint(errs.New(errs.ResourceExhausted, "network %q has no address left in %v for %s", l.Network, n.Subnet, l.Instance),
		"give the network a larger subnet")
}

// mac answers who else has l's MAC.
func (b *Book) mac(l Lease) (instance string, taken bool) {
	if g := b.networks[l.Network].Gateway; l.MAC == MAC(g) {
		return "the gateway", true
	}
	for _, o := range b.leases {
		if o.Network == l.Network && o.MAC == l.MAC && o.Instance != l.Instance {
			return o.Instance, true
		}
	}
	return "", false
}

// Return takes back all leases of an instance.
func (b *Book) Return(instance string) {
	b.leases = slices.DeleteFunc(b.leases, func(l Lease) bool { return l.Instance == instance })
}

// Of answers the leases of an instance.
func (b *Book) Of(instance string) (all []Lease) {
	for _, l := range b.leases {
		if l.Instance == instance {
			all = append(all, l)
		}
	}
	return all
}

// Restore gives an instance the leases that it had, as Of answered them, in the
// place of those that it has. What somebody else has been given since stays theirs.
func (b *Book) Restore(instance string, had []Lease) {
	b.Return(instance)
	for _, l := range had {
		taken := func(o Lease) bool { return o.Network == l.Network && (o.Address == l.Address || o.MAC == l.MAC) }
		if _, there := b.networks[l.Network]; there && !slices.ContainsFunc(b.leases, taken) {
			b.leases = append(b.leases, l)
		}
	}
}
