package engine

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/planner"
	"github.com/vzcompose/vzcompose/spec"
)

// damages are what may become of a record: cut off, and written by another
// version of this program.
func damages() map[string]string {
	return map[string]string{"cut off": "{", "of another version": `{"version":99}`, "empty": ""}
}

func overwrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Whatever is damaged, what runs is seen as running, stops in order and can be
// removed; the damage is named with its path.
func TestDamageKeepsNobodyFromWhatRuns(t *testing.T) {
	for name, text := range damages() {
		t.Run(name, func(t *testing.T) {
			s := newShop(t, orderly, Options{}, "sleep", "infinity")
			must(t, s, planner.Start{Target: web})
			home := s.o.Home
			config, last := filepath.Join(home.Instance(s.Name, "web-1"), "config.json"), filepath.Join(home.Instance(s.Name, "web-1"), "state.json")
			for _, path := range []string{config, last, home.NetworkRecord(s.Name), home.Leases(s.Name), home.StackRecord(s.Name), filepath.Join(home.Images(), "index.json")} {
				overwrite(t, path, text)
			}
			w, err := s.Observe(t.Context(), []string{"busybox"})
			if err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{home.NetworkRecord(s.Name), home.Leases(s.Name), home.StackRecord(s.Name), filepath.Join(home.Images(), "index.json")} {
				if !slices.ContainsFunc(w.Damage, func(d string) bool { return strings.Contains(d, path) }) {
					t.Errorf("%s is not named: %q", path, w.Damage)
				}
			}
			if i := w.Instances[0]; i.State != lifecycle.Started || i.PID == 0 || !strings.Contains(i.Broken, config) {
				t.Errorf("got %+v", i)
			}
			if all, err := s.List(t.Context()); err != nil || len(all) != 1 || len(all[0].Instances) != 1 || len(all[0].Damage) == 0 {
				t.Errorf("in the list: %+v, %v", all, err)
			}
			if err := run(t, s, planner.Remove{Target: web}); !errs.Is(err, errs.FailedPrecondition) {
				t.Errorf("what runs was removed: %v", err)
			}
			plan := planner.Down(w, planner.DownOptions{})
			for _, step := range plan.Steps {
				must(t, s, step.Op)
			}
			if err := s.RemoveStack(t.Context()); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(home.Stack(s.Name)); !os.IsNotExist(err) {
				t.Errorf("the folder: %v", err)
			}
		})
	}
}

// A stop of an instance whose record is damaged is as orderly as any other.
func TestStopWithDamagedRecords(t *testing.T) {
	s := newShop(t, orderly, Options{}, "sleep", "infinity")
	must(t, s, planner.Start{Target: web})
	write(t, s, "web-1", "config.json", "{")
	write(t, s, "web-1", "state.json", "{")
	must(t, s, planner.Stop{Target: web})
	if st, err := s.o.Home.ReadState(s.Name, "web-1"); err != nil || st.State != lifecycle.Stopped || st.Exit == nil || st.Exit.Signal != "SIGTERM" {
		t.Errorf("got %+v, %v", st, err)
	}
}

// What is known of an instance that ended does not keep it from starting again.
func TestStartAfterALostState(t *testing.T) {
	s := newShop(t, orderly, Options{}, "sleep", "infinity")
	write(t, s, "web-1", "state.json", "{")
	if i := observed(t, s, "web-1"); i.State != lifecycle.Errored || i.Broken != "" || !strings.Contains(i.Cause, "state.json") {
		t.Errorf("before: %+v", i)
	}
	must(t, s, planner.Start{Target: web})
	if i := observed(t, s, "web-1"); i.State != lifecycle.Started || i.Cause != "" {
		t.Errorf("after: %+v", i)
	}
	must(t, s, planner.Stop{Target: web})
}

func TestDamageOfOneStackIsNotAnothers(t *testing.T) {
	s := newStack(t, Options{})
	bank := &Stack{Engine: s.Engine, Name: "bank", Dir: "/bank", Files: []string{"/bank/vz.yaml"}}
	if err := bank.record(); err != nil {
		t.Fatal(err)
	}
	declare(t, bank, store.Instance{Container: "db", Name: "db-1", Index: 1}, nil)
	write(t, s, "web-1", "config.json", "{")
	overwrite(t, s.o.Home.StackRecord(s.Name), "{")
	overwrite(t, s.o.Home.Leases(s.Name), "{")
	all, err := s.List(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatalf("got %+v, %v", all, err)
	}
	if b := all[0]; b.Name != "bank" || len(b.Damage) != 0 || len(b.Files) != 1 || len(b.Instances) != 1 {
		t.Errorf("the sound one: %+v", b)
	}
	if d := all[1]; d.Name != "shop" || len(d.Damage) != 2 || len(d.Instances) != 1 {
		t.Errorf("the damaged one: %+v", d)
	}
}

// Addresses survive the loss of the book that has them: the records of the
// instances have them too. The damaged one is kept.
func TestLeasesAreRecovered(t *testing.T) {
	for name, text := range damages() {
		t.Run(name, func(t *testing.T) {
			s := newStack(t, Options{})
			define := func() {
				t.Helper()
				if err := s.defineNetwork("default", spec.Network{}); err != nil {
					t.Fatal(err)
				}
			}
			give := func(instance string) store.Interface {
				t.Helper()
				all, err := s.interfaces(instance, spec.Container{Interfaces: []spec.Interface{{Network: "default"}}})
				if err != nil {
					t.Fatal(err)
				}
				return all[0]
			}
			define()
			give("web-1")
			second := give("web-2")
			declare(t, s, store.Instance{Container: "web", Name: "web-2", Index: 2, Interfaces: []store.Interface{second}}, nil)
			overwrite(t, s.o.Home.Leases(s.Name), text)
			overwrite(t, s.o.Home.NetworkRecord(s.Name), text)
			define() // as a plan does that knows of no network
			if again := give("web-2"); again.Addresses[0] != second.Addresses[0] || again.MAC != second.MAC || again.On != second.On {
				t.Errorf("got %+v, had %+v", again, second)
			}
			if other := give("web-3"); other.Addresses[0] == second.Addresses[0] {
				t.Errorf("%v was given twice", other.Addresses[0])
			}
			for _, path := range []string{s.o.Home.Leases(s.Name), s.o.Home.NetworkRecord(s.Name)} {
				if b, err := os.ReadFile(path + ".damaged"); err != nil || string(b) != text {
					t.Errorf("%s: %q, %v", path, b, err)
				}
			}
			if err := s.returnLeases("web-2"); err != nil {
				t.Error(err)
			}
		})
	}
}

// Records that contradict each other cost an instance its address, no more.
func TestRecoveryOfContradictions(t *testing.T) {
	s := newStack(t, Options{})
	at := func(address, gateway string) []store.Interface {
		return []store.Interface{{Network: "default", MAC: "02:00:00:00:00:01", Addresses: []netip.Prefix{netip.MustParsePrefix(address)},
			On: store.Network{Gateway: netip.MustParsePrefix(gateway)}}}
	}
	for name, all := range map[string][]store.Interface{
		"a-1": at("10.1.0.2/24", "10.1.0.1/24"),
		"b-1": at("10.1.0.2/24", "10.1.0.1/24"), // the same address
		"c-1": at("10.2.0.2/24", "10.2.0.1/24"), // another subnet
		"d-1": at("10.9.0.2/24", "10.1.0.1/24"), // outside of it
		"e-1": {{Network: "default"}},           // nothing
	} {
		declare(t, s, store.Instance{Container: name[:1], Name: name, Index: 1, Interfaces: all}, nil)
	}
	b, err := s.rebuildBook()
	if err != nil || len(b.Leases("")) != 1 || b.Leases("")[0].Instance != "a-1" {
		t.Errorf("got %+v, %v", b, err)
	}
}

func TestRecordsThatCouldNotBeReadAgainAreNotWritten(t *testing.T) {
	s := newStack(t, Options{})
	declare(t, s, store.Instance{Container: "web", Name: "web-1", Index: 1}, nil)
	big, err := json.Marshal(strings.Repeat("x", 8<<20))
	if err != nil {
		t.Fatal(err)
	}
	rec := store.Instance{Stack: s.Name, Container: "web", Name: "web-1", Spec: big}
	if err := s.o.Home.WriteInstance(rec); !errs.Is(err, errs.InvalidArgument) || errs.HintOf(err) == "" {
		t.Errorf("got %v", err)
	}
	if i := observed(t, s, "web-1"); i.Broken != "" {
		t.Errorf("the record that was there: %+v", i)
	}
	rec.Spec = json.RawMessage(`"` + strings.Repeat("<", 2<<20) + `"`) // no character costs six
	if err := s.o.Home.WriteInstance(rec); err != nil {
		t.Errorf("2 MiB: %v", err)
	}
}
