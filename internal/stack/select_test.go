package stack

import (
	"slices"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/spec"
)

// shop is a world with a replica and an instance that run has made.
func shop() state.World {
	return state.World{Stack: "shop", Instances: []state.Instance{
		{Name: "db-1", Container: "db", Index: 1}, {Name: "once", Container: "web"},
		{Name: "web-1", Container: "web", Index: 1}, {Name: "web-2", Container: "web", Index: 2},
	}}
}

func names(all []state.Instance) string {
	var out []string
	for _, i := range all {
		out = append(out, i.Name)
	}
	return strings.Join(out, " ")
}

func TestPick(t *testing.T) {
	for _, c := range []struct{ names, want string }{
		{"", "db-1 once web-1 web-2"}, {"web", "once web-1 web-2"}, {"web-2 db", "db-1 web-2"}, {"once", "once"},
	} {
		got, err := pick(shop(), strings.Fields(c.names))
		if err != nil || names(got) != c.want {
			t.Errorf("%q: got %s, %v", c.names, names(got), err)
		}
	}
	_, err := pick(shop(), []string{"web", "wob"})
	if !errs.Is(err, errs.NotFound) || errs.HintOf(err) != "there is db, db-1, once, web, web-1, web-2" {
		t.Errorf("got %v, %q", err, errs.HintOf(err))
	}
}

func TestOne(t *testing.T) {
	for _, c := range []struct {
		name  string
		index int
		want  string // "": there is none
	}{{"web", 0, "web-1"}, {"web", 2, "web-2"}, {"web-2", 0, "web-2"}, {"once", 0, "once"}, {"web", 3, ""}, {"wob", 0, ""}} {
		got, err := one(shop(), c.name, c.index)
		if got.Name != c.want || errs.Is(err, errs.NotFound) != (c.want == "") {
			t.Errorf("%s %d: got %q, %v", c.name, c.index, got.Name, err)
		}
	}
}

// Containers are named to the planner; a single instance is a world of its own.
func TestScope(t *testing.T) {
	world, only, err := scope(shop(), []string{"web"})
	if err != nil || len(world.Instances) != 4 || !slices.Equal(only, []string{"web"}) {
		t.Errorf("got %s, %q, %v", names(world.Instances), only, err)
	}
	world, only, err = scope(shop(), []string{"web-2", "db"})
	if err != nil || names(world.Instances) != "db-1 web-2" || only != nil {
		t.Errorf("got %s, %q, %v", names(world.Instances), only, err)
	}
}

func declared() *spec.Stack {
	after := func(name string, condition spec.Condition) map[string]spec.Dependency {
		return map[string]spec.Dependency{name: {Condition: condition}}
	}
	return &spec.Stack{Containers: map[string]spec.Container{
		"prepare": {}, "db": {}, "web": {DependsOn: after("db", "started")},
		"tests": {DependsOn: after("prepare", spec.ConditionCompleted)},
	}}
}

func TestReach(t *testing.T) {
	for _, c := range []struct {
		names  string
		noDeps bool
		want   string
	}{{"web", false, "db web"}, {"web", true, "web"}, {"", false, "db prepare tests web"}, {"tests db", false, "db prepare tests"}} {
		var got []string
		for name := range reach(declared(), strings.Fields(c.names), c.noDeps) {
			got = append(got, name)
		}
		if slices.Sort(got); strings.Join(got, " ") != c.want {
			t.Errorf("%q %v: got %q", c.names, c.noDeps, got)
		}
	}
}

// An end ends the stack as it was asked for. What others wait for may exit with 0.
func TestAborts(t *testing.T) {
	well, badly := shimproto.Status{State: lifecycle.Stopped, Exit: &state.Exit{}}, shimproto.Status{State: lifecycle.Stopped, Exit: &state.Exit{Code: 3}}
	lost := shimproto.Status{State: lifecycle.Errored}
	for _, c := range []struct {
		abort     Abort
		container string
		st        shimproto.Status
		want      bool
	}{
		{Never, "db", badly, false}, {Never, "db", lost, false},
		{OnFailure, "db", well, false}, {OnFailure, "db", badly, true}, {OnFailure, "db", lost, true}, {OnFailure, "prepare", badly, true},
		{OnExit, "db", well, true}, {OnExit, "prepare", well, false}, {OnExit, "prepare", badly, true}, {OnExit, "prepare", lost, true},
	} {
		if got := (AttachOptions{Abort: c.abort}).aborts(declared(), state.Instance{Container: c.container}, c.st); got != c.want {
			t.Errorf("%+v: got %v", c, got)
		}
	}
}

// Show and Hide choose the containers whose output is shown; Hide leads.
func TestShows(t *testing.T) {
	o := AttachOptions{Show: []string{"db", "web"}, Hide: []string{"web"}}
	for container, want := range map[string]bool{"db": true, "web": false, "tests": false} {
		if got := o.shows(container); got != want {
			t.Errorf("%s: got %v", container, got)
		}
	}
	if !(AttachOptions{}).shows("db") {
		t.Error("nothing is shown where nothing was said")
	}
}
