package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/internal/store"
)

// checkouts are the directories of two checkouts with one base name, and a stack
// that belongs to the first, with an instance.
func checkouts(t *testing.T) (first *Stack, at func(dir string) *Stack, a, b string) {
	t.Helper()
	root := t.TempDir()
	a, b = filepath.Join(root, "a", "shop"), filepath.Join(root, "b", "shop")
	for _, dir := range []string{a, b} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	first = newStack(t, Options{})
	at = func(dir string) *Stack {
		return &Stack{Engine: first.Engine, Name: first.Name, Dir: dir, Files: []string{filepath.Join(dir, "vz.yaml")}}
	}
	if err := at(a).record(); err != nil {
		t.Fatal(err)
	}
	declare(t, first, store.Instance{Container: "web", Name: "web-1", Index: 1}, nil)
	return first, at, a, b
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func recordedDir(t *testing.T, s *Stack) string {
	t.Helper()
	rec, err := s.o.Home.ReadStack(s.Name)
	if err != nil {
		t.Fatal(err)
	}
	return rec.Dir
}

func TestAStackOfAnotherDirectoryIsRefused(t *testing.T) {
	named, at, a, b := checkouts(t)
	_, err := at(b).Observe(t.Context(), nil)
	if !errs.Is(err, errs.FailedPrecondition) || !strings.Contains(err.Error(), a) || !strings.Contains(err.Error(), b) {
		t.Errorf("got %v", err)
	}
	for _, way := range []string{"-n shop", "--adopt", "name:"} {
		if !strings.Contains(errs.HintOf(err), way) {
			t.Errorf("the hint has no %s: %s", way, errs.HintOf(err))
		}
	}
	if _, err := at(b).Networks(t.Context()); err == nil {
		t.Error("its networks were shown")
	}
	if _, err := named.Observe(t.Context(), nil); err != nil { // -n NAME, without a file
		t.Errorf("by its name: %v", err)
	}
	if _, err := at(a).Observe(t.Context(), nil); err != nil {
		t.Errorf("in its own directory: %v", err)
	}
}

func TestTheSameDirectoryByAnotherWay(t *testing.T) {
	_, at, a, b := checkouts(t)
	link := filepath.Join(filepath.Dir(filepath.Dir(b)), "link")
	if err := os.Symlink(filepath.Dir(a), link); err != nil {
		t.Fatal(err)
	}
	s := at(filepath.Join(link, "shop"))
	if _, err := s.Observe(t.Context(), nil); err != nil {
		t.Errorf("by a link: %v", err)
	}
	if from, err := s.Claim(); from != "" || err != nil {
		t.Errorf("it was claimed from %q, %v", from, err)
	}
	// Another set of files of the same directory is recorded, the directory's first
	// name stays.
	s.Files = []string{filepath.Join(link, "shop", "other.yaml")}
	if err := s.record(); err != nil {
		t.Fatal(err)
	}
	if rec, err := s.o.Home.ReadStack(s.Name); err != nil || rec.Dir != a || rec.Files[0] != s.Files[0] || rec.Created.IsZero() {
		t.Errorf("got %+v, %v", rec, err)
	}
}

func TestAMovedDirectoryTakesItsStackAlong(t *testing.T) {
	_, at, a, b := checkouts(t)
	moved := filepath.Join(filepath.Dir(b), "elsewhere")
	rename(t, a, moved)
	s := at(moved)
	if _, err := s.Observe(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if from, err := s.Claim(); from != a || err != nil {
		t.Errorf("claimed from %q, %v", from, err)
	}
	if got := recordedDir(t, s); got != moved {
		t.Errorf("on record is %s", got)
	}
	if from, err := s.Claim(); from != "" || err != nil { // said once
		t.Errorf("again: %q, %v", from, err)
	}
	if _, err := at(b).Observe(t.Context(), nil); err == nil {
		t.Error("then it is anybody's")
	}
	rename(t, moved, a) // and back
	if _, err := at(a).Observe(t.Context(), nil); err != nil {
		t.Errorf("moved back: %v", err)
	}
}

func TestAdopt(t *testing.T) {
	_, at, a, b := checkouts(t)
	s := at(b)
	s.Adopt = true
	if _, err := s.Observe(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if from, err := s.Claim(); from != a || err != nil || recordedDir(t, s) != b {
		t.Errorf("claimed from %q, %v; on record is %s", from, err, recordedDir(t, s))
	}
	if _, err := at(a).Observe(t.Context(), nil); err == nil {
		t.Error("the first directory has it still")
	}
}

// Volumes outlive down, and with them the record of whose they are; without them
// the name is free.
func TestVolumesKeepTheirOwner(t *testing.T) {
	_, at, a, b := checkouts(t)
	s := at(a)
	if err := s.volumes().Create("data", 0); err != nil {
		t.Fatal(err)
	}
	overwrite(t, s.o.Home.Journal(s.Name), "")
	for range 2 {
		if err := s.RemoveStack(t.Context()); err != nil { // an instance is left
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(s.o.Home.Journal(s.Name)); err != nil {
		t.Errorf("the folder of a stack with an instance: %v", err)
	}
	if err := s.remove(t.Context(), "web-1", func(event.Progress) {}); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveStack(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.o.Home.Journal(s.Name)); !os.IsNotExist(err) {
		t.Errorf("the journal: %v", err)
	}
	if _, err := at(b).Observe(t.Context(), nil); err == nil {
		t.Error("another checkout has its volumes")
	}
	if all, err := s.List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("in the list: %+v, %v", all, err)
	}
	if err := s.volumes().Remove("data"); err != nil {
		t.Fatal(err)
	}
	if _, err := at(b).Observe(t.Context(), nil); err != nil {
		t.Errorf("of nothing: %v", err)
	}
	if err := s.RemoveStack(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.o.Home.Stack(s.Name)); !os.IsNotExist(err) {
		t.Errorf("the folder: %v", err)
	}
}

// A record that cannot be read keeps nobody away, and is kept.
func TestDamagedRecordOfAStack(t *testing.T) {
	_, at, _, b := checkouts(t)
	s := at(b)
	overwrite(t, s.o.Home.StackRecord(s.Name), "{")
	w, err := s.Observe(t.Context(), nil)
	if err != nil || len(w.Damage) != 1 || !strings.Contains(w.Damage[0], s.o.Home.StackRecord(s.Name)) {
		t.Errorf("got %q, %v", w.Damage, err)
	}
	if err := s.record(); err != nil || recordedDir(t, s) != b {
		t.Errorf("written anew: %v", err)
	}
	if kept, err := os.ReadFile(s.o.Home.StackRecord(s.Name) + ".damaged"); string(kept) != "{" || err != nil {
		t.Errorf("kept is %q, %v", kept, err)
	}
}

func TestARenamedDirectoryHasAStackOfAnotherName(t *testing.T) {
	named, at, a, b := checkouts(t)
	renamed := filepath.Join(filepath.Dir(a), "store")
	fresh := func(dir string) *Stack { return &Stack{Engine: named.Engine, Name: filepath.Base(dir), Dir: dir} }
	if all := fresh(renamed).RenamedFrom(); all != nil {
		t.Errorf("while the first is there: %q", all)
	}
	rename(t, a, renamed)
	if all := fresh(renamed).RenamedFrom(); len(all) != 1 || all[0] != "shop" {
		t.Errorf("got %q", all)
	}
	if all := fresh(filepath.Join(filepath.Dir(b), "store")).RenamedFrom(); all != nil {
		t.Errorf("elsewhere: %q", all)
	}
	if all := at(renamed).RenamedFrom(); all != nil { // with -n shop
		t.Errorf("by its old name: %q", all)
	}
	if err := named.remove(t.Context(), "web-1", func(event.Progress) {}); err != nil {
		t.Fatal(err)
	}
	if all := fresh(renamed).RenamedFrom(); all != nil {
		t.Errorf("of nothing: %q", all)
	}
}
