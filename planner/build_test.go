package planner

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/spec"
)

const mib = 1 << 20

// container is a declared container of 128 MiB, changed by edits.
func container(edits ...func(*spec.Container)) spec.Container {
	c := spec.Container{
		Image: "busybox", Pull: "missing", CPUs: 1, Memory: 128 * mib, Replicas: 1,
		StopGracePeriod: 10 * time.Second, Restart: spec.Restart{Policy: "no"},
	}
	for _, edit := range edits {
		edit(&c)
	}
	return c
}

// needs is a dependency in short: "db", "db healthy", "db completed optional",
// "db restart".
func needs(deps ...string) func(*spec.Container) {
	return func(c *spec.Container) {
		c.DependsOn = map[string]spec.Dependency{}
		for _, text := range deps {
			words := strings.Fields(text)
			d := spec.Dependency{Condition: spec.ConditionStarted, Required: true}
			for _, w := range words[1:] {
				switch w {
				case "optional":
					d.Required = false
				case "restart":
					d.Restart = true
				default:
					d.Condition = spec.Condition(w)
				}
			}
			c.DependsOn[words[0]] = d
		}
	}
}

// nets puts a container on networks, which stack declares without anything.
func nets(names ...string) func(*spec.Container) {
	return func(c *spec.Container) {
		c.Interfaces = []spec.Interface{}
		for _, n := range names {
			c.Interfaces = append(c.Interfaces, spec.Interface{Network: n})
		}
	}
}

func mounts(volume string) func(*spec.Container) {
	return func(c *spec.Container) {
		c.Mounts = append(c.Mounts, spec.Mount{Type: "volume", Source: volume, Destination: "/" + volume})
	}
}

func replicas(n int) func(*spec.Container)   { return func(c *spec.Container) { c.Replicas = n } }
func ref(image string) func(*spec.Container) { return func(c *spec.Container) { c.Image = image } }
func policy(restart string) func(*spec.Container) {
	return func(c *spec.Container) { c.Restart.Policy = restart }
}

// stack declares containers in pairs of name and spec.Container. Every volume
// that is mounted is declared with 1 GiB.
func stack(pairs ...any) *spec.Stack {
	s := &spec.Stack{Name: "test", Containers: map[string]spec.Container{}, Volumes: map[string]spec.Volume{}, Networks: map[string]spec.Network{}}
	for i := 0; i < len(pairs); i += 2 {
		c := pairs[i+1].(spec.Container)
		s.Containers[pairs[i].(string)] = c
		for _, i := range c.Interfaces {
			s.Networks[i.Network] = spec.Network{}
		}
		for _, m := range c.Mounts {
			s.Volumes[m.Source] = spec.Volume{Size: 1024 * mib}
		}
	}
	return s
}

// digestOf is what every reference means in the worlds of these tests.
func digestOf(image string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(image))) }

// running is the world after s came up: one-shots ("no" policy and waited for
// as completed) ended well, and the rest runs.
func running(s *spec.Stack) state.World {
	m := newModel(s)
	plan, err := Up(s, m.world(), Options{})
	if err != nil {
		panic(err)
	}
	m.apply(plan, len(plan.Steps))
	return m.world()
}

// with changes one instance of a world.
func with(w state.World, name string, edit func(*state.Instance)) state.World {
	w.Instances = slices.Clone(w.Instances)
	for i := range w.Instances {
		if w.Instances[i].Name == name {
			edit(&w.Instances[i])
			return w
		}
	}
	panic("no instance " + name)
}

func without(w state.World, name string) state.World {
	w.Instances = slices.DeleteFunc(slices.Clone(w.Instances), func(o state.Instance) bool { return o.Name == name })
	return w
}

func exited(code int) func(*state.Instance) {
	return func(o *state.Instance) { o.State, o.Exit = lifecycle.Stopped, &state.Exit{Code: code} }
}

func in(s lifecycle.State, cause string) func(*state.Instance) {
	return func(o *state.Instance) { o.State, o.Cause, o.Health = s, cause, "" }
}

// check compares a plan and its warnings with text, and checks its shape.
func check(t *testing.T, p *Plan, want string) {
	t.Helper()
	got := p.String()
	for _, w := range p.Warnings {
		got += "warning: " + w + "\n"
	}
	if want = strings.TrimLeft(want, "\n"); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	checkShape(t, p)
}

// checkShape fails on a plan that no executor could carry out.
func checkShape(t *testing.T, p *Plan) {
	t.Helper()
	for i, s := range p.Steps {
		if s.ID != i+1 || s.Cause == "" || strings.Contains(s.Cause, "\n") {
			t.Errorf("step %d has id %d and cause %q", i+1, s.ID, s.Cause)
		}
		for _, ids := range [][]int{s.After, s.AfterEnd} {
			if !slices.IsSorted(ids) || len(slices.Compact(slices.Clone(ids))) != len(ids) {
				t.Errorf("step %d waits for %v", s.ID, ids)
			}
			if len(ids) > 0 && (ids[0] < 1 || ids[len(ids)-1] >= s.ID) {
				t.Errorf("step %d waits for %v", s.ID, ids)
			}
		}
	}
	if _, err := p.JSON(); err != nil {
		t.Error(err)
	}
}
