package planner

import (
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/spec"
)

func TestAwaitUp(t *testing.T) {
	stack := &spec.Stack{Name: "test", Containers: map[string]spec.Container{
		"web":   {HealthCheck: &spec.HealthCheck{Test: []string{"CMD", "true"}}},
		"image": {Image: "checked"},
		"none":  {Image: "checked", HealthCheck: &spec.HealthCheck{Test: []string{"NONE"}}},
		"part":  {Image: "checked", HealthCheck: &spec.HealthCheck{Retries: 1}},
		"plain": {Image: "plain"},
		"job":   {},
		"again": {Restart: spec.Restart{Policy: "on-failure"}},
		"first": {Restart: spec.Restart{Policy: "on-failure"}},
		"then":  {DependsOn: map[string]spec.Dependency{"first": {Condition: spec.ConditionCompleted}}},
	}}
	var world state.World
	world.Stack = "test"
	world.Images = []state.Image{{Ref: "checked", Digest: "sha256:1", Checked: true}, {Ref: "plain", Digest: "sha256:2"}}
	for _, name := range []string{"again", "first", "image", "job", "none", "old", "part", "plain", "web"} {
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
	for name, want := range map[string]bool{"again-1": false, "first-1": true, "job-1": true, "web-1": false, "image-1": false, "none-1": true, "part-1": false, "plain-1": true} {
		if got, ok := ends[name]; !ok || got != want {
			t.Errorf("%s: %v, %v; its end is as good: want %v", name, got, ok, want)
		}
	}
	if len(ends) != 8 {
		t.Errorf("what is not declared, and one-offs, are not waited for: %v", ends)
	}
	if p := AwaitUp(stack, world, []string{"web", "job-1"}); p.String() != "#1 await up container/job-1 (asked to wait)\n#2 await up container/web-1 (asked to wait)\n" {
		t.Errorf("got %s", p)
	}
}

// What waits for the health of a container that has no check is found before
// anything is done, as far as it is known.
func TestUpFindsNoHealthCheck(t *testing.T) {
	world := state.World{Stack: "test", Images: []state.Image{{Ref: "checked", Digest: "sha256:1", Checked: true}, {Ref: "plain", Digest: "sha256:2"}}}
	for _, c := range []struct {
		name string
		dep  spec.Container
		want bool // to be found
	}{
		{"the image has one", spec.Container{Image: "checked"}, false},
		{"the image's, oftener", spec.Container{Image: "checked", HealthCheck: &spec.HealthCheck{Retries: 1}}, false},
		{"neither has one", spec.Container{Image: "plain"}, true},
		{"a part, and no test", spec.Container{Image: "plain", HealthCheck: &spec.HealthCheck{Retries: 1}}, true},
		{"of the file", spec.Container{Image: "plain", HealthCheck: &spec.HealthCheck{Test: []string{"CMD", "a"}}}, false},
		{"not known yet", spec.Container{Image: "far"}, false},
		{"pulled anew", spec.Container{Image: "plain", Pull: "always"}, false},
	} {
		c.dep.Replicas = 1
		stack := &spec.Stack{Name: "test", Containers: map[string]spec.Container{"db": c.dep,
			"web": {Image: "plain", Replicas: 1, DependsOn: map[string]spec.Dependency{"db": {Condition: spec.ConditionHealthy, Required: true}}}}}
		_, err := Up(stack, world, Options{})
		if (err != nil) != c.want || c.want && !strings.Contains(err.Error(), "web waits for db to be healthy") {
			t.Errorf("%s: %v", c.name, err)
		}
		if _, err := Up(stack, world, Options{Only: []string{"db"}}); err != nil {
			t.Errorf("%s, alone: %v", c.name, err)
		}
	}
}

// The volumes that an instance has for its image go with down -v, when the
// instance is gone too, and with nothing else.
func TestDownRemovesVolumesOfImages(t *testing.T) {
	world := state.World{Stack: "test",
		Instances: []state.Instance{{Container: "db", Name: "db-1", Index: 1}, {Container: "web", Name: "web-1", Index: 1}},
		Volumes:   []state.Volume{{Name: "db-1.data", Instance: "db-1"}, {Name: "db-2.data", Instance: "db-2"}, {Name: "web-1.x", Instance: "web-1"}}}
	for _, c := range []struct {
		o    DownOptions
		want string
	}{
		{DownOptions{}, ""},
		{DownOptions{Volumes: true}, "db-1.data db-2.data web-1.x"},
		{DownOptions{Volumes: true, Only: []string{"db"}}, "db-1.data db-2.data"},
	} {
		var gone []string
		plan := Down(world, c.o)
		for _, s := range plan.Steps {
			if op, ok := s.Op.(RemoveVolume); ok {
				gone = append(gone, op.Name)
				if (op.Name != "db-2.data") != (len(s.After) == 1) {
					t.Errorf("%s comes after %v", op.Name, s.After)
				}
			}
		}
		if got := strings.Join(gone, " "); got != c.want {
			t.Errorf("%+v: %s", c.o, plan)
		}
	}
}
