package planner

import (
	"fmt"
	"slices"

	"github.com/vzcompose/vzcompose/internal/diag"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/spec"
)

// AwaitUp returns how to wait until the instances of the named containers, or
// where none is named of all that are declared, are up. An instance may be named
// too. The end with 0 counts as up where nothing else is expected of the
// container: it is not restarted then and has no health check, or others wait
// for it to be completed.
func AwaitUp(desired *spec.Stack, observed state.World, only []string) *Plan {
	p := &Plan{Stack: observed.Stack}
	checked := checkedImages(observed)
	for i := range observed.Instances {
		o := &observed.Instances[i]
		c, declared := desired.Containers[o.Container]
		if o.Index == 0 || !declared || len(only) > 0 && !slices.Contains(only, o.Container) && !slices.Contains(only, o.Name) {
			continue
		}
		p.add(Step{Op: Await{Target: targetOf(o), Condition: CondUp, Ends: ends(desired, o.Container, c, checked[c.Image])}, Cause: "asked to wait"})
	}
	return p
}

// ends reports whether a container is to exit with 0 sooner or later.
func ends(desired *spec.Stack, name string, c spec.Container, image bool) bool {
	for _, other := range desired.Containers {
		if d, ok := other.DependsOn[name]; ok && d.Condition == spec.ConditionCompleted {
			return true
		}
	}
	return !c.Checked(image) && (c.Restart.Policy == "" || c.Restart.Policy == "no")
}

// checkedImages are the references whose images have a health check.
func checkedImages(w state.World) map[string]bool {
	all := make(map[string]bool)
	for _, i := range w.Images {
		all[i.Ref] = i.Checked
	}
	return all
}

// checkHealth finds what waits for the health of a container that has no check. Of
// an image that is not here, or will be another, it is not known; the step that
// waits finds it then.
func (u *up) checkHealth() error {
	var fs diag.Findings
	checked := checkedImages(u.observed)
	for _, name := range u.graph.order() {
		for _, dep := range sortedKeys(u.graph.needs[name]) {
			c := u.desired[dep]
			if !u.selected[name] || !u.selected[dep] || u.graph.needs[name][dep].Condition != spec.ConditionHealthy ||
				c.Image == "" || u.digests[c.Image] == "" || c.Pull == "always" || c.Checked(checked[c.Image]) {
				continue
			}
			fs = append(fs, diag.Finding{Position: diag.Position{File: "depends_on"},
				Message: fmt.Sprintf("%s waits for %s to be healthy, and neither the stack file nor image %s has a health check for it", name, dep, c.Image),
				Hint:    "give it a healthcheck, or wait for started"})
		}
	}
	return fs.Err()
}
