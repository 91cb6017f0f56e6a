package planner

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/spec"
)

func TestJSON(t *testing.T) {
	p := &Plan{Stack: "test", Warnings: []string{"old-1: not in the stack file"}}
	web := Target{"web", "web-1", 1}
	for _, op := range []Op{
		Pull{"busybox", "missing"}, CreateVolume{"data", 1024, false}, RemoveVolume{"data"},
		Stop{web, true}, Remove{web}, Start{web, 0.5, 128 * mib}, Await{Target: web, Condition: spec.ConditionHealthy},
	} {
		p.add(Step{Op: op, Cause: "why"})
	}
	p.Steps[6].After, p.Steps[6].AfterEnd, p.Steps[6].Optional = []int{6}, []int{3}, true
	want := `{"version":1,"stack":"test","steps":[
{"id":1,"op":{"type":"pull","image":"busybox","policy":"missing"},"cause":"why"},
{"id":2,"op":{"type":"create_volume","volume":"data","size":1024},"cause":"why"},
{"id":3,"op":{"type":"remove_volume","volume":"data"},"cause":"why"},
{"id":4,"op":{"type":"stop","container":"web","instance":"web-1","index":1,"discard":true},"cause":"why"},
{"id":5,"op":{"type":"remove","container":"web","instance":"web-1","index":1},"cause":"why"},
{"id":6,"op":{"type":"start","container":"web","instance":"web-1","index":1,"cpus":0.5,"memory":134217728},"cause":"why"},
{"id":7,"op":{"type":"await","container":"web","instance":"web-1","index":1,"condition":"healthy"},"after":[6],"after_end":[3],"optional":true,"cause":"why"}
],"warnings":["old-1: not in the stack file"]}`
	if got := compact(t, p); got != strings.ReplaceAll(want, "\n", "") {
		t.Errorf("got\n%s", got)
	}
	if got := compact(t, &Plan{Stack: "test"}); got != `{"version":1,"stack":"test","steps":[]}` {
		t.Errorf("got\n%s", got)
	}
}

func TestJSONCarriesTheSpec(t *testing.T) {
	p := &Plan{}
	p.add(Step{Op: Create{Target{"web", "web-1", 1}, container()}, Cause: "why"})
	p.add(Step{Op: Update{Target{"web", "web-1", 1}, container(), true}, Cause: "why"})
	got := compact(t, p)
	raw, _ := json.Marshal(container())
	for _, want := range []string{`"type":"create"`, `"spec":` + string(raw) + `}`, `"spec":` + string(raw) + `,"live":true`} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
}

func compact(t *testing.T, p *Plan) string {
	t.Helper()
	b, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var v json.RawMessage = b
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
