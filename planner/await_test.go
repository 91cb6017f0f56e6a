package planner

import (
	"testing"

	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/spec"
)

func TestAwaitUp(t *testing.T) {
	stack := &spec.Stack{Name: "test", Containers: map[string]spec.Container{
		"web":   {HealthCheck: &spec.HealthCheck{}},
		"job":   {},
		"again": {Restart: spec.Restart{Policy: "on-failure"}},
		"first": {Restart: spec.Restart{Policy: "on-failure"}},
		"then":  {DependsOn: map[string]spec.Dependency{"first": {Condition: spec.ConditionCompleted}}},
	}}
	var world state.World
	world.Stack = "test"
	for _, name := range []string{"again", "first", "job", "old", "web"} {
		world.Instances = append(world.Instances, state.Instance{Container: name, Name: name + "-1", Index: 1})
	}
	world.Instances = append(world.Instances, state.Instance{Container: "job", Name: "job-run-x"})
	ends := map[string]bool{}
	for _, s := range AwaitUp(stack, world, nil).Steps {
		op := s.Op.(Await)
		ends[op.Instance] = op.Ends
		if op.Condition != CondUp || len(s.After) > 0 {
			t.Errorf("%+v", s)
		}
	}
	for name, want := range map[string]bool{"again-1": false, "first-1": true, "job-1": true, "web-1": false} {
		if got, ok := ends[name]; !ok || got != want {
			t.Errorf("%s: %v, %v; its end is as good: want %v", name, got, ok, want)
		}
	}
	if len(ends) != 4 {
		t.Errorf("what is not declared, and one-offs, are not waited for: %v", ends)
	}
	if p := AwaitUp(stack, world, []string{"web", "job-1"}); p.String() != "#1 await up container/job-1 (asked to wait)\n#2 await up container/web-1 (asked to wait)\n" {
		t.Errorf("got %s", p)
	}
}
