package engine

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/network/lease"
	"github.com/vzcompose/vzcompose/internal/store"
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

// The address of the host is that of a gateway with a way out.
func TestHostGateway(t *testing.T) {
	on := []store.Interface{
		{Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.5/24")}, On: store.Network{Gateway: netip.MustParsePrefix("10.1.0.1/24"), Internal: true}},
		{Addresses: []netip.Prefix{netip.MustParsePrefix("10.2.0.5/24")}, On: store.Network{Gateway: netip.MustParsePrefix("10.2.0.1/24"), Gateway6: netip.MustParsePrefix("fd00::1/64")}},
	}
	entries := map[string][]string{"10.2.0.1": {"gate"}, spec.HostGateway: {"host", "docker_host"}, "192.0.2.1": {"far"}}
	want := "127.0.0.1\tlocalhost\n10.1.0.5\tweb-1\n10.2.0.5\tweb-1\n10.2.0.1\tgate host docker_host\n192.0.2.1\tfar\nfd00::1\thost docker_host\n"
	for range 2 { // entries stay as they are
		if got := hostsFile(entries, on, "web-1"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := hostsFile(entries, on[:1], "web-1"); strings.Contains(got, "docker_host") {
		t.Errorf("of an internal network: %q", got)
	}
}
