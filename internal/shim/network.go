package shim

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
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
	joinLimit   = 30 * time.Second       // from a machine to its place on them
	rejoinPause = 100 * time.Millisecond // between two tries, where a switch is lost
	switchIdle  = 10 * time.Second       // until one ends that nobody is on
	readyLimit  = 5 * time.Second        // for a switch to take a word
)

// membership is a machine's place on the switch of its stack. The machine keeps
// its frame sockets: a switch that is lost is replaced, and the machine does not
// notice.
type membership struct {
	s      *shim
	frames []*os.File // of the machine
	end    context.CancelFunc
	over   sync.WaitGroup
}

// join puts a machine on the networks of its instance, and keeps it there until
// leave.
func (s *shim) join(ctx context.Context, m vmm.Machine) (*membership, error) {
	mb := &membership{s: s, end: func() {}}
	if len(s.inst.Interfaces) == 0 {
		return mb, nil
	}
	cards, ok := vmm.As[vmm.Networker](m)
	if !ok {
		return nil, errs.New(errs.Unsupported, "this machine has no network cards")
	}
	for i := range s.inst.Interfaces {
		f, err := cards.Frames(i)
		if err != nil {
			return nil, fmt.Errorf("network card %d: %w", i, err)
		}
		mb.frames = append(mb.frames, f)
	}
	jctx, cancel := limit(ctx, joinLimit, "join the networks")
	defer cancel()
	c, err := mb.enter(jctx)
	if err != nil {
		return nil, err
	}
	stay, end := context.WithCancel(context.Background())
	mb.end = end
	mb.over.Go(func() { mb.stay(stay, c) })
	return mb, nil
}

// leave takes the machine off its networks.
func (mb *membership) leave() {
	mb.end()
	mb.over.Wait()
}

// enter joins the switch, which is started where there is none.
func (mb *membership) enter(ctx context.Context) (*switchproto.Client, error) {
	s := mb.s
	home, stack := s.launch.Home, s.inst.Stack
	c, err := switchproto.Dial(ctx, home.SwitchSocket(stack))
	if errs.Is(err, errs.Unavailable) {
		if len(s.launch.Switch) == 0 {
			return nil, errs.New(errs.FailedPrecondition, "there is no switch, and nobody said how to start one")
		}
		err = switchproc.Start(ctx, s.launch.Switch, switchproc.Orders{Socket: home.SwitchSocket(stack), Lock: home.SwitchLock(stack),
			Log: home.SwitchLog(stack), ResolvConf: "/etc/resolv.conf", Idle: switchIdle})
		if err == nil {
			c, err = switchproto.Dial(ctx, home.SwitchSocket(stack))
		}
	}
	if err != nil {
		return nil, err
	}
	j, err := joinOf(s.inst)
	if err == nil {
		err = c.Join(ctx, j, mb.frames)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// stay tells the switch whether names lead here, and joins the next one when it
// is lost, until ctx ends.
func (mb *membership) stay(ctx context.Context, c *switchproto.Client) {
	told := false
	for ctx.Err() == nil {
		st, changed := mb.s.status.read()
		ready := st.State == lifecycle.Started && (st.Health == "" || st.Health == healthHealthy)
		if ready != told {
			rctx, cancel := limit(ctx, readyLimit, "tell the switch")
			if err := c.SetReady(rctx, ready); err != nil {
				c.Close() // it is lost, or not worth keeping
			}
			cancel()
			told = ready
		}
		select {
		case <-changed:
		case <-ctx.Done():
		case <-c.Done():
			c, told = mb.again(ctx), false
		}
	}
	if c != nil {
		c.Close()
	}
}

// again joins until it succeeds; nil: ctx has ended.
func (mb *membership) again(ctx context.Context) *switchproto.Client {
	tick := time.NewTicker(rejoinPause)
	defer tick.Stop()
	for {
		jctx, cancel := limit(ctx, joinLimit, "join the networks")
		c, err := mb.enter(jctx)
		cancel()
		if err == nil {
			return c
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
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
