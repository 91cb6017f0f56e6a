package planner

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/spec"
)

// model carries plans out on a world of data, as strictly as an engine: an
// operation that is not legal where it comes is a bug of the planner.
type model struct {
	stack     string
	instances map[string]*state.Instance
	volumes   map[string]state.Volume
	networks  map[string]spec.Network
	images    map[string]string
	oneShots  map[string]bool // containers whose process ends well when it is waited for or left alone
	illegal   []string
}

func newModel(s *spec.Stack) *model {
	m := &model{
		stack: s.Name, instances: map[string]*state.Instance{}, volumes: map[string]state.Volume{}, networks: map[string]spec.Network{},
		images: map[string]string{}, oneShots: map[string]bool{},
	}
	for _, c := range s.Containers {
		for dep, d := range c.DependsOn {
			m.oneShots[dep] = m.oneShots[dep] || d.Condition == spec.ConditionCompleted
		}
	}
	return m
}

func modelOf(s *spec.Stack, w state.World) *model {
	m := newModel(s)
	for _, o := range w.Instances {
		m.instances[o.Name] = &o
	}
	for _, v := range w.Volumes {
		m.volumes[v.Name] = v
	}
	for _, n := range w.Networks {
		m.networks[n.Name] = spec.Network{Subnet: n.Subnet, Gateway: n.Gateway, Internal: n.Internal, MTU: n.MTU}
	}
	for _, i := range w.Images {
		m.images[i.Ref] = i.Digest
	}
	return m
}

func (m *model) world() state.World {
	w := state.World{Stack: m.stack}
	for _, o := range m.instances {
		w.Instances = append(w.Instances, *o)
	}
	slices.SortFunc(w.Instances, func(a, b state.Instance) int { return cmp.Compare(a.Name, b.Name) })
	for _, name := range sortedKeys(m.volumes) {
		w.Volumes = append(w.Volumes, m.volumes[name])
	}
	for _, name := range sortedKeys(m.networks) {
		n := m.networks[name]
		w.Networks = append(w.Networks, state.Network{Name: name, Subnet: n.Subnet, Gateway: n.Gateway, Internal: n.Internal, MTU: n.MTU})
	}
	for _, ref := range sortedKeys(m.images) {
		w.Images = append(w.Images, state.Image{Ref: ref, Digest: m.images[ref], Checked: true})
	}
	return w
}

// apply carries out the first n steps.
func (m *model) apply(p *Plan, n int) {
	for _, s := range p.Steps[:n] {
		m.step(s)
	}
}

func (m *model) expect(s Step, ok bool, what string) bool {
	if !ok {
		m.illegal = append(m.illegal, fmt.Sprintf("#%d %s %s: %s", s.ID, s.Op.Verb(), s.Op.Subject(), what))
	}
	return ok
}

func (m *model) step(s Step) {
	switch op := s.Op.(type) {
	case Pull:
		if m.images[op.Ref] == "" {
			m.images[op.Ref] = digestOf(op.Ref)
		}
	case CreateVolume:
		if _, there := m.volumes[op.Name]; m.expect(s, !there, "is there") {
			kind := state.Disk
			if op.Shared {
				kind = state.Directory
			}
			m.volumes[op.Name] = state.Volume{Name: op.Name, Kind: kind, Size: int64(op.Size)}
		}
	case RemoveVolume:
		delete(m.volumes, op.Name)
	case CreateNetwork:
		if _, there := m.networks[op.Name]; m.expect(s, !there, "is there") {
			m.networks[op.Name] = op.Spec
		}
	case UpdateNetwork:
		m.expect(s, !m.onNetwork(op.Name, true), "something on it runs")
		m.networks[op.Name] = op.Spec
	case RemoveNetwork:
		m.expect(s, !m.onNetwork(op.Name, false), "something is on it")
		delete(m.networks, op.Name)
	case Create:
		if m.expect(s, m.instances[op.Instance] == nil, "is there") {
			m.expect(s, op.Spec.Image == "" || m.images[op.Spec.Image] != "", "without its image")
			o := &state.Instance{Container: op.Container, Name: op.Instance, Index: op.Index}
			o.State, o.Image = lifecycle.Initialized, m.images[op.Spec.Image]
			o.Spec, _ = spec.EncodeContainer(op.Spec)
			m.instances[op.Instance] = o
		}
	default:
		m.change(s)
	}
}

// onNetwork reports whether an instance, or one that runs, is on a network.
func (m *model) onNetwork(name string, running bool) bool {
	for _, o := range m.instances {
		c, _ := spec.DecodeContainer(o.Spec)
		for _, i := range c.Interfaces {
			if i.Network == name && (o.State.Live() || !running) {
				return true
			}
		}
	}
	return false
}

// change carries out what needs an instance.
func (m *model) change(s Step) {
	t := targetOfOp(s.Op)
	o := m.instances[t.Instance]
	if !m.expect(s, o != nil, "is not there") {
		return
	}
	switch op := s.Op.(type) {
	case Update:
		o.Spec, _ = spec.EncodeContainer(op.Spec)
		m.expect(s, op.Live || op.Spec.Image == "" || m.images[op.Spec.Image] != "", "without its image")
		if m.expect(s, op.Live || !o.State.Live(), "is "+o.State.String()); !op.Live {
			o.Exit = nil
		}
	case Start:
		m.start(s, o)
	case Await:
		m.expect(s, o.State == lifecycle.Started || o.State == lifecycle.Stopped && o.Exit != nil && o.Exit.Code == 0, "cannot come true in "+o.State.String())
		if op.Condition == spec.ConditionCompleted {
			if c, _ := spec.DecodeContainer(o.Spec); c.Restart.Policy != "always" { // kept by NoRecreate
				m.end(o)
			}
		} else if o.State == lifecycle.Started {
			o.Health = "healthy"
		}
	case Stop:
		if m.expect(s, o.State.Live(), "is "+o.State.String()) {
			o.State, o.Health, o.Exit = lifecycle.Stopped, "", &state.Exit{Requested: true}
		}
	case Remove:
		m.expect(s, !o.State.Live(), "is "+o.State.String())
		delete(m.instances, o.Name)
	}
}

func (m *model) start(s Step, o *state.Instance) {
	m.expect(s, o.State != lifecycle.Started && o.State != lifecycle.Stopping, "is "+o.State.String())
	c, err := spec.DecodeContainer(o.Spec)
	m.expect(s, err == nil && o.Broken == "", "without a readable record")
	for _, mount := range c.Mounts {
		_, there := m.volumes[mount.Source]
		m.expect(s, there, "without volume "+mount.Source)
	}
	for _, i := range c.Interfaces {
		_, there := m.networks[i.Network]
		m.expect(s, there, "without network "+i.Network)
	}
	m.expect(s, c.Image == "" || m.images[c.Image] != "", "without its image")
	o.State, o.Exit, o.Cause, o.Health = lifecycle.Started, nil, "", "starting"
	if m.oneShots[o.Container] && c.Restart.Policy == "no" {
		m.end(o)
	}
}

func (m *model) end(o *state.Instance) {
	o.State, o.Health, o.Exit = lifecycle.Stopped, "", &state.Exit{}
}

func targetOfOp(op Op) Target {
	switch op := op.(type) {
	case Create:
		return op.Target
	case Update:
		return op.Target
	case Start:
		return op.Target
	case Await:
		return op.Target
	case Stop:
		return op.Target
	case Remove:
		return op.Target
	}
	return Target{}
}
