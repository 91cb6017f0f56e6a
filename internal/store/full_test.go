package store

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
)

// A record is written over the old one where the disk takes no new file; what is
// left of a longer one is white space.
func TestARecordIsOverwrittenInItsPlace(t *testing.T) {
	h := Home{Dir: t.TempDir()}
	if err := os.MkdirAll(h.Instance("shop", "web-1"), 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(h.Instance("shop", "web-1"), "state.json")
	for _, cause := range []string{strings.Repeat("long ", 100), "short", strings.Repeat("long ", 200)} {
		s := State{Version: Version, State: lifecycle.Errored, Cause: cause}
		var err error
		if _, serr := os.Stat(path); serr != nil {
			err = h.WriteState("shop", "web-1", s)
		} else {
			err = overwriteJSON(path, s)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got, err := h.ReadState("shop", "web-1"); err != nil || got.Cause != cause {
			t.Errorf("got %+v, %v", got, err)
		}
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := overwriteJSON(path, State{Cause: strings.Repeat("x", 1<<20)}); !errs.Is(err, errs.ResourceExhausted) {
		t.Errorf("more than the file has blocks for: %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
		t.Errorf("the record has changed: %v", err)
	}
}
