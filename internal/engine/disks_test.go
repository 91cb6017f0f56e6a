package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/planner"
	"github.com/vzcompose/vzcompose/spec"
)

// running records an instance whose shim is alive until the test ends.
func running(t *testing.T, s *Stack, rec store.Instance) {
	t.Helper()
	declare(t, s, rec, nil)
	lock, err := s.o.Home.LockInstance(s.Name, rec.Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(lock.Release)
}

func planOf(ops ...planner.Op) *planner.Plan {
	p := &planner.Plan{}
	for i, op := range ops {
		p.Steps = append(p.Steps, planner.Step{ID: i + 1, Op: op})
	}
	return p
}

// A disk that one machine has is refused to another before anything is done, with
// who has it, whichever way it came to have it.
func TestDisksInUse(t *testing.T) {
	s := newStack(t, Options{})
	other := &Stack{Engine: s.Engine, Name: "other"}
	for _, name := range []string{"data", "read", "free"} {
		if err := s.volumes().Create(name, 64<<20); err != nil {
			t.Fatal(err)
		}
	}
	block := filepath.Join(t.TempDir(), "block")
	link := block + "-link"
	if err := os.WriteFile(block, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(block, link); err != nil {
		t.Fatal(err)
	}
	volume := func(name string, ro bool) store.Disk {
		return store.Disk{ID: "disk0", Path: s.volumes().Path(name), ReadOnly: ro}
	}
	running(t, s, store.Instance{Name: "db-1", Container: "db", Volumes: []store.Disk{volume("data", false)}})
	running(t, s, store.Instance{Name: "db-run-x", Container: "db", Volumes: []store.Disk{volume("read", true)}})
	running(t, other, store.Instance{Name: "raw-1", Container: "raw", Volumes: []store.Disk{{ID: "disk0", Path: block, Type: "auto"}}})
	declare(t, s, store.Instance{Name: "old-1", Volumes: []store.Disk{volume("free", false)}}, nil) // does not run
	declare(t, s, store.Instance{Name: "web-1", Volumes: []store.Disk{volume("data", true)}}, nil)
	target := func(name string) planner.Target { return planner.Target{Container: name, Instance: name + "-1"} }
	mounts := func(m ...spec.Mount) spec.Container { return spec.Container{Mounts: m} }
	create := func(name string, m ...spec.Mount) []planner.Op {
		return []planner.Op{planner.Create{Target: target(name), Spec: mounts(m...)}, planner.Start{Target: target(name)}}
	}
	ro := []string{"ro"}
	for name, c := range map[string]struct {
		ops  []planner.Op
		want string // of the error; "": none
	}{
		"a volume that is written": {create("a", spec.Mount{Type: "volume", Source: "data"}), `volume "data", which a-1 asks for, is in use by db-1`},
		"to read what is written":  {create("a", spec.Mount{Type: "volume", Source: "data", Options: ro}), "in use by db-1"},
		"to write what is read":    {create("a", spec.Mount{Type: "volume", Source: "read"}), `in use by db-run-x`},
		"to read what is read":     {create("a", spec.Mount{Type: "volume", Source: "read", Options: ro}), ""},
		"a volume of nobody":       {create("a", spec.Mount{Type: "volume", Source: "free"}), ""},
		"a volume that is made":    {create("a", spec.Mount{Type: "volume", Source: "new"}), ""},
		"a disk of another stack":  {create("a", spec.Mount{Type: "block", Source: block}), "disk " + block + ", which a-1 asks for, is in use by raw-1 of stack other"},
		"by another path":          {create("a", spec.Mount{Type: "block", Source: link, Options: ro}), "in use by raw-1 of stack other"},
		"a root":                   {append([]planner.Op{planner.Create{Target: target("a"), Spec: spec.Container{RootFS: &spec.RootFS{Block: block}}}}, planner.Start{Target: target("a")}), "in use by raw-1"},
		"as it is on record":       {[]planner.Op{planner.Start{Target: target("web")}}, `volume "data", which web-1 asks for, is in use by db-1`},
		"who has it is stopped":    {append([]planner.Op{planner.Stop{Target: target("db")}}, create("a", spec.Mount{Type: "volume", Source: "data"})...), ""},
		"who has it is started":    {[]planner.Op{planner.Start{Target: target("db")}}, ""},
		"nothing starts":           {create("a", spec.Mount{Type: "volume", Source: "data"})[:1], ""},
	} {
		err := s.Check(t.Context(), planOf(c.ops...), state.World{})
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (!errs.Is(err, errs.FailedPrecondition) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want: %s", name, err, c.want)
		}
	}
	err := s.Check(t.Context(), planOf(create("a", spec.Mount{Type: "block", Source: block})...), state.World{})
	if hint := errs.HintOf(err); !strings.Contains(hint, "vzcompose -n other stop raw-1") {
		t.Errorf("the hint is %q", hint)
	}
}
