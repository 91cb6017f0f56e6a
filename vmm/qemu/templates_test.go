//go:build linux

package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/filelock"
	"github.com/vzcompose/vzcompose/vmm"
)

// folder is one of templates. Its name has what file name patterns are made of.
func folder(t *testing.T) templates {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "a[b]*?")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return templates{dir: dir}
}

// put makes a template of some pages, used at that minute.
func (ts templates) put(t *testing.T, id string, pages, minute int) {
	t.Helper()
	all := make([]int, pages)
	for i := range all {
		all[i] = i
	}
	ram := ramWith(64*page, all...)
	if err := writeTemplate(ts.path(id), draftOf(id), header{Key: id, CPUs: 2, Kernel: "k"}, ram, wholeIndex(ram), []byte("s"), nil); err != nil {
		t.Fatal(err)
	}
	used := time.Unix(int64(60*minute), 0)
	if err := os.Chtimes(ts.path(id), used, used); err != nil {
		t.Fatal(err)
	}
}

// names are those of the folder's files, without locks.
func (ts templates) names(t *testing.T) string {
	t.Helper()
	entries, err := os.ReadDir(ts.dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".lock") {
			names = append(names, strings.TrimSuffix(e.Name(), templateSuffix))
		}
	}
	return strings.Join(names, " ")
}

func (ts templates) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(ts.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTemplatesUsedLongAgoMakeRoom(t *testing.T) {
	for name, c := range map[string]struct {
		limit int64 // pages
		keep  string
		want  string
	}{
		"there is room":                 {200, "d", "a b c d"},
		"the oldest goes":               {60, "d", "b c d"},
		"two go":                        {40, "d", "c d"},
		"the new one stays, and counts": {40, "a", "a d"},
		"the new one stays alone":       {5, "b", "b"},
		"of no name":                    {25, "none", "d"},
	} {
		t.Run(name, func(t *testing.T) {
			ts := folder(t)
			for i, id := range []string{"a", "b", "c", "d"} {
				ts.put(t, id, 16, i) // and a page or two of the file's own
			}
			ts.write(t, "foreign", strings.Repeat("x", 100*page))
			ts.limit = c.limit * page
			if err := ts.makeRoom(c.keep); err != nil {
				t.Fatal(err)
			}
			if got, want := ts.names(t), c.want+" foreign"; got != want {
				t.Errorf("there are %s, want %s", got, want)
			}
		})
	}
}

func TestATemplateThatIsOpenedIsUsed(t *testing.T) {
	ts := folder(t)
	ts.put(t, "a", 1, 1)
	ts.put(t, "b", 1, 2)
	tpl, err := ts.open("a")
	if err != nil {
		t.Fatal(err)
	}
	tpl.close()
	all, err := ts.list()
	if err != nil || len(all) != 2 || all[0].ID != "a" {
		t.Errorf("got %+v, %v; want a to be the one used last", all, err)
	}
}

func TestADraftOfWhoeverIsGoneIsSwept(t *testing.T) {
	ts := folder(t)
	l, err := filelock.Try(ts.lockPath("alive"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	ours, err := ts.lock(t.Context(), "ours")
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Release()
	for _, name := range []string{draftOf("ours") + "1", draftOf("ours") + "2", draftOf("dead") + "3", draftOf("alive") + "4", draftPrefix + "5",
		"ours" + templateSuffix, "foreign"} {
		ts.write(t, name, "x")
	}
	if err := ts.sweep("ours"); err != nil {
		t.Fatal(err)
	}
	if got, want := ts.names(t), draftPrefix+"5 "+draftOf("alive")+"4 foreign ours"; got != want {
		t.Errorf("there are %s, want %s", got, want)
	}
	again, err := filelock.Try(ts.lockPath("dead"))
	if err != nil {
		t.Fatalf("the lock of what was swept was kept: %v", err)
	}
	again.Release()
}

func TestDiscardLeavesWhatIsNewer(t *testing.T) {
	ts := folder(t)
	ts.put(t, "a", 1, 1)
	old, err := ts.open("a")
	if err != nil {
		t.Fatal(err)
	}
	defer old.close()
	ts.put(t, "a", 2, 2)
	if err := ts.discard(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	tpl, err := ts.open("a")
	if err != nil {
		t.Fatalf("the newer is gone: %v", err)
	}
	defer tpl.close()
	for range 2 { // the second time it is gone already
		if err := ts.discard(t.Context(), tpl); err != nil {
			t.Fatal(err)
		}
		if got := ts.names(t); got != "" {
			t.Errorf("there is %s", got)
		}
	}
}

// Who throws a template away waits for who makes it.
func TestDiscardTakesTheLock(t *testing.T) {
	ts := folder(t)
	ts.put(t, "a", 1, 1)
	tpl, err := ts.open("a")
	if err != nil {
		t.Fatal(err)
	}
	defer tpl.close()
	l, err := ts.lock(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := ts.discard(ctx, tpl); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it waits", err)
	}
	if got := ts.names(t); got != "a" {
		t.Errorf("there is %q, want a", got)
	}
}

func TestTemplatesAreListed(t *testing.T) {
	ts := folder(t)
	ts.put(t, "older", 2, 1)
	ts.put(t, "newer", 4, 3)
	ts.put(t, "other", 1, 2)
	if err := os.Rename(ts.path("other"), ts.path("renamed")); err != nil {
		t.Fatal(err)
	}
	ts.write(t, "text"+templateSuffix, "not one")
	ts.write(t, "foreign", "x")
	ts.write(t, "older.lock", "")
	ts.write(t, draftOf("x")+"1", "x")
	if err := os.Mkdir(ts.path("folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	all, err := ts.list()
	if err != nil {
		t.Fatal(err)
	}
	good := map[string]vmm.Template{}
	var bad []string
	for _, d := range all {
		if d.Problem == "" {
			good[d.ID] = d
		} else {
			bad = append(bad, d.ID)
		}
	}
	slices.Sort(bad)
	if fmt.Sprint(bad) != "[folder renamed text]" || len(good) != 2 {
		t.Errorf("good ones are %v, bad ones %v", good, bad)
	}
	n, o := good["newer"], good["older"]
	if n.CPUs != 2 || n.Memory != 64*page || n.Kernel != "k" || n.Size < 5*page || n.Size > 8*page || n.Size <= o.Size {
		t.Errorf("got %+v", n)
	}
	if !n.Used.Equal(time.Unix(180, 0)) || !slices.IsSortedFunc(all, func(a, b vmm.Template) int { return b.Used.Compare(a.Used) }) {
		t.Errorf("not in the order of their use: %+v", all)
	}
	none := templates{dir: filepath.Join(ts.dir, "none")}
	if all, err := none.list(); err != nil || len(all) != 0 {
		t.Errorf("of a folder that is not there: %v, %v", all, err)
	}
}

func TestRemoveTemplate(t *testing.T) {
	ts := folder(t)
	ts.put(t, "a", 1, 1)
	outside := filepath.Join(filepath.Dir(ts.dir), "victim"+templateSuffix)
	if err := os.WriteFile(outside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := New(Options{Templates: ts.dir})
	for id, want := range map[string]errs.Class{
		"b": errs.NotFound, "": errs.InvalidArgument, "../victim": errs.InvalidArgument, "x/../../victim": errs.InvalidArgument,
		"/a": errs.InvalidArgument, "./a": errs.InvalidArgument, "..": errs.NotFound, "*": errs.NotFound,
	} {
		if err := d.RemoveTemplate(id); !errs.Is(err, want) {
			t.Errorf("%q: got %v, want class %s", id, err, want)
		}
	}
	if _, err := os.Stat(outside); err != nil {
		t.Error(err)
	}
	if err := d.RemoveTemplate("a"); err != nil {
		t.Error(err)
	}
	if got := ts.names(t); got != "" {
		t.Errorf("there is %s", got)
	}
}
