package engine

import (
	"context"
	"net/netip"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/network"
	"github.com/vzcompose/vzcompose/internal/network/lease"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/switchproto"
)

// NetworkInfo is a network of a stack: what is declared, what was given, and
// where its switch runs what that counts.
type NetworkInfo struct {
	state.Network
	Given  lease.Network `json:"given"`
	Leases []lease.Lease `json:"leases,omitempty"`
	// Now is nil where nobody is on the network.
	Now *network.NetworkStatus `json:"now,omitempty"`
}

// Subnets are what was given, that of IPv4 first.
func (n NetworkInfo) Subnets() (all []netip.Prefix) {
	all = append(all, n.Given.Subnet)
	if n.Given.Subnet6.IsValid() {
		all = append(all, n.Given.Subnet6)
	}
	return all
}

// inspectLimit is how long a switch may take to say what it counts.
const inspectLimit = 5 * time.Second

// Networks answers the networks of the stack, sorted by name.
func (s *Stack) Networks(ctx context.Context) ([]NetworkInfo, error) {
	if err := s.CheckOwner(); err != nil {
		return nil, err
	}
	declared, err := s.o.Home.ReadNetworks(s.Name)
	if err != nil || len(declared) == 0 {
		return nil, err
	}
	b, err := lease.Open(s.o.Home.Leases(s.Name), s.Name)
	if err != nil {
		return nil, err
	}
	now, err := s.inspectSwitch(ctx)
	if err != nil {
		return nil, err
	}
	var all []NetworkInfo
	for _, n := range declared {
		i := NetworkInfo{Network: n, Leases: b.Leases(n.Name)}
		i.Given, _ = b.Network(n.Name)
		for _, st := range now {
			if st.Name == n.Name {
				i.Now = &st
			}
		}
		all = append(all, i)
	}
	return all, nil
}

// inspectSwitch asks the switch; none is fine.
func (s *Stack) inspectSwitch(ctx context.Context) ([]network.NetworkStatus, error) {
	ctx, cancel := limited(ctx, inspectLimit, "ask the switch")
	defer cancel()
	c, err := switchproto.Dial(ctx, s.o.Home.SwitchSocket(s.Name))
	if errs.Is(err, errs.Unavailable) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Inspect(ctx)
}
