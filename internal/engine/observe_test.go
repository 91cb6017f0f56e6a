package engine

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/image"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/store"
)

// newStack makes the stack shop in a home of its own.
func newStack(t *testing.T, o Options) *Stack {
	t.Helper()
	run, err := os.MkdirTemp("", "vz") // a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	o.Home = store.Home{Dir: t.TempDir(), Runtime: filepath.Join(run, "r")}
	if o.Images, err = image.Open(o.Home.Images()); err != nil {
		t.Fatal(err)
	}
	return &Stack{Engine: New(o), Name: "shop"}
}

// write puts text in a file of an instance's folder.
func write(t *testing.T, s *Stack, name, file, text string) {
	t.Helper()
	dir := s.o.Home.Instance(s.Name, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// declare records an instance, and its state where there is one.
func declare(t *testing.T, s *Stack, rec store.Instance, st *store.State) {
	t.Helper()
	rec.Stack = s.Name
	if err := os.MkdirAll(s.o.Home.Instance(s.Name, rec.Name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.o.Home.WriteInstance(rec); err != nil {
		t.Fatal(err)
	}
	if st != nil {
		if err := s.o.Home.WriteState(s.Name, rec.Name, *st); err != nil {
			t.Fatal(err)
		}
	}
}

// observed answers what Observe says of one instance.
func observed(t *testing.T, s *Stack, name string) state.Instance {
	t.Helper()
	w, err := s.Observe(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(w.Instances, func(i state.Instance) bool { return i.Name == name })
	if i < 0 {
		t.Fatalf("%s is not in %+v", name, w.Instances)
	}
	return w.Instances[i]
}

func TestObserveNothing(t *testing.T) {
	s := newStack(t, Options{})
	w, err := s.Observe(t.Context(), []string{"registry.invalid/none:1"})
	if err != nil || w.Stack != "shop" || len(w.Instances)+len(w.Volumes)+len(w.Images) != 0 {
		t.Errorf("got %+v, %v", w, err)
	}
}

func TestObserveRecords(t *testing.T) {
	s := newStack(t, Options{})
	then := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	rec := store.Instance{Container: "web", Name: "web-2", Index: 2, Image: "sha256:1", Spec: json.RawMessage(`{"v":1}`), Created: then}
	declare(t, s, rec, &store.State{State: lifecycle.Stopped, Exit: &state.Exit{Code: 3, At: then}, Cause: "why",
		Started: then, Finished: then.Add(time.Second), Boots: 4, PID: 77})
	rec.Name, rec.Index = "web-1", 1
	declare(t, s, rec, nil)
	w, err := s.Observe(t.Context(), nil)
	if err != nil || len(w.Instances) != 2 {
		t.Fatalf("got %+v, %v", w, err)
	}
	if i := w.Instances[0]; i.Name != "web-1" || i.State != lifecycle.Initialized || i.Broken != "" || i.Index != 1 {
		t.Errorf("one that never ran: %+v", i)
	}
	i := w.Instances[1]
	if i.Name != "web-2" || i.Container != "web" || i.Index != 2 || i.Image != "sha256:1" || len(i.Spec) == 0 || !i.Created.Equal(then) {
		t.Errorf("its record: %+v", i)
	}
	if i.State != lifecycle.Stopped || i.Exit == nil || i.Exit.Code != 3 || i.Cause != "why" || i.Boots != 4 || i.PID != 77 ||
		!i.Started.Equal(then) || !i.Finished.Equal(then.Add(time.Second)) || i.Broken != "" {
		t.Errorf("its state: %+v", i)
	}
}

// Only the lock is a sign of life: a record that says so without it is of a
// shim that was killed.
func TestObserveLostShim(t *testing.T) {
	s := newStack(t, Options{})
	write(t, s, "web-1", "lock", "1234567890\n") // the file means nothing by itself
	for st := lifecycle.Initialized; st <= lifecycle.Errored; st++ {
		declare(t, s, store.Instance{Container: "web", Name: "web-1", Index: 1},
			&store.State{State: st, Cause: "as recorded", PID: os.Getpid(), Boots: 2})
		want, cause := st, "as recorded"
		if st.Live() {
			want, cause = lifecycle.Errored, lostShim
		}
		if i := observed(t, s, "web-1"); i.State != want || i.Cause != cause || i.Boots != 2 || i.Broken != "" {
			t.Errorf("on record as %s: %+v", st, i)
		}
	}
}

// A shim that has its lock and cannot be dialled is coming or going.
func TestObserveLockedWithoutSocket(t *testing.T) {
	s := newStack(t, Options{})
	for _, c := range []struct {
		was  lifecycle.State
		pid  int // of whoever wrote the record
		want lifecycle.State
	}{
		{lifecycle.Initialized, 0, lifecycle.Booting},
		{lifecycle.Stopped, os.Getpid() + 1, lifecycle.Booting}, // of the shim before
		{lifecycle.Stopped, os.Getpid(), lifecycle.Stopped},     // its own: it has just ended
		{lifecycle.Errored, os.Getpid(), lifecycle.Errored},
		{lifecycle.Stopping, os.Getpid(), lifecycle.Stopping},
		{lifecycle.Started, os.Getpid(), lifecycle.Started},
	} {
		was, want := c.was, c.want
		declare(t, s, store.Instance{Container: "web", Name: "web-1", Index: 1}, &store.State{State: was, PID: c.pid})
		lock, err := s.o.Home.LockInstance(s.Name, "web-1")
		if err != nil {
			t.Fatal(err)
		}
		if i := observed(t, s, "web-1"); i.State != want || i.Broken != "" {
			t.Errorf("on record as %s: %+v", was, i)
		}
		lock.Release()
	}
}

func TestObserveBroken(t *testing.T) {
	config := `{"version":1,"stack":"shop","container":"my-web","name":"my-web-3","index":3}`
	ran := `{"version":1,"state":"stopped"}`
	for name, x := range map[string]struct {
		files  map[string]string
		broken string // what makes its record unreadable; "": nothing
		cause  string
	}{
		"without record":         {files: map[string]string{"writable.img": ""}, broken: "never finished"},
		"record gone":            {files: map[string]string{"state.json": ran}, broken: "config.json"},
		"record cut short":       {files: map[string]string{"config.json": `{"version":1,`}, broken: "config.json"},
		"record cut short, ran":  {files: map[string]string{"config.json": `{"version":1,`, "state.json": ran}, broken: "config.json"},
		"empty record":           {files: map[string]string{"config.json": ""}, broken: "config.json"},
		"record of the future":   {files: map[string]string{"config.json": `{"version":99}`}, broken: "version 99"},
		"no record's type":       {files: map[string]string{"config.json": `{"version":1,"cpus":"x"}`}, broken: "config.json"},
		"state cut short":        {files: map[string]string{"config.json": config, "state.json": "{"}, cause: "state.json"},
		"state of the future":    {files: map[string]string{"config.json": config, "state.json": `{"version":99}`}, cause: "version 99"},
		"unknown state":          {files: map[string]string{"config.json": config, "state.json": `{"version":1,"state":"asleep"}`}, cause: "asleep"},
		"all of it is cut short": {files: map[string]string{"config.json": "{", "state.json": "{"}, broken: "config.json", cause: "state.json"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStack(t, Options{})
			for file, text := range x.files {
				write(t, s, "my-web-3", file, text)
			}
			i := observed(t, s, "my-web-3")
			if !strings.Contains(i.Broken, x.broken) || (i.Broken == "") != (x.broken == "") || !strings.Contains(i.Cause, x.cause) ||
				i.Unfinished != (name == "without record") || i.State != lifecycle.Errored || i.Container != "my-web" || i.Index != 3 {
				t.Errorf("got %+v", i)
			}
			lock, err := s.o.Home.LockInstance(s.Name, "my-web-3")
			if err != nil {
				t.Fatal(err)
			}
			defer lock.Release()
			if i := observed(t, s, "my-web-3"); !i.State.Live() || i.Unfinished || (i.Broken == "") != (x.broken == "") {
				t.Errorf("with a shim: %+v", i)
			}
		})
	}
}

func TestSplitName(t *testing.T) {
	for name, want := range map[string]struct {
		container string
		index     int
	}{
		"web-1": {"web", 1}, "my-web-12": {"my-web", 12}, "web": {"web", 0}, "web-x": {"web-x", 0}, "-1": {"-1", 0}, "": {"", 0},
	} {
		if c, i := splitName(name); c != want.container || i != want.index {
			t.Errorf("%q: %q, %d", name, c, i)
		}
	}
}

func TestListStacks(t *testing.T) {
	s := newStack(t, Options{})
	s.Dir = "/shop"
	if err := s.record(); err != nil { // no instance: not told
		t.Fatal(err)
	}
	other := &Stack{Engine: s.Engine, Name: "bank", Files: []string{"/bank/vz.yaml"}}
	if err := other.record(); err != nil {
		t.Fatal(err)
	}
	declare(t, other, store.Instance{Container: "db", Name: "db-1", Index: 1, Image: "sha256:2", Root: "/images/roots/abc.erofs"}, nil)
	all, err := s.List(t.Context())
	if err != nil || len(all) != 1 || all[0].Name != "bank" || all[0].Files[0] != "/bank/vz.yaml" || len(all[0].Instances) != 1 {
		t.Errorf("got %+v, %v", all, err)
	}
	if used, err := s.UsedImages(); err != nil || !used["sha256:2"] || !used["abc"] {
		t.Errorf("used: %v, %v", used, err)
	}
	write(t, s, "web-1", "config.json", "{")
	if _, err := s.UsedImages(); err == nil { // nothing may be deleted then
		t.Error("an unreadable record uses nothing")
	}
}

// Choosing one instance asks no shim, and looking at it asks its own alone.
func TestOneInstanceIsObservedWithoutTheOthers(t *testing.T) {
	s := newStack(t, Options{})
	if err := s.o.Home.MakeRuntime(); err != nil {
		t.Fatal(err)
	}
	asked := map[string]chan struct{}{}
	for _, name := range []string{"web-1", "db-1"} {
		container, index := splitName(name)
		declare(t, s, store.Instance{Name: name, Container: container, Index: index}, &store.State{State: lifecycle.Started})
		lock, err := s.o.Home.LockInstance(s.Name, name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(lock.Release)
		l, err := net.Listen("unix", s.o.Home.Socket(s.Name, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		dialled := make(chan struct{}, 8)
		asked[name] = dialled
		go func() { // ends with l
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				dialled <- struct{}{}
				c.Close()
			}
		}()
	}
	w, err := s.Recorded()
	if err != nil || len(w.Instances) != 2 || w.Instances[1].Name != "web-1" || w.Instances[1].State != lifecycle.Started {
		t.Fatalf("got %+v, %v", w.Instances, err)
	}
	if i, err := s.ObserveOne(t.Context(), "web-1"); err != nil || i.Container != "web" {
		t.Errorf("got %+v, %v", i, err)
	}
	<-asked["web-1"]
	if len(asked["db-1"]) > 0 {
		t.Error("another's shim was asked")
	}
}
