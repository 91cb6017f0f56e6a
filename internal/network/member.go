package network

import (
	"context"
	"fmt"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/network/frame"
	"github.com/vzcompose/vzcompose/internal/network/names"
	"github.com/vzcompose/vzcompose/internal/network/segment"
)

// Member is a machine that has joined.
type Member struct {
	Machine
	s     *Switch
	plugs []plug // one an interface
}

type plug struct {
	on   *network
	id   frame.Identity
	port *segment.Port
}

// Join puts a machine on its networks, with one connection an interface, which
// the switch owns from here on, also where it fails. A machine that is there
// already is replaced: its old connections are of no use to it.
func (s *Switch) Join(m Machine, conns []segment.Conn) (_ *Member, err error) {
	joined := &Member{Machine: m, s: s}
	defer func() {
		if err != nil {
			joined.unplug()
			for _, c := range conns {
				c.Close()
			}
		}
	}()
	if len(conns) != len(m.Interfaces) {
		return nil, errs.New(errs.InvalidArgument, "%d connections for %d interfaces of %s", len(conns), len(m.Interfaces), m.Instance)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.members[m.Instance]; old != nil {
		s.removeLocked(old)
	}
	for i, c := range conns {
		p, err := s.plugLocked(m.Interfaces[i], m.HostPorts, c)
		if err != nil {
			return nil, fmt.Errorf("join %s to network %q: %w", m.Instance, m.Interfaces[i].Network, err)
		}
		joined.plugs = append(joined.plugs, p)
	}
	s.members[m.Instance] = joined
	s.table.Set(joined.told())
	return joined, nil
}

func (s *Switch) plugLocked(i Interface, open []HostPorts, c segment.Conn) (plug, error) {
	n := s.networks[i.Network]
	switch {
	case n == nil:
		return plug{}, errs.New(errs.NotFound, "no such network")
	case !n.V4.Contains(i.V4) || i.V4 == n.V4.Addr():
		return plug{}, errs.New(errs.InvalidArgument, "%v is no machine's address there", i.V4)
	case i.V6.IsValid() && (!n.V6.IsValid() || !n.V6.Contains(i.V6) || i.V6 == n.V6.Addr()):
		return plug{}, errs.New(errs.InvalidArgument, "%v is no machine's address there", i.V6)
	}
	for _, m := range s.members {
		for _, o := range m.Interfaces {
			if o.Network == i.Network && (o.V4 == i.V4 || o.MAC == i.MAC) {
				return plug{}, errs.New(errs.AlreadyExists, "%v or %v is of %s", i.V4, i.MAC, m.Instance)
			}
		}
	}
	id := frame.Identity{MAC: i.MAC, V4: i.V4, V6: i.V6}
	if err := n.gateway.Join(id, open); err != nil {
		return plug{}, err
	}
	p, err := n.segment.Attach(id, c)
	if err != nil {
		n.gateway.Leave(id)
		return plug{}, err
	}
	return plug{n, id, p}, nil
}

// told is what the resolver is told of m.
func (m *Member) told() names.Machine {
	t := names.Machine{Instance: m.Instance, Container: m.Container, Ready: m.Ready}
	for _, i := range m.Interfaces {
		t.Interfaces = append(t.Interfaces, names.Interface{Network: i.Network, V4: i.V4, V6: i.V6, Aliases: i.Aliases})
	}
	return t
}

// SetReady says whether names lead to the machine.
func (m *Member) SetReady(ready bool) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	m.Ready = ready
	if m.s.members[m.Instance] == m {
		m.s.table.Set(m.told())
	}
}

// Leave takes the machine off its networks, and ends its connections.
func (m *Member) Leave() {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	if m.s.members[m.Instance] == m {
		m.s.removeLocked(m)
	}
}

func (s *Switch) removeLocked(m *Member) {
	delete(s.members, m.Instance)
	s.table.Remove(m.Instance)
	m.unplug()
}

// unplug waits for the ports, which wait for nothing of the switch.
func (m *Member) unplug() {
	for _, p := range m.plugs {
		p.port.Detach()
		p.on.gateway.Leave(p.id)
	}
}

// Wait answers when the first of the machine's connections ended, and how: nil
// after Leave.
func (m *Member) Wait(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, len(m.plugs))
	for _, p := range m.plugs {
		go func() { ended <- p.port.Wait(ctx) }()
	}
	if len(m.plugs) == 0 {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return <-ended
}
