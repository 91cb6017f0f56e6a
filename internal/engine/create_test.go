package engine

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/network/lease"
	"github.com/vzcompose/vzcompose/planner"
	"github.com/vzcompose/vzcompose/spec"
)

// A create and an update that fail leave the leases as they were.
func TestFailureReturnsLeases(t *testing.T) {
	s := newStack(t, Options{CPUs: 1})
	root := filepath.Join(t.TempDir(), "root")
	if err := os.WriteFile(root, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, s, planner.CreateNetwork{Name: "front", Spec: spec.Network{Subnet: []string{"10.40.0.0/24"}}})
	c := spec.Container{RootFS: &spec.RootFS{Block: root}, Command: []string{"true"}, CPUs: 1, Memory: 64 << 20,
		Interfaces: []spec.Interface{{Network: "front"}}}
	leases := func() []lease.Lease {
		t.Helper()
		all, err := s.leasesOf("web-1")
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	write(t, s, "web-1", "in-the-way", "")
	if err := run(t, s, planner.Create{Target: web, Spec: c}); err == nil || !strings.Contains(err.Error(), "make the instance's folder") {
		t.Fatalf("create: %v", err)
	}
	if got := leases(); len(got) > 0 {
		t.Errorf("a create that failed left %v", got)
	}
	if err := os.RemoveAll(s.o.Home.Instance(s.Name, "web-1")); err != nil {
		t.Fatal(err)
	}
	must(t, s, planner.Create{Target: web, Spec: c})
	had := leases()
	lock, err := s.o.Home.LockInstance(s.Name, "web-1") // it cannot be updated while it runs
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	c.Interfaces[0].Address = []string{"10.40.0.77/24"}
	if err := run(t, s, planner.Update{Target: web, Spec: c}); err == nil {
		t.Error("what runs was updated")
	}
	if got := leases(); len(had) != 1 || !slices.Equal(got, had) {
		t.Errorf("an update that failed left %v, before it were %v", got, had)
	}
}

// The name of an instance may be longer than that of a host.
func TestLongNamesAreHostNames(t *testing.T) {
	s := newStack(t, Options{CPUs: 1})
	root := filepath.Join(t.TempDir(), "root")
	if err := os.WriteFile(root, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := spec.Container{RootFS: &spec.RootFS{Block: root}, Command: []string{"true"}, CPUs: 1, Memory: 64 << 20}
	name := strings.Repeat("My.App_x", 8)[:63] + "-1"
	must(t, s, planner.Create{Target: planner.Target{Container: name[:63], Instance: name, Index: 1}, Spec: c})
	rec, err := s.o.Home.ReadInstance(s.Name, name)
	if err != nil || rec.Runtime.Hostname != name[:64] {
		t.Errorf("%+v, %v", rec.Runtime, err)
	}
}
