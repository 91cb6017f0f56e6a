// Package network is the switch of a stack: its networks, each a segment with a
// gateway, one resolver for all of them, and the machines that join.
//
// It keeps nothing on disk and learns everything from who joins, so that a new
// switch that the same machines join is the same switch. There is no path from
// one network to another but a machine that is on both.
package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/network/frame"
	"github.com/vzcompose/vzcompose/internal/network/gateway"
	"github.com/vzcompose/vzcompose/internal/network/names"
	"github.com/vzcompose/vzcompose/internal/network/segment"
)

// Network is what a network is to be. It is what a shim tells the switch.
type Network struct {
	Name string `json:"name"`
	// V4 and V6 are the gateway's addresses with the length of their subnets'
	// prefixes. V6 is invalid where there is no IPv6.
	V4       netip.Prefix `json:"v4"`
	V6       netip.Prefix `json:"v6,omitzero"`
	MAC      frame.MAC    `json:"mac"` // of the gateway
	MTU      int          `json:"mtu"` // bytes
	Internal bool         `json:"internal,omitempty"`
}

// Machine is what the switch is told of a machine.
type Machine struct {
	Instance   string      `json:"instance"`
	Container  string      `json:"container"`
	Ready      bool        `json:"ready"` // names lead to it
	Interfaces []Interface `json:"interfaces"`
	// HostPorts are all that it reaches of the host.
	HostPorts []HostPorts `json:"host_ports,omitempty"`
}

// HostPorts are ports of the host's loopback.
type HostPorts = gateway.Ports

// Interface of a machine.
type Interface struct {
	Network string     `json:"network"`
	MAC     frame.MAC  `json:"mac"`
	V4      netip.Addr `json:"v4"`
	V6      netip.Addr `json:"v6,omitzero"`
	Aliases []string   `json:"aliases,omitempty"`
}

// Options of a switch.
type Options struct {
	// ResolvConf is the file that names the host's resolvers.
	ResolvConf string
	Limits     gateway.Limits
	// Dial makes connections from the host; nil: net.Dialer's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Switch of a stack. Make it with New.
type Switch struct {
	o     Options
	table *names.Table
	asked *names.Resolver

	subnets atomic.Pointer[[]netip.Prefix] // of the networks

	mu       sync.Mutex // guards the following, and is held while networks are made
	networks map[string]*network
	members  map[string]*Member // by instance
	closed   bool
}

// network is one that runs.
type network struct {
	Network
	segment *segment.Segment
	gateway *gateway.Gateway
	stop    context.CancelFunc
	serving sync.WaitGroup
}

// resolverPort is where gateways answer questions.
const resolverPort = 53

// New makes a switch without networks.
func New(o Options) *Switch {
	table := new(names.Table)
	return &Switch{o: o, table: table, asked: names.New(table, o.ResolvConf),
		networks: map[string]*network{}, members: map[string]*Member{}}
}

// Define makes a network. One that is there as n says stays; one that differs is
// made anew where no machine is on it, and else it is errs.FailedPrecondition.
func (s *Switch) Define(n Network) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errs.New(errs.FailedPrecondition, "the switch is closed")
	}
	if old := s.networks[n.Name]; old != nil {
		if old.Network == n {
			return nil
		}
		for _, m := range s.members {
			if slices.ContainsFunc(m.Interfaces, func(i Interface) bool { return i.Network == n.Name }) {
				return errs.New(errs.FailedPrecondition, "network %q is %v, and %s is on it", n.Name, old.V4.Masked(), m.Instance)
			}
		}
		delete(s.networks, n.Name)
		old.close()
	}
	made, err := s.open(n)
	if err != nil {
		return fmt.Errorf("make network %q: %w", n.Name, err)
	}
	s.networks[n.Name] = made
	s.publishLocked()
	s.table.SetNetwork(names.Network{Name: n.Name, V4: n.V4, V6: n.V6, Internal: n.Internal})
	return nil
}

func (s *Switch) open(n Network) (*network, error) {
	seg, err := segment.New(segment.Options{MTU: n.MTU})
	if err != nil {
		return nil, err
	}
	g, err := gateway.New(seg, gateway.Options{
		MAC: n.MAC, V4: n.V4, V6: n.V6, Internal: n.Internal, Denied: s.inside, Limits: s.o.Limits, Dial: s.o.Dial,
	})
	if err != nil {
		return nil, err
	}
	made := &network{Network: n, segment: seg, gateway: g}
	packets, err := g.ListenPacket(resolverPort)
	if err != nil {
		made.close()
		return nil, err
	}
	streams, err := g.Listen(resolverPort)
	if err != nil {
		made.close()
		return nil, err
	}
	var ctx context.Context
	ctx, made.stop = context.WithCancel(context.Background())
	// They serve until the network ends: the sockets are the stack's own and do
	// not break.
	for _, c := range packets {
		made.serving.Go(func() { _ = s.asked.ServePacket(ctx, n.Name, c) })
	}
	for _, l := range streams {
		made.serving.Go(func() { _ = s.asked.Serve(ctx, n.Name, l) })
	}
	return made, nil
}

func (n *network) close() {
	if n.stop != nil {
		n.stop()
		n.serving.Wait()
	}
	n.segment.Close()
	n.gateway.Close()
}

func (s *Switch) publishLocked() {
	var all []netip.Prefix
	for _, n := range s.networks {
		all = append(all, n.V4, n.V6)
	}
	s.subnets.Store(&all)
}

// inside reports whether a is in one of the networks: there is no way to it over
// the host. It takes no lock, since gateways ask while they are made and closed.
func (s *Switch) inside(a netip.Addr) bool {
	all := s.subnets.Load()
	return all != nil && slices.ContainsFunc(*all, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Close ends all networks and waits for them.
func (s *Switch) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, m := range s.members {
		s.removeLocked(m)
	}
	for _, n := range s.networks {
		n.close()
	}
	clear(s.networks)
}

// Networks answers what each network counts, sorted by name.
func (s *Switch) Networks() []NetworkStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []NetworkStatus
	for _, n := range s.networks {
		st := NetworkStatus{Network: n.Network, Gateway: n.gateway.Counters()}
		for _, m := range s.members {
			for _, p := range m.plugs {
				if p.on == n {
					st.Members = append(st.Members, MemberStatus{m.Instance, p.id.V4, p.port.Counters()})
				}
			}
		}
		slices.SortFunc(st.Members, func(a, b MemberStatus) int { return a.Address.Compare(b.Address) })
		all = append(all, st)
	}
	slices.SortFunc(all, func(a, b NetworkStatus) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// NetworkStatus is a network with what it counts.
type NetworkStatus struct {
	Network
	Gateway gateway.Counters `json:"gateway"`
	Members []MemberStatus   `json:"members"`
}

// MemberStatus is a machine on a network with what its port counts.
type MemberStatus struct {
	Instance string           `json:"instance"`
	Address  netip.Addr       `json:"address"`
	Port     segment.Counters `json:"port"`
}
