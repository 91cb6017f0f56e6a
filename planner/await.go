package planner

import (
	"slices"

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
	for i := range observed.Instances {
		o := &observed.Instances[i]
		c, declared := desired.Containers[o.Container]
		if o.Index == 0 || !declared || len(only) > 0 && !slices.Contains(only, o.Container) && !slices.Contains(only, o.Name) {
			continue
		}
		p.add(Step{Op: Await{Target: targetOf(o), Condition: CondUp, Ends: ends(desired, o.Container, c)}, Cause: "asked to wait"})
	}
	return p
}

// ends reports whether a container is to exit with 0 sooner or later.
func ends(desired *spec.Stack, name string, c spec.Container) bool {
	for _, other := range desired.Containers {
		if d, ok := other.DependsOn[name]; ok && d.Condition == spec.ConditionCompleted {
			return true
		}
	}
	return c.HealthCheck == nil && (c.Restart.Policy == "" || c.Restart.Policy == "no")
}
