package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A behaviour is a line of docs/conformance.md, which tools/conformance writes
// from what these tests report.
type behaviour struct {
	Line   int    `json:"line"`
	What   string `json:"what"`
	Test   string `json:"test"`
	Mode   string `json:"mode"` // of the machines: "restored", "booted"
	Result string `json:"result"`
	Note   string `json:"note,omitempty"` // why it was skipped
}

var proven struct {
	sync.Mutex // guards the following
	all        []behaviour
}

// behave runs a test of a line and reports how it went.
func behave(t *testing.T, line int, what string, fn func(t *testing.T)) {
	t.Helper()
	b := behaviour{Line: line, What: what, Mode: "restored", Result: "did not end"}
	if os.Getenv("VZCOMPOSE_COLD") != "" {
		b.Mode = "booted"
	}
	t.Run(fmt.Sprintf("%02d %s", line, what), func(t *testing.T) {
		b.Test = t.Name()
		t.Cleanup(func() {
			switch {
			case t.Failed():
				b.Result = "failed"
			case t.Skipped():
				b.Result = "skipped"
			default:
				b.Result = "passed"
			}
			proven.Lock()
			defer proven.Unlock()
			proven.all = append(proven.all, b)
		})
		fn(t)
	})
}

// report writes what was proven where tools/conformance looks for it.
func report(cache string) error {
	proven.Lock()
	defer proven.Unlock()
	if len(proven.all) == 0 {
		return nil
	}
	slices.SortStableFunc(proven.all, func(a, b behaviour) int { return a.Line - b.Line })
	b, err := json.MarshalIndent(proven.all, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(cache, "conformance-"+proven.all[0].Mode+".json"), append(b, '\n'), 0o644)
}

// want fails the test where a command did otherwise.
func (r result) want(t *testing.T, code int, out string) {
	t.Helper()
	if r.code != code || r.out != out {
		t.Errorf("%s status %d, want %d\nout %q\nwant %q\nerr %q", strings.Join(r.args, " "), r.code, code, cut(r.out), cut(out), cut(r.err))
	}
}

// sh runs a script in an instance of a container.
func (s *stack) sh(container, script string) result {
	s.t.Helper()
	return s.vz("exec", container, "sh", "-c", script)
}

// says is what a script prints, without the last newline. It has to succeed.
func (s *stack) says(t *testing.T, container, script string) string {
	t.Helper()
	r := s.sh(container, script)
	if r.code != 0 {
		t.Errorf("%s", r)
	}
	return strings.TrimSuffix(r.out, "\n")
}
