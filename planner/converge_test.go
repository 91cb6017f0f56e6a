package planner

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/diag"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/spec"
)

// dice makes stacks, worlds and accidents.
type dice struct{ *rand.Rand }

func (d dice) one(in int) bool { return d.IntN(in) == 0 }

func pick[T any](d dice, from ...T) T { return from[d.IntN(len(from))] }

// stack makes up to five containers of a to f, each depending on some before it.
func (d dice) stack() *spec.Stack {
	s := stack()
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		if d.one(6) {
			continue
		}
		c := container(memory(uint64(pick(d, 64, 128))), ref(pick(d, "x", "y")), replicas(d.IntN(3)))
		c.Pull = pick(d, "missing", "missing", "always", "never")
		c.Restart.Policy = pick(d, "no", "no", "on-failure", "always")
		c.Labels = map[string]string{"n": pick(d, "1", "2")}
		if d.one(4) {
			mounts(pick(d, "v", "w"))(&c)
		}
		if d.one(3) {
			nets(pick(d, []string{"n"}, []string{"o"}, []string{"o", "n"}, nil)...)(&c)
		}
		c.DependsOn = map[string]spec.Dependency{}
		for dep, on := range s.Containers {
			if !d.one(3) {
				continue
			}
			cond := pick(d, spec.ConditionStarted, spec.ConditionHealthy, spec.ConditionCompleted)
			if on.Restart.Policy != "no" && cond == spec.ConditionCompleted {
				cond = spec.ConditionHealthy
			}
			c.DependsOn[dep] = spec.Dependency{Condition: cond, Required: !d.one(4), Restart: d.one(3)}
		}
		for _, m := range c.Mounts {
			s.Volumes[m.Source] = spec.Volume{Size: 1024 * mib}
		}
		for _, i := range c.Interfaces {
			if _, there := s.Networks[i.Network]; !there {
				s.Networks[i.Network] = spec.Network{MTU: pick(d, 0, 9000)}
			}
		}
		s.Containers[name] = c
	}
	return s
}

func (d dice) options(s *spec.Stack) Options {
	o := Options{NoDeps: d.one(6), NoRecreate: d.one(6), NoStart: d.one(8), RemoveOrphans: d.one(2)}
	o.ForceRecreate = !o.NoRecreate && d.one(6)
	if names := sortedKeys(s.Containers); len(names) > 0 && d.one(3) {
		o.Only = []string{pick(d, names...)}
	}
	if names := sortedKeys(s.Containers); len(names) > 0 && d.one(4) {
		o.Scale = map[string]int{pick(d, names...): d.IntN(4)}
	}
	return o
}

// damage does to a world what crashes, users and failures do.
func (d dice) damage(m *model) {
	for _, name := range sortedKeys(m.instances) {
		o := m.instances[name]
		if !d.one(3) {
			continue
		}
		o.Exit, o.Health, o.Cause = nil, "", ""
		switch o.State = lifecycle.State(1 + d.IntN(int(lifecycle.Errored))); {
		case o.State == lifecycle.Stopped && !d.one(4):
			o.Exit = &state.Exit{Code: pick(d, 0, 0, 3), Requested: d.one(2)}
		case o.State == lifecycle.Errored && d.one(3):
			*o = state.Instance{Name: o.Name, State: lifecycle.Errored, Broken: "cut off", Unfinished: d.one(2)}
		case o.State == lifecycle.Started:
			o.Health = pick(d, "", "starting", "healthy", "unhealthy")
		}
		if d.one(8) {
			o.Spec = []byte(`{"version":`)
		}
		if d.one(8) {
			delete(m.instances, name)
		}
	}
	if d.one(4) {
		m.images["x"] = digestOf("x, later")
	}
	if d.one(6) {
		delete(m.images, "y")
	}
}

// interrupted carries out a part of a plan: a step runs if all that it waits
// for ran and luck has it.
func (d dice) interrupted(m *model, p *Plan) {
	ran := make(map[int]bool)
	odds := 2 + d.IntN(20)
	for _, s := range p.Steps {
		if ran[s.ID] = !d.one(odds) && !slices.ContainsFunc(s.After, func(id int) bool { return !ran[id] }); ran[s.ID] {
			m.step(s)
		}
	}
}

// mustPlan plans twice and checks what holds of every plan.
func mustPlan(t *testing.T, s *spec.Stack, w state.World, o Options) *Plan {
	t.Helper()
	p, err := Up(s, w, o)
	if err != nil {
		t.Fatal(err)
	}
	checkShape(t, p)
	if again, _ := Up(s, w, o); again.String() != p.String() {
		t.Fatalf("two plans of one world:\n%s\n%s", p, again)
	}
	return p
}

// removeRefused does what the error of a plan asks for: it removes the instances
// whose records cannot be read, and everything for a disk that is to be shared.
func removeRefused(t *testing.T, s *spec.Stack, m *model, o Options) {
	t.Helper()
	_, err := Up(s, m.world(), o)
	var refused diag.Findings
	if !errors.As(err, &refused) {
		return
	}
	for _, f := range refused {
		w := m.world()
		if strings.HasPrefix(f.Position.File, "volumes.") {
			p := Down(w, DownOptions{Volumes: true})
			m.apply(p, len(p.Steps))
			return
		}
		if m.instances[f.Position.File] == nil {
			t.Fatalf("%v names no instance", f)
		}
		w.Instances = slices.DeleteFunc(w.Instances, func(i state.Instance) bool { return i.Name != f.Position.File })
		w.Networks = nil
		p := Down(w, DownOptions{})
		m.apply(p, len(p.Steps))
	}
}

// convergence carries plans out on a random world until the stack should be
// there, and fails on anything illegal on the way and on a plan that is left.
func convergence(t *testing.T, seed uint64) {
	d := dice{rand.New(rand.NewPCG(seed, 0))}
	old, s := d.stack(), d.stack()
	m := newModel(old)
	d.interrupted(m, mustPlan(t, old, m.world(), Options{}))
	d.damage(m)
	m.illegal = nil
	m = modelOf(s, m.world())
	o := d.options(s)
	history := ""
	removeRefused(t, s, m, o)
	for range d.IntN(3) {
		p := mustPlan(t, s, m.world(), o)
		history += fmt.Sprintf("part of:\n%s", p)
		d.interrupted(m, p)
		// A step that waits for the end of one that did not run is legal.
		m.illegal = nil
	}
	p := mustPlan(t, s, m.world(), o)
	if checkStarts(t, s, p); !o.NoRecreate { // what is kept may use another image
		checkStops(t, s, p)
	}
	history += fmt.Sprintf("all of:\n%s", p)
	m.apply(p, len(p.Steps))
	o.ForceRecreate = false
	if rest := mustPlan(t, s, m.world(), o); !rest.Empty() || len(m.illegal) > 0 {
		t.Fatalf("seed %d, options %+v\n%sleft over:\n%sillegal: %q", seed, o, history, rest, m.illegal)
	}
	down := Down(m.world(), DownOptions{Volumes: true})
	checkShape(t, down)
	m.apply(down, len(down.Steps))
	if len(m.instances)+len(m.volumes)+len(m.networks)+len(m.illegal) > 0 {
		t.Fatalf("seed %d: down left %v, %v, %v, %q after\n%s", seed, sortedKeys(m.instances), sortedKeys(m.volumes), sortedKeys(m.networks), m.illegal, down)
	}
}

// checkStarts checks that starts follow the starts of what they depend on.
func checkStarts(t *testing.T, s *spec.Stack, p *Plan) {
	t.Helper()
	before, starts := ancestors(p), map[string][]int{}
	for _, step := range p.Steps {
		op, ok := step.Op.(Start)
		if !ok {
			continue
		}
		starts[op.Container] = append(starts[op.Container], step.ID)
		for dep := range s.Containers[op.Container].DependsOn {
			for _, id := range starts[dep] {
				if !before[step.ID][id] {
					t.Fatalf("#%d does not follow #%d:\n%s", step.ID, id, p)
				}
			}
		}
	}
}

// checkStops checks that what comes back is stopped only after its pull.
func checkStops(t *testing.T, s *spec.Stack, p *Plan) {
	t.Helper()
	before, pulls, again := ancestors(p), map[string]int{}, map[string]bool{}
	for _, step := range p.Steps {
		switch op := step.Op.(type) {
		case Pull:
			pulls[op.Ref] = step.ID
		case Start:
			again[op.Instance] = true
		}
	}
	for _, step := range p.Steps {
		if stop, ok := step.Op.(Stop); ok && again[stop.Instance] {
			if id := pulls[s.Containers[stop.Container].Image]; id != 0 && !before[step.ID][id] {
				t.Fatalf("#%d does not follow its pull #%d:\n%s", step.ID, id, p)
			}
		}
	}
}

// ancestors are, for each step, all that ends before it begins.
func ancestors(p *Plan) []map[int]bool {
	before := make([]map[int]bool, len(p.Steps)+1)
	for _, step := range p.Steps {
		before[step.ID] = map[int]bool{}
		for _, id := range slices.Concat(step.After, step.AfterEnd) {
			before[step.ID][id] = true
			maps.Copy(before[step.ID], before[id])
		}
	}
	return before
}

func TestConvergence(t *testing.T) {
	for seed := range uint64(500) {
		convergence(t, seed)
	}
}

func FuzzConvergence(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(convergence)
}
