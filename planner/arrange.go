package planner

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/spec"
)

// arrangement turns decisions into steps: first what must be here, then all
// that goes away against the dependencies, then all that comes along them.
type arrangement struct {
	plan    *Plan
	changes map[string][]*change // by container
	starts  *graph               // as declared
	stops   *graph               // as it was when what is there was made
	waits   map[string]bool      // containers that dependents wait for

	networks map[string]spec.Network // as declared
	renewed  map[string]int          // network → the step that gives it another declaration

	prepared map[string][]int   // container → steps that bring its images and volumes
	gone     map[*change]int    // the last step that took an instance away
	freed    map[string]int     // the same, by the name that the instance had
	started  map[*change]int    // its start
	held     map[string]holding // container → what the stops of its dependencies wait for
	awaits   map[awaitKey]*await
}

// holding is a set of stops: those in hard must succeed, for what they stop is
// to come back; the others need only have ended, so that one that fails does
// not keep the rest of a stack from going down.
type holding struct{ hard, soft []int }

type awaitKey struct {
	ch        *change
	condition spec.Condition
}

type await struct {
	id       int
	by       []string // containers that wait, sorted
	required bool
}

// comesBack reports whether something is to run, or be made, in the place of
// what is stopped.
func (c *change) comesBack() bool { return c.create != "" || c.update != "" || c.start != "" }

// image is what is asked of one image reference.
type image struct {
	policy   string
	creating bool
	users    []string
}

// prepare adds a pull for each image and a step for each volume that is not
// here and is about to be used. With policy "always" an image is pulled anew
// whenever an instance is made from it; whether what runs is out of date, the
// world's digest says.
func (a *arrangement) prepare(volumes map[string]spec.Volume, shared map[string][]string, digests map[string]string, there state.World) {
	a.prepared = make(map[string][]int)
	exists := make(map[string]bool, len(there.Volumes))
	for _, v := range there.Volumes {
		exists[v.Name] = true
	}
	images, missing, networks := make(map[string]*image), make(map[string][]string), make(map[string][]string)
	for _, name := range a.starts.order() {
		for _, ch := range a.changes[name] {
			if ch.create == "" && ch.start == "" && (ch.update == "" || ch.live) {
				continue
			}
			if ref := ch.spec.Image; ref != "" {
				use(images, ref, name, ch)
			}
			for _, m := range ch.spec.Mounts {
				if m.Type == "volume" && !m.External && m.Source != "" && !exists[m.Source] {
					missing[m.Source] = append(missing[m.Source], name)
				}
			}
			for _, i := range ch.spec.Interfaces {
				networks[i.Network] = append(networks[i.Network], name)
			}
		}
	}
	for _, ref := range sortedKeys(images) {
		i, why := images[ref], ""
		switch {
		case digests[ref] == "":
			why = "image " + ref + " is not here"
		case i.policy == "always" && i.creating:
			why = `pull is "always"`
		default:
			continue
		}
		a.prepareFor(i.users, Pull{Ref: ref, Policy: i.policy}, why)
	}
	for _, v := range sortedKeys(missing) {
		op, why := CreateVolume{Name: v, Size: volumes[v].Size}, "not found"
		if by := shared[v]; by != nil {
			op, why = CreateVolume{Name: v, Shared: true}, "not found; a directory for several instances of "+list(by)
		}
		a.prepareFor(missing[v], op, why)
	}
	for _, n := range there.Networks {
		delete(networks, n.Name)
	}
	for _, n := range sortedKeys(networks) {
		a.prepareFor(networks[n], CreateNetwork{Name: n, Spec: a.networks[n]}, "not found")
	}
}

// use notes that ch needs an image. Where containers disagree on the policy of
// one reference, the one that asks for most is followed.
func use(images map[string]*image, ref, name string, ch *change) {
	i := images[ref]
	if i == nil {
		i = &image{policy: "never"}
		images[ref] = i
	}
	i.users = append(i.users, name)
	i.creating = i.creating || ch.create != ""
	switch p := ch.spec.Pull; {
	case p == "always":
		i.policy = p
	case p != "never" && i.policy == "never":
		i.policy = "missing"
	}
}

func (a *arrangement) prepareFor(users []string, op Op, why string) {
	id := a.plan.add(Step{Op: op, Cause: why})
	for _, name := range slices.Compact(users) {
		a.prepared[name] = append(a.prepared[name], id)
	}
}

// ready are the steps after which a container and all that it depends on could
// be brought back: nothing is stopped before.
func (a *arrangement) ready(name string) []int {
	var ids []int
	for dep := range a.starts.closure([]string{name}) {
		ids = append(ids, a.prepared[dep]...)
	}
	return sorted(ids)
}

// bringDown adds the stops and removals, the exact reverse of the order of
// starts.
func (a *arrangement) bringDown() {
	a.gone, a.held = make(map[*change]int), make(map[string]holding)
	order := a.stops.order()
	slices.Reverse(order)
	for _, name := range order {
		var before, own holding
		for _, user := range a.stops.users[name] {
			before.hard = append(before.hard, a.held[user].hard...)
			before.soft = append(before.soft, a.held[user].soft...)
		}
		before = holding{sorted(before.hard), sorted(before.soft)}
		var ready []int
		for _, ch := range byIndex(a.changes[name], -1) {
			if ch.stop == "" && ch.remove == "" {
				continue
			}
			if ready == nil {
				ready = a.ready(name)
			}
			if id := a.takeAway(ch, before, ready); id != 0 && ch.comesBack() {
				own.hard = append(own.hard, id)
			} else if id != 0 {
				own.soft = append(own.soft, id)
			}
		}
		if own.hard == nil && own.soft == nil {
			own = before // order holds through containers that are left alone
		}
		a.held[name] = own
	}
}

// takeAway adds the stop and the removal of one instance and answers the stop.
func (a *arrangement) takeAway(ch *change, before holding, ready []int) (stop int) {
	var after []int
	if ch.comesBack() {
		after = ready
	}
	if ch.stop != "" {
		stop = a.plan.add(Step{
			Op: Stop{ch.there(), ch.remove != ""}, Cause: ch.stop,
			After: sorted(slices.Concat(after, before.hard)), AfterEnd: before.soft,
		})
		a.gone[ch], after = stop, []int{stop}
	}
	if ch.remove != "" {
		a.gone[ch] = a.plan.add(Step{Op: Remove{ch.there()}, Cause: ch.remove, After: sorted(after)})
	}
	return stop
}

// bringUp adds the creations, updates, starts and awaits.
func (a *arrangement) bringUp() {
	a.started = make(map[*change]int)
	a.freed = a.goneByName()
	a.gatherAwaits()
	for _, name := range a.starts.order() {
		for _, ch := range byIndex(a.changes[name], 1) {
			a.bring(name, ch)
			for _, condition := range []spec.Condition{spec.ConditionHealthy, spec.ConditionCompleted} {
				a.addAwait(ch, condition)
			}
		}
	}
}

// bring adds what makes and starts one instance.
func (a *arrangement) bring(name string, ch *change) {
	last := a.prepared[name]
	if id := a.gone[ch]; id != 0 {
		last = []int{id} // it waited for what was prepared
	}
	for _, i := range ch.spec.Interfaces {
		if id := a.renewed[i.Network]; id != 0 {
			last = append(slices.Clone(last), id)
		}
	}
	if ch.create != "" {
		if id := a.freed[ch.Instance]; id != 0 { // of another container, whose instance had the name
			last = append(slices.Clone(last), id)
		}
		last = []int{a.plan.add(Step{Op: Create{ch.Target, ch.spec}, Cause: ch.create, After: sorted(last)})}
	}
	if ch.update != "" {
		last = []int{a.plan.add(Step{Op: Update{ch.Target, ch.spec, ch.live}, Cause: ch.update, After: sorted(last)})}
	}
	if ch.start == "" {
		return
	}
	after, afterEnd := a.dependencies(name)
	a.started[ch] = a.plan.add(Step{
		Op:    Start{Target: ch.Target, CPUs: ch.spec.CPUs, Memory: ch.spec.Memory},
		Cause: ch.start, After: sorted(slices.Concat(last, after)), AfterEnd: afterEnd,
	})
}

// dependencies are the steps that a container's start waits for, over every
// replica of what it depends on.
func (a *arrangement) dependencies(name string) (after, afterEnd []int) {
	a.eachNeed(name, func(dep spec.Dependency, ch *change) {
		id := 0
		if dep.Condition == spec.ConditionStarted {
			id = a.started[ch]
		} else {
			id = a.awaits[awaitKey{ch, dep.Condition}].id
		}
		switch {
		case id == 0:
		case dep.Required:
			after = append(after, id)
		default:
			afterEnd = append(afterEnd, id)
		}
	})
	return sorted(after), sorted(afterEnd)
}

// eachNeed calls f for each instance that may have to be waited for before
// instances of a container start. Done work is not.
func (a *arrangement) eachNeed(name string, f func(spec.Dependency, *change)) {
	for _, dep := range sortedKeys(a.starts.needs[name]) {
		d := a.starts.needs[name][dep]
		if !a.waits[dep] {
			continue
		}
		for _, ch := range a.changes[dep] {
			if settled := d.Condition == spec.ConditionHealthy && ch.healthy; !ch.done && !settled {
				f(d, ch)
			}
		}
	}
}

// gatherAwaits finds which conditions somebody waits for.
func (a *arrangement) gatherAwaits() {
	a.awaits = make(map[awaitKey]*await)
	for _, name := range a.starts.order() {
		if !slices.ContainsFunc(a.changes[name], func(ch *change) bool { return ch.start != "" }) {
			continue
		}
		a.eachNeed(name, func(d spec.Dependency, ch *change) {
			if d.Condition == spec.ConditionStarted {
				return
			}
			w := a.awaits[awaitKey{ch, d.Condition}]
			if w == nil {
				w = &await{}
				a.awaits[awaitKey{ch, d.Condition}] = w
			}
			w.by = append(w.by, name)
			w.required = w.required || d.Required
		})
	}
}

func (a *arrangement) addAwait(ch *change, condition spec.Condition) {
	w := a.awaits[awaitKey{ch, condition}]
	if w == nil {
		return
	}
	slices.Sort(w.by)
	verb := "waits"
	if len(w.by) > 1 {
		verb = "wait"
	}
	var after []int
	if id := a.started[ch]; id != 0 {
		after = []int{id}
	}
	w.id = a.plan.add(Step{
		Op: Await{Target: ch.Target, Condition: condition}, After: after, Optional: !w.required,
		Cause: fmt.Sprintf("%s %s for it", list(w.by), verb),
	})
}

// byIndex sorts the changes of a container by index, downwards where sign is -1.
func byIndex(changes []*change, sign int) []*change {
	return slices.SortedStableFunc(slices.Values(changes), func(a, b *change) int {
		return sign * cmp.Or(cmp.Compare(a.Index, b.Index), cmp.Compare(a.Instance, b.Instance))
	})
}

// sorted answers ids sorted and without doubles, nil for none.
func sorted(ids []int) []int {
	if len(ids) == 0 {
		return nil
	}
	ids = slices.Clone(ids)
	slices.Sort(ids)
	return slices.Compact(ids)
}
