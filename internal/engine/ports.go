package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"syscall"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/planner"
	"github.com/vzcompose/vzcompose/spec"
)

// Check finds what a plan lacks of the host, and what it would take of it and that
// somebody has, before anything is done.
func (s *Stack) Check(ctx context.Context, plan *planner.Plan, world state.World) error {
	if err := s.checkHost(ctx, plan); err != nil {
		return err
	}
	return errors.Join(s.checkPorts(ctx, plan, world), s.checkDisks(plan))
}

// checkPorts finds the ports of the host that a plan would open and that somebody
// has. The error names both sides of each. Whether a range has a free one, the
// start tells.
func (s *Stack) checkPorts(ctx context.Context, plan *planner.Plan, world state.World) error {
	var freed []state.Port
	for _, step := range plan.Steps {
		if op, ok := step.Op.(planner.Stop); ok {
			freed = append(freed, portsOf(world, op.Instance)...)
		}
	}
	var all []error
	for _, w := range s.wanted(plan, world) {
		for _, p := range w.ports {
			if p.Published[0] == 0 || p.Published[0] != p.Published[1] || slices.ContainsFunc(freed, p.same) {
				continue
			}
			if err := tryPort(p.Port); errors.Is(err, syscall.EADDRINUSE) {
				all = append(all, errs.New(errs.AlreadyExists, "port %d/%s of %s, which %s asks for, is taken by %s",
					p.Published[0], p.Protocol, p.HostIP, w.instance, s.holder(ctx, p)))
			}
		}
	}
	return errors.Join(all...)
}

// want is an instance that a plan starts, with its ports.
type want struct {
	instance string
	ports    []port
}

type port struct{ state.Port }

func (p port) same(o state.Port) bool {
	return p.Published == o.Published && p.Protocol == o.Protocol && (p.HostIP == o.HostIP || anyHost(p.HostIP) || anyHost(o.HostIP))
}

func anyHost(ip string) bool { return ip == "0.0.0.0" || ip == "::" }

// wanted are the instances that a plan starts and that have no port open.
func (s *Stack) wanted(plan *planner.Plan, world state.World) (all []want) {
	declared := map[string]spec.Container{}
	for _, step := range plan.Steps {
		switch op := step.Op.(type) {
		case planner.Create:
			declared[op.Instance] = op.Spec
		case planner.Update:
			declared[op.Instance] = op.Spec
		}
	}
	stopped := map[string]bool{}
	for _, step := range plan.Steps {
		if op, ok := step.Op.(planner.Stop); ok {
			stopped[op.Instance] = true
		}
	}
	for _, step := range plan.Steps {
		op, ok := step.Op.(planner.Start)
		if !ok || len(portsOf(world, op.Instance)) > 0 && !stopped[op.Instance] {
			continue
		}
		w := want{instance: op.Instance}
		if c, ok := declared[op.Instance]; ok {
			for _, p := range c.Ports {
				w.ports = append(w.ports, port{state.Port{Target: p.Target, Published: p.Published, HostIP: p.HostIP, Protocol: p.Protocol}})
			}
		} else if rec, err := s.o.Home.ReadInstance(s.Name, op.Instance); err == nil { // otherwise the start tells
			for _, p := range rec.Ports {
				w.ports = append(w.ports, port{p})
			}
		}
		all = append(all, w)
	}
	return all
}

func portsOf(world state.World, instance string) []state.Port {
	for _, i := range world.Instances {
		if i.Name == instance {
			return i.Ports
		}
	}
	return nil
}

// tryPort opens a port and closes it.
func tryPort(p state.Port) error {
	address := net.JoinHostPort(p.HostIP, strconv.Itoa(p.Published[0]))
	if p.Protocol == "udp" {
		c, err := net.ListenPacket("udp", address)
		if err == nil {
			err = c.Close()
		}
		return err
	}
	l, err := net.Listen("tcp", address)
	if err == nil {
		err = l.Close()
	}
	return err
}

// holder says who has a port, as far as that is known.
func (s *Stack) holder(ctx context.Context, p port) string {
	stacks, err := s.o.Home.ListStacks()
	if err != nil {
		return "somebody"
	}
	for _, name := range stacks {
		w, err := (&Stack{Engine: s.Engine, Name: name}).Observe(ctx, nil)
		if err != nil {
			continue // another may have it
		}
		for _, i := range w.Instances {
			if slices.ContainsFunc(i.Ports, p.same) {
				return fmt.Sprintf("%s of stack %s", i.Name, name)
			}
		}
	}
	return "another program of this host"
}
