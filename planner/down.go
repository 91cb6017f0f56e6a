package planner

import (
	"maps"
	"slices"

	"github.com/vzcompose/vzcompose/internal/diag"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/spec"
)

// DownOptions are what the user asks of Down.
type DownOptions struct {
	// Only names the containers that are meant; empty: all that is there.
	Only []string
	// Volumes removes the named volumes too: all, or with Only those that
	// nothing else mounts.
	Volumes bool
	// Declared are the volumes that containers of the stack file mount, by
	// container; they count beside those of the instances. nil: there is no file.
	Declared map[string][]string
}

// Down answers how to remove what was observed. It needs no stack file: the
// order is that of the stored specs, reversed. A stop that fails holds up the
// removal of its own instance, and of its volumes, and no other step. A name in
// Only that is not there gives a warning.
func Down(observed state.World, o DownOptions) *Plan {
	s, unknown := newStored(observed, o.Only)
	for i := range observed.Instances {
		if inst := &observed.Instances[i]; s.selected[targetOf(inst).Container] {
			s.add(leave(inst, "down", true))
		}
	}
	a := s.arrange()
	a.bringDown()
	for _, f := range unknown {
		a.plan.Warnings = append(a.plan.Warnings, f.Message)
	}
	if o.Volumes {
		a.removeVolumes(observed, o)
	}
	a.removeNetworks(observed, s.selected)
	return a.plan
}

// removeVolumes adds the removal of volumes after that of the instances that
// mount them, or may: a record that cannot be read may mount anything. With Only,
// a volume goes if a container that is meant mounts it and no other does.
func (a *arrangement) removeVolumes(w state.World, o DownOptions) {
	removed := a.goneByName()
	for _, v := range w.Volumes {
		var after []int
		users := map[string]bool{}
		if v.Instance != "" && !slices.ContainsFunc(w.Instances, func(o state.Instance) bool { return o.Name == v.Instance }) {
			users[targetOf(&state.Instance{Name: v.Instance}).Container] = true // it is that container's all the same
		}
		for i := range w.Instances {
			inst := &w.Instances[i]
			if !mayMount(inst, v) {
				continue
			}
			users[targetOf(inst).Container] = true
			if id := removed[inst.Name]; id != 0 {
				after = append(after, id)
			}
		}
		for container, volumes := range o.Declared {
			if slices.Contains(volumes, v.Name) {
				users[container] = true
			}
		}
		if len(o.Only) > 0 && (len(users) == 0 || !within(users, o.Only)) {
			continue
		}
		a.plan.add(Step{Op: RemoveVolume{v.Name}, After: sorted(after), Cause: "down, with its volumes"})
	}
}

func within(set map[string]bool, names []string) bool {
	for name := range set {
		if !slices.Contains(names, name) {
			return false
		}
	}
	return true
}

// goneByName are the last steps that take instances away, by their names.
func (a *arrangement) goneByName() map[string]int {
	all := make(map[string]int, len(a.gone))
	for ch, id := range a.gone {
		all[ch.there().Instance] = id
	}
	return all
}

func mayMount(o *state.Instance, v state.Volume) bool {
	if v.Instance != "" {
		return v.Instance == o.Name
	}
	c, err := readable(o)
	return err != nil || slices.ContainsFunc(c.Mounts, func(m spec.Mount) bool {
		return m.Type == "volume" && !m.External && m.Source == v.Name
	})
}

// StopAll answers how to stop what runs, or the named containers of it, against
// the stored dependencies. The error, a diag.Findings, names what is not there.
func StopAll(observed state.World, only []string) (*Plan, error) {
	s, unknown := newStored(observed, only)
	for i := range observed.Instances {
		if o := &observed.Instances[i]; s.selected[targetOf(o).Container] {
			s.add(leave(o, "asked to stop", false))
		}
	}
	a := s.arrange()
	a.bringDown()
	return a.plan, unknown.Err()
}

// StartAll answers how to start what does not run, work that is done included,
// or the named containers of it. Nothing is made or updated. Instances whose
// record cannot be read are left out, with a warning.
func StartAll(observed state.World, only []string) (*Plan, error) {
	s, unknown := newStored(observed, only)
	return s.bring(observed, func(o *state.Instance, ch *change) {
		if o.State == lifecycle.Started {
			ch.healthy = o.Health == "healthy"
			return
		}
		ch.start = "asked to start: " + whyStart(o)
		if o.State == lifecycle.Stopping {
			ch.stop = ch.start
		}
	}), unknown.Err()
}

// RestartAll answers how to stop and start the same instances again, as their
// records say. What asked to be restarted with its dependency is, if it runs.
func RestartAll(observed state.World, only []string) (*Plan, error) {
	s, unknown := newStored(observed, only)
	with := s.restartedWith()
	return s.bring(observed, func(o *state.Instance, ch *change) {
		live := o.State.Live()
		switch dep := with[ch.Container]; {
		case dep == "":
			ch.start = "asked to restart"
		case live:
			ch.start = "it is restarted with " + dep
		default:
			ch.done = true
		}
		if live {
			ch.stop = ch.start
		}
	}), unknown.Err()
}

// bring plans what choose makes of each instance that is meant.
func (s *storedStack) bring(w state.World, choose func(*state.Instance, *change)) *Plan {
	var warnings []string
	for i := range w.Instances {
		o := &w.Instances[i]
		ch := &change{Target: targetOf(o)}
		if !s.selected[ch.Container] || ch.Index == 0 && o.Broken == "" { // a one-off has had its turn
			continue
		}
		var err error
		if ch.spec, err = readable(o); err != nil {
			warnings = append(warnings, o.Name+" stays as it is: "+whyUnreadable(o, err))
			ch.done = true
		} else {
			choose(o, ch)
		}
		s.add(ch)
	}
	a := s.arrange()
	a.bringDown()
	a.bringUp()
	a.plan.Warnings = warnings
	return a.plan
}

// restartedWith adds to what is selected the containers that asked to be
// restarted with what is, and answers for each of them with which.
func (s *storedStack) restartedWith() map[string]string {
	with := make(map[string]string)
	for _, name := range s.graph.order() {
		if s.selected[name] {
			continue
		}
		for _, dep := range sortedKeys(s.graph.needs[name]) {
			if s.graph.needs[name][dep].Restart && s.selected[dep] {
				with[name], s.selected[name] = dep, true
				break
			}
		}
	}
	return with
}

// storedStack is a stack as its records tell it.
type storedStack struct {
	name     string
	graph    *graph
	selected map[string]bool
	changes  map[string][]*change
}

func newStored(w state.World, only []string) (*storedStack, diag.Findings) {
	s := &storedStack{
		name: w.Stack, graph: newGraph(storedDependencies(w)),
		selected: make(map[string]bool), changes: make(map[string][]*change),
	}
	var unknown diag.Findings
	if len(only) == 0 {
		only = slices.Collect(maps.Keys(s.graph.level))
	}
	for _, name := range only {
		if _, ok := s.graph.level[name]; !ok {
			unknown = append(unknown, diag.Finding{
				Position: diag.Position{File: "stack " + w.Stack},
				Message:  "no instance of " + name + " is there",
			})
			continue
		}
		s.selected[name] = true
	}
	return s, unknown
}

func (s *storedStack) add(ch *change) {
	s.changes[ch.Container] = append(s.changes[ch.Container], ch)
}

func (s *storedStack) arrange() *arrangement {
	return &arrangement{
		plan: &Plan{Stack: s.name}, changes: s.changes,
		starts: s.graph, stops: s.graph, waits: s.selected,
	}
}
