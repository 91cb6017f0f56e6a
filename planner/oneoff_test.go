package planner

import (
	"testing"

	"github.com/vzcompose/vzcompose/internal/diag"
	"github.com/vzcompose/vzcompose/internal/state"
)

// withOneOff adds a one-off of web, like web-1.
func withOneOff(w state.World, edit func(*state.Instance)) state.World {
	for _, o := range w.Instances {
		if o.Name == "web-1" {
			o.Name, o.Index = "web-run-x", 0
			edit(&o)
			w.Instances = append(append([]state.Instance(nil), w.Instances...), o)
			break
		}
	}
	return w
}

func TestOneOff(t *testing.T) {
	s := stack("db", container(), "web", container(needs("db healthy"), replicas(2)), "other", container())
	one := Options{Only: []string{"web"}, OneOff: "web-run-x"}
	alone := one
	alone.NoDeps = true
	for _, c := range []upCase{
		{name: "with what it depends on", stack: s, o: one, want: `
#1 pull image/busybox (image busybox is not here)
#2 create container/db-1 after [1] (does not exist)
#3 start container/db-1 after [2] (new)
#4 await healthy container/db-1 after [3] (web waits for it)
#5 create container/web-run-x after [1] (asked to run)
#6 start container/web-run-x after [4 5] (asked to run)
`},
		{name: "alone, beside what runs", stack: s, world: running(s), o: alone, want: `
#1 create container/web-run-x (asked to run)
#2 start container/web-run-x after [1] (asked to run)
`},
		{name: "up leaves it alone", stack: s, world: withOneOff(running(s), func(*state.Instance) {}), want: ``},
		{name: "and so does fewer replicas", stack: s, world: withOneOff(running(s), func(*state.Instance) {}), o: Options{Scale: map[string]int{"web": 1}}, want: `
#1 stop container/web-2 (replicas 2 → 1)
#2 remove container/web-2 after [1] (replicas 2 → 1)
#3 update container/web-1 (replicas 2 → 1)
`},
	} {
		c.run(t)
	}
	if _, err := Up(s, withOneOff(running(s), func(*state.Instance) {}), one); err == nil {
		t.Error("two of one name")
	} else if _, ok := err.(diag.Findings); !ok {
		t.Errorf("%T", err)
	}
	w := withOneOff(running(s), exited(0))
	p, err := StartAll(w, nil)
	if err != nil || !p.Empty() {
		t.Errorf("start: %v, %v", p, err)
	}
	p, err = StopAll(withOneOff(running(s), func(*state.Instance) {}), []string{"web"})
	if err != nil {
		t.Fatal(err)
	}
	check(t, p, `
#1 stop container/web-2 (asked to stop)
#2 stop container/web-1 (asked to stop)
#3 stop container/web-run-x (asked to stop)
`)
}
