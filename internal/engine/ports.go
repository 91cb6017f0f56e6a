package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
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

// checkPorts finds the ports of the host that a plan would open and that it cannot
// open: somebody has them, or the user may not. The error names both sides of each,
// and where it is declared. The shim that opens a port is a process of the same user
// and the same program, so what holds here holds there, unless somebody takes a port
// in between: then the start tells.
func (s *Stack) checkPorts(ctx context.Context, plan *planner.Plan, world state.World) error {
	var freed []state.Port
	for _, step := range plan.Steps {
		if op, ok := step.Op.(planner.Stop); ok {
			freed = append(freed, portsOf(world, op.Instance)...)
		}
	}
	var all []refusal
	for _, w := range s.wanted(plan, world) {
		for i, p := range w.ports {
			if err := tryPort(p, freed); err != nil {
				all = append(all, refusal{w.instance, s.placeOfPort(w.container, i), p, err})
			}
		}
	}
	return s.refused(ctx, all)
}

// refusal is a port of an instance that cannot be opened.
type refusal struct {
	instance, place string
	port            state.Port
	err             error
}

// refused is one error of all refusals.
func (s *Stack) refused(ctx context.Context, all []refusal) error {
	lowest := unprivileged
	for _, r := range all {
		if errors.Is(r.err, syscall.EACCES) {
			lowest = min(lowest, r.port.Published[0])
		}
	}
	var told []error
	for _, r := range all {
		at := strconv.Itoa(r.port.Published[0])
		if r.port.Published[1] != r.port.Published[0] {
			at += "-" + strconv.Itoa(r.port.Published[1])
		}
		what := fmt.Sprintf("%sport %s/%s of %s, which %s asks for, ", r.place, at, r.port.Protocol, r.port.HostIP, r.instance)
		switch {
		case errors.Is(r.err, syscall.EADDRINUSE):
			told = append(told, errs.New(errs.AlreadyExists, "%sis taken by %s", what, s.holder(ctx, r.port)))
		case errors.Is(r.err, syscall.EACCES):
			told = append(told, errs.WithHint(errs.New(errs.PermissionDenied, "%sis refused to this user", what), "%s",
				s.LowPortsHint(lowest, r.port.Published[0])))
		default:
			told = append(told, errs.New(errs.FailedPrecondition, "%scannot be opened: %w", what, r.err))
		}
	}
	return errors.Join(told...)
}

// placeOfPort is where the ith port of a container is declared, as errors begin; "":
// not known.
func (s *Stack) placeOfPort(container string, i int) string {
	if all := s.Ports[container]; i < len(all) {
		return all[i].String() + ": "
	}
	return ""
}

// want is an instance that a plan starts, with its ports.
type want struct {
	container, instance string
	ports               []state.Port
}

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
		w := want{container: op.Container, instance: op.Instance}
		if c, ok := declared[op.Instance]; ok {
			for _, p := range c.Ports {
				w.ports = append(w.ports, state.Port{Target: p.Target, Published: p.Published, HostIP: p.HostIP, Protocol: p.Protocol})
			}
		} else if rec, err := s.o.Home.ReadInstance(s.Name, op.Instance); err == nil { // otherwise the start tells
			w.ports = rec.Ports
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

// unprivileged is the first port that every user may open unless the host says
// otherwise.
const unprivileged = 1024

// tryPort opens a port and closes it; of a range the first that can be opened. Those
// of freed are open now, and will not be.
func tryPort(p state.Port, freed []state.Port) error {
	if p.Published[0] == 0 {
		return nil
	}
	var all error
	for at := p.Published[0]; at <= p.Published[1]; at++ {
		one := p
		one.Published = [2]int{at, at}
		if slices.ContainsFunc(freed, one.Overlaps) {
			return nil
		}
		err := openPort(one)
		if err == nil {
			return nil
		}
		if all == nil || errors.Is(err, syscall.EADDRINUSE) { // the others may be the user's
			all = err
		}
	}
	return all
}

func openPort(p state.Port) error {
	network, address := p.Listen(p.Published[0])
	var c io.Closer
	var err error
	if p.Protocol == "udp" {
		c, err = net.ListenPacket(network, address)
	} else {
		c, err = net.Listen(network, address)
	}
	if err != nil {
		return err
	}
	return c.Close()
}

// LowestPort is the first port of the host that this user may publish.
func LowestPort() int {
	for at := 1; at < unprivileged; at++ {
		err := openPort(state.Port{Published: [2]int{at, at}, HostIP: spec.DefaultHostIP, Protocol: "tcp"})
		if !errors.Is(err, syscall.EACCES) && !errors.Is(err, syscall.EPERM) {
			return at
		}
	}
	return unprivileged
}

// holder says who has a port, as far as that is known.
func (s *Stack) holder(ctx context.Context, p state.Port) string {
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
			if slices.ContainsFunc(i.Ports, p.Overlaps) {
				return fmt.Sprintf("%s of stack %s", i.Name, name)
			}
		}
	}
	return "another program of this host"
}
