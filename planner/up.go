package planner

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/vzcompose/vzcompose/internal/diag"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/spec"
)

// Options are what the user asks of Up beside the file.
type Options struct {
	// Only names the containers that are meant. Empty: all. What they depend on
	// is brought up with them, unless NoDeps.
	Only   []string
	NoDeps bool // neither touch nor wait for what the named containers depend on

	ForceRecreate bool // make the named containers anew, as they are declared
	NoRecreate    bool // keep what exists as it was made, changed or not
	NoStart       bool // make and update, start nothing
	RemoveOrphans bool // remove instances of containers that are not declared

	Scale map[string]int // replicas by container, in place of the declared number

	// OneOff, where set, is the name of one more instance of the only container of
	// Only: it is made and started in place of what that declares, which is left
	// as it is. What it depends on is brought up.
	OneOff string
}

// up is one computation of Up.
type up struct {
	o        Options
	desired  map[string]spec.Container // with the asked-for replicas
	stack    string
	volumes  map[string]spec.Volume
	networks map[string]spec.Network
	observed state.World

	inactive []string // containers of the file that are not asked for

	called   map[string]Target // instances that are declared, by name
	graph    *graph
	selected map[string]bool   // containers that this plan brings up
	named    map[string]bool   // containers that the user named, or all
	digests  map[string]string // image reference → digest, as it is here
	encoded  map[string][]byte // container → its declaration, as it would be stored
	changes  map[string][]*change
	warnings []string
	refused  diag.Findings // instances that cannot be brought up as they are
}

// Up answers how to get from what was observed to what is desired. The error is
// about the options, or a stack that spec.Load would have refused: it is a
// diag.Findings.
func Up(desired *spec.Stack, observed state.World, o Options) (*Plan, error) {
	u := &up{o: o, stack: desired.Name, observed: observed, desired: maps.Clone(desired.Containers), volumes: desired.Volumes, networks: desired.Networks, inactive: desired.Inactive}
	if err := u.check(); err != nil {
		return nil, err
	}
	u.digests = make(map[string]string, len(observed.Images))
	for _, i := range observed.Images {
		u.digests[i.Ref] = i.Digest
	}
	u.decideAll()
	if err := u.refused.Err(); err != nil {
		return nil, err
	}
	if err := u.checkHealth(); err != nil {
		return nil, err
	}
	moved := u.moveNetworks()
	u.propagate()
	u.checkVolumes()

	a := &arrangement{
		plan:    &Plan{Stack: desired.Name},
		changes: u.changes, starts: u.graph, stops: u.stopGraph(),
		waits: u.selected, networks: u.networks,
	}
	a.prepare(u.volumes, u.sharedVolumes(), u.digests, observed)
	a.bringDown()
	a.updateNetworks(moved, observed)
	a.bringUp()
	a.plan.Warnings = u.warnings
	return a.plan, nil
}

// check applies the options to the stack and finds what is wrong with both.
func (u *up) check() error {
	var fs diag.Findings
	found := func(where, hint, format string, args ...any) {
		fs = append(fs, diag.Finding{Position: diag.Position{File: where}, Message: fmt.Sprintf(format, args...), Hint: hint})
	}
	known := "the stack has " + list(sortedKeys(u.desired))
	for _, o := range u.observed.Instances {
		if o.Name == u.o.OneOff {
			found("run", "", "there is an instance %s", o.Name)
		}
	}
	for _, name := range u.o.Only {
		if _, ok := u.desired[name]; !ok {
			found("up", known, "no container %q", name)
		}
	}
	for _, name := range sortedKeys(u.o.Scale) {
		c, ok := u.desired[name]
		switch n := u.o.Scale[name]; {
		case !ok:
			found("scale", known, "no container %q", name)
		case n < 0:
			found("scale", "", "%s: %d replicas", name, n)
		default:
			c.Replicas = n
			u.desired[name] = c
		}
	}
	if u.o.ForceRecreate && u.o.NoRecreate {
		found("up", "", "cannot both recreate all and recreate nothing")
	}
	u.called = make(map[string]Target)
	for _, name := range sortedKeys(u.desired) {
		c := u.desired[name]
		if c.ContainerName != "" && c.Replicas > 1 {
			found("scale", "take container_name out of the stack file", "%s: %d instances would have the same name, %s", name, c.Replicas, c.ContainerName)
			continue
		}
		for i := 1; i <= c.Replicas; i++ {
			instance := c.InstanceName(name, i)
			if other, ok := u.called[instance]; ok {
				found("scale", "", "%s: %s is the name of an instance of %s", name, instance, other.Container)
			}
			u.called[instance] = Target{name, instance, i}
		}
	}
	declared := make(map[string]map[string]spec.Dependency, len(u.desired))
	for name, c := range u.desired {
		declared[name] = c.DependsOn
	}
	if u.graph = newGraph(declared); u.graph.cycle != nil {
		found("depends_on", "", "the containers depend on each other: %s", strings.Join(u.graph.cycle, " → "))
	}
	return fs.Err()
}

// decideAll decides on every instance that is declared or there.
func (u *up) decideAll() {
	u.selectContainers()
	u.changes = make(map[string][]*change)
	kept := make(map[string]bool) // instances that are declared, as they are called now
	u.encoded = make(map[string][]byte, len(u.selected))
	there := make(map[string]*state.Instance, len(u.observed.Instances))
	places := make(map[Target]*state.Instance) // by container and index
	before := make(map[string]int)             // the replicas that containers had
	for i := range u.observed.Instances {
		o := &u.observed.Instances[i]
		there[o.Name] = o
		t := u.target(o)
		if o.Broken == "" && t.Index > 0 {
			places[Target{Container: t.Container, Index: t.Index}] = o
		}
		before[t.Container] = max(before[t.Container], t.Index)
		if c, err := readable(o); err == nil && t.Index > 0 {
			before[t.Container] = max(before[t.Container], c.Replicas)
		}
	}
	for _, name := range u.graph.order() {
		if !u.selected[name] {
			continue
		}
		// One that cannot be encoded equals nothing stored, and is compared
		// field by field.
		u.encoded[name], _ = spec.EncodeContainer(u.desired[name])
		if u.oneOff(name) {
			u.changes[name] = []*change{{Target: Target{name, u.o.OneOff, 0}, spec: u.desired[name], create: causeRun, start: causeRun}}
			continue
		}
		for i := 1; i <= u.desired[name].Replicas; i++ {
			ch := &change{Target: Target{name, u.desired[name].InstanceName(name, i), i}, spec: u.desired[name]}
			if o := u.found(ch.Target, there, places); o != nil {
				kept[o.Name] = true
				u.decideNamed(o, ch)
			} else {
				ch.create, ch.start = causeAbsent, causeNew
				if n := before[name]; n > 0 && i > n {
					ch.create = fmt.Sprintf("replicas %d → %d", n, ch.spec.Replicas)
				}
			}
			if u.o.NoStart {
				ch.start = ""
				if ch.create == "" && ch.update == "" {
					ch.stop = ""
				}
			}
			u.changes[name] = append(u.changes[name], ch)
		}
	}
	u.surplus(before, kept)
	u.refuseNames(there)
	u.refuseVolumes()
	u.refuseDisks()
}

// refuseVolumes keeps the plan from being made where an instance is to come up with
// a volume that is not there and is not the stack's to make.
func (u *up) refuseVolumes() {
	there, told := make(map[string]bool), make(map[string]bool)
	for _, v := range u.observed.External {
		there[v.Name] = true
	}
	for _, name := range sortedKeys(u.changes) {
		for _, ch := range u.changes[name] {
			if ch.create == "" && ch.start == "" && (ch.update == "" || ch.live) {
				continue
			}
			for _, m := range ch.spec.Mounts {
				if !m.External || there[m.Source] || told[m.Source] {
					continue
				}
				told[m.Source] = true
				u.refused = append(u.refused, diag.Finding{
					Position: diag.Position{File: "volumes." + m.Source}, Message: fmt.Sprintf("there is no volume %s, which %s mounts and which is external", m.Source, name),
					Hint: "vzcompose volume create " + m.Source + " makes it",
				})
			}
		}
	}
}

// sharedVolumes returns the volumes that several instances mount while one of them
// may write, with the containers that mount each. One that has a single writer and
// no reader is a disk, which is faster.
func (u *up) sharedVolumes() map[string][]string {
	by, instances, written := map[string][]string{}, map[string]int{}, map[string]bool{}
	for _, name := range sortedKeys(u.desired) {
		c := u.desired[name]
		mounted := map[string]bool{}
		for _, m := range c.Mounts {
			if m.Type != "volume" || m.Source == "" || c.Replicas == 0 {
				continue
			}
			written[m.Source] = written[m.Source] || !m.ReadOnly()
			if !mounted[m.Source] {
				mounted[m.Source] = true
				by[m.Source], instances[m.Source] = append(by[m.Source], name), instances[m.Source]+c.Replicas
			}
		}
	}
	maps.DeleteFunc(by, func(volume string, _ []string) bool { return instances[volume] < 2 || !written[volume] })
	return by
}

// refuseDisks keeps the plan from being made where an instance is to come up with a
// volume that several are to have and that was made as a disk. The other way about
// nothing is refused: a directory serves one writer too.
func (u *up) refuseDisks() {
	shared, told := u.sharedVolumes(), map[string]bool{}
	disks := map[bool]map[string]bool{false: {}, true: {}} // by whether they are external
	for external, there := range map[bool][]state.Volume{false: u.observed.Volumes, true: u.observed.External} {
		for _, v := range there {
			disks[external][v.Name] = v.Kind != state.Directory
		}
	}
	for _, name := range sortedKeys(u.changes) {
		if u.oneOff(name) {
			continue // the disk may be free while it runs; the engine looks who has it
		}
		for _, ch := range u.changes[name] {
			if ch.create == "" && ch.start == "" && (ch.update == "" || ch.live) {
				continue
			}
			for _, m := range ch.spec.Mounts {
				by := shared[m.Source]
				if m.Type != "volume" || by == nil || !disks[m.External][m.Source] || told[m.Source] {
					continue
				}
				told[m.Source] = true
				remove, remake := "vzcompose volume rm "+u.stack+"/"+m.Source, "up makes it anew as a directory"
				if m.External {
					remove, remake = "vzcompose volume rm "+m.Source, "vzcompose volume create --shared "+m.Source+" makes it anew"
				}
				u.refused = append(u.refused, diag.Finding{
					Position: diag.Position{File: "volumes." + m.Source},
					Message:  fmt.Sprintf("volume %s was made as a disk, which one machine at a time has, and is to be in several instances of %s", m.Source, list(by)),
					Hint:     "copy what is in it out with vzcompose cp, remove what mounts it and then " + remove + "; " + remake,
				})
			}
		}
	}
}

// target is targetOf for what is to come up: an instance whose record cannot be
// read is the one that is declared under its name.
func (u *up) target(o *state.Instance) Target {
	if t, ok := u.called[o.Name]; ok && o.Broken != "" {
		return t
	}
	return targetOf(o)
}

// found returns the instance that is there for t: the one of its name, or else the
// one that had its place under another name; nil: there is none.
func (u *up) found(t Target, there map[string]*state.Instance, places map[Target]*state.Instance) *state.Instance {
	if o := there[t.Instance]; o != nil && u.target(o).Container == t.Container {
		return o
	}
	return places[Target{Container: t.Container, Index: t.Index}]
}

// decideNamed decides on an instance that may be declared under another name: its
// folder, its disk and its name on the networks go with the name.
func (u *up) decideNamed(o *state.Instance, ch *change) {
	switch {
	case o.Name == ch.Instance:
		u.decide(o, ch)
	case u.o.NoRecreate:
		ch.Instance = o.Name
		u.decide(o, ch)
	default:
		ch.was = o.Name
		u.replace(ch, o.State.Live(), renamed(o.Name, ch.Instance))
	}
}

func renamed(old, now string) string { return "name " + old + " → " + now }

// refuseNames keeps the plan from being made where an instance would have the name
// of one of another container that stays.
func (u *up) refuseNames(there map[string]*state.Instance) {
	freed := make(map[string]bool)
	for _, all := range u.changes {
		for _, ch := range all {
			if ch.remove != "" {
				freed[ch.there().Instance] = true
			}
		}
	}
	for _, name := range sortedKeys(u.changes) {
		for _, ch := range u.changes[name] {
			o := there[ch.Instance]
			if ch.create == "" || o == nil || freed[o.Name] {
				continue
			}
			u.refused = append(u.refused, diag.Finding{
				Position: diag.Position{File: name}, Message: fmt.Sprintf("there is an instance %s, of container %s", o.Name, u.target(o).Container),
				Hint: fmt.Sprintf("vzcompose rm --stop %s removes it, with what it wrote", o.Name),
			})
		}
	}
}

// oneOff reports whether a container is the one of which one more is asked for.
func (u *up) oneOff(name string) bool { return u.o.OneOff != "" && u.named[name] }

// selectContainers says which containers are meant.
func (u *up) selectContainers() {
	only := u.o.Only
	if len(only) == 0 {
		only = sortedKeys(u.desired)
	}
	u.named = make(map[string]bool, len(only))
	for _, name := range only {
		u.named[name] = true
	}
	u.selected = u.named
	if !u.o.NoDeps {
		u.selected = u.graph.closure(only)
	}
}

// surplus removes instances that are there and not declared: replicas beyond
// the number, and, where asked to, containers that are not in the file.
func (u *up) surplus(before map[string]int, kept map[string]bool) {
	orphans := make(map[string][]string)
	for i := range u.observed.Instances {
		o := &u.observed.Instances[i]
		t := u.target(o)
		c, declared := u.desired[t.Container]
		why := "not in the stack file"
		switch {
		case !declared && slices.Contains(u.inactive, t.Container):
			continue // it may run: down, stop and rm know it
		case !declared && !u.o.RemoveOrphans:
			orphans[t.Container] = append(orphans[t.Container], o.Name)
			continue
		case !declared:
		case t.Index == 0, u.oneOff(t.Container):
			continue
		case !u.selected[t.Container] || kept[o.Name]:
			continue
		case t.Index >= 1 && t.Index <= c.Replicas: // an earlier name of one that is there
			why = renamed(o.Name, c.InstanceName(t.Container, t.Index))
		default:
			why = fmt.Sprintf("replicas %d → %d", before[t.Container], c.Replicas)
		}
		u.changes[t.Container] = append(u.changes[t.Container], leave(o, why, true))
	}
	for _, name := range sortedKeys(orphans) {
		u.warn("%s: not in the stack file; --remove-orphans removes it", list(orphans[name]))
	}
}

// leave takes an instance away: its machine, and where remove its record.
func leave(o *state.Instance, why string, remove bool) *change {
	ch := &change{Target: targetOf(o), done: true}
	if o.Broken != "" {
		why = whyBroken(o)
	}
	if o.State.Live() {
		ch.stop = why
	}
	if remove {
		ch.remove = why
	}
	return ch
}

// propagate restarts what asked to be restarted with its dependency.
func (u *up) propagate() {
	if u.o.NoStart {
		return
	}
	running := make(map[string]bool)
	for _, o := range u.observed.Instances {
		running[o.Name] = o.State.Live() && o.Broken == ""
	}
	for _, name := range u.graph.order() {
		why := ""
		for _, dep := range sortedKeys(u.graph.needs[name]) {
			if u.graph.needs[name][dep].Restart && u.selected[dep] && u.interrupted(dep) {
				why = "it is restarted with " + dep
				break
			}
		}
		for _, ch := range u.changes[name] {
			if why != "" && running[ch.Instance] && ch.stop == "" && ch.remove == "" {
				ch.stop, ch.start, ch.healthy = why, why, false
			}
		}
	}
}

func (u *up) interrupted(name string) bool {
	for _, ch := range u.changes[name] {
		if ch.interrupts() {
			return true
		}
	}
	return false
}

// checkVolumes warns of volumes that are there with another size than declared.
func (u *up) checkVolumes() {
	for _, v := range u.observed.Volumes {
		want, ok := u.volumes[v.Name]
		if v.Kind == state.Directory { // it has what the host has
			continue
		}
		asked := int64(want.Size)
		fits := asked == v.Size || v.Least != 0 && asked >= v.Least && asked < v.Size
		if ok && v.Size >= 0 && asked != 0 && !fits {
			u.warn("volume %s: size %s → %s is not applied to what is there; remove the volume first", v.Name, size(uint64(v.Size)), size(want.Size))
		}
	}
}

// stopGraph is the order in which what is there depends on each other: as the
// records say, for the file may have changed since. Containers without a
// readable record have the order of the file.
func (u *up) stopGraph() *graph {
	declared := storedDependencies(u.observed)
	for name, c := range u.desired {
		if declared[name] == nil {
			declared[name] = c.DependsOn
		}
	}
	return newGraph(declared)
}

// storedDependencies are what the containers of a world depend on, by the
// records of their instances. A container without a readable record has nil.
func storedDependencies(w state.World) map[string]map[string]spec.Dependency {
	all := make(map[string]map[string]spec.Dependency)
	for i := range w.Instances {
		o := &w.Instances[i]
		name := targetOf(o).Container
		if _, ok := all[name]; !ok {
			all[name] = nil
		}
		c, err := readable(o)
		if err != nil {
			continue
		}
		if all[name] == nil {
			all[name] = make(map[string]spec.Dependency)
		}
		maps.Copy(all[name], c.DependsOn)
	}
	return all
}

var errBroken = errors.New("its record cannot be used")

func readable(o *state.Instance) (spec.Container, error) {
	if o.Broken != "" {
		return spec.Container{}, errBroken
	}
	return spec.DecodeContainer(o.Spec)
}

// targetOf names an instance, by its name where its record could not be read.
func targetOf(o *state.Instance) Target {
	t := Target{Container: o.Container, Instance: o.Name, Index: o.Index}
	if t.Container != "" {
		return t
	}
	t.Container = o.Name
	if i := strings.LastIndexByte(o.Name, '-'); i > 0 {
		if n, err := strconv.Atoi(o.Name[i+1:]); err == nil {
			t.Container, t.Index = o.Name[:i], n
		}
	}
	return t
}
