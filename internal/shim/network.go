package shim

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/network"
	"github.com/vzcompose/vzcompose/internal/network/frame"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/internal/switchproc"
	"github.com/vzcompose/vzcompose/internal/switchproto"
	"github.com/vzcompose/vzcompose/vmm"
)

// Limits of being on networks.
const (
	joinLimit  = 30 * time.Second // from a machine to its place on them
	switchIdle = 10 * time.Second // until one ends that nobody is on
)

// membership is a machine's place on the switch of its stack. The machine keeps
// its frame sockets: a switch that is lost is replaced, and the machine does not
// notice.
type membership struct {
	on   *switchproto.Membership // nil: the instance is on no network
	end  context.CancelFunc
	over sync.WaitGroup
}

// join puts a machine on the networks of its instance, and keeps it there until
// leave.
func (s *shim) join(ctx context.Context, m vmm.Machine) (*membership, error) {
	if len(s.inst.Interfaces) == 0 {
		return &membership{end: func() {}}, nil
	}
	cards, ok := vmm.As[vmm.Networker](m)
	if !ok {
		return nil, errs.New(errs.Unsupported, "this machine has no network cards")
	}
	o := switchproto.MemberOptions{Path: s.launch.Home.SwitchSocket(s.inst.Stack), Start: s.startSwitch, Lost: s.networksLost, Back: s.networksBack}
	for i := range s.inst.Interfaces {
		f, err := cards.Frames(i)
		if err != nil {
			return nil, fmt.Errorf("network card %d: %w", i, err)
		}
		o.Frames = append(o.Frames, f)
	}
	var err error
	if o.Join, err = joinOf(s.inst); err != nil {
		return nil, err
	}
	jctx, cancel := limit(ctx, joinLimit, "join the networks")
	defer cancel()
	on, err := switchproto.Become(jctx, o)
	if err != nil {
		return nil, err
	}
	stay, end := context.WithCancel(context.Background())
	mb := &membership{on: on, end: end}
	mb.over.Go(func() { s.tellReady(stay, on) })
	return mb, nil
}

// leave takes the machine off its networks.
func (mb *membership) leave() {
	mb.end()
	mb.over.Wait()
	if mb.on != nil {
		mb.on.Leave()
	}
}

// startSwitch starts the switch of the stack.
func (s *shim) startSwitch(ctx context.Context) error {
	if len(s.launch.Switch) == 0 {
		return errs.New(errs.FailedPrecondition, "there is no switch, and nobody said how to start one")
	}
	home, stack := s.launch.Home, s.inst.Stack
	return switchproc.Start(ctx, s.launch.Switch, switchproc.Orders{Socket: home.SwitchSocket(stack), Lock: home.SwitchLock(stack),
		Log: home.SwitchLog(stack), ResolvConf: "/etc/resolv.conf", Idle: switchIdle})
}

// networksLost and networksBack report an outage of the instance's networks.
func (s *shim) networksLost(why error) {
	s.tasks.Go(func() { s.send(func() { s.enter("disconnect", map[string]string{"cause": why.Error()}) }) })
}

func (s *shim) networksBack() {
	s.tasks.Go(func() { s.send(func() { s.enter("connect", nil) }) })
}

// tellReady has names lead to the machine while it is ready, until ctx ends.
func (s *shim) tellReady(ctx context.Context, on *switchproto.Membership) {
	for {
		st, changed := s.status.read()
		on.SetReady(st.State == lifecycle.Started && (st.Health == "" || st.Health == healthHealthy))
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// joinOf is what the switch is told of an instance.
func joinOf(inst store.Instance) (j switchproto.Join, err error) {
	j.Machine = network.Machine{Instance: inst.Name, Container: inst.Container}
	for _, p := range inst.HostPorts {
		j.Machine.HostPorts = append(j.Machine.HostPorts, network.HostPorts{Low: p.Low, High: p.High, Protocol: p.Protocol})
	}
	for _, i := range inst.Interfaces {
		at := network.Interface{Network: i.Network, Aliases: i.Aliases}
		if at.MAC, err = frame.ParseMAC(i.MAC); err != nil {
			return j, errs.New(errs.DataLoss, "the record's MAC: %w", err)
		}
		for _, a := range i.Addresses {
			if a.Addr().Is4() {
				at.V4 = a.Addr()
			} else {
				at.V6 = a.Addr()
			}
		}
		j.Machine.Interfaces = append(j.Machine.Interfaces, at)
		n := network.Network{Name: i.Network, V4: i.On.Gateway, V6: i.On.Gateway6, MTU: i.On.MTU, Internal: i.On.Internal}
		if n.MAC, err = frame.ParseMAC(i.On.MAC); err != nil {
			return j, errs.New(errs.DataLoss, "the record's MAC: %w", err)
		}
		j.Networks = append(j.Networks, n)
	}
	return j, nil
}

// guestInterfaces is what the agent is told of them.
func guestInterfaces(inst store.Instance) (all []agentproto.Interface) {
	for n, i := range inst.Interfaces {
		all = append(all, agentproto.Interface{Device: net.HardwareAddr(vmm.CardMAC(n)).String(), Name: "eth" + strconv.Itoa(n), MAC: i.MAC,
			MTU: i.MTU, Addresses: append([]netip.Prefix{}, i.Addresses...), Gateways: i.Gateways})
	}
	return all
}
