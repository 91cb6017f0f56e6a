package ui

import (
	"io"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/planner"
)

func TestBoard(t *testing.T) {
	tables := []Table{
		{Header: []string{"NAME", "CPUS"}, Rows: []Row{{Cells: []string{"web-1", "0.10"}}, {Cells: []string{"db-1", "0.20"}}}},
		{Header: []string{"NAME", "CPUS"}, Rows: []Row{{Cells: []string{"web-1", "0.30"}}}},
	}
	for name, c := range map[string]struct {
		tty, dumb bool
		want      string
	}{
		"terminal": {true, false, "NAME    CPUS\nweb-1   0.10\ndb-1    0.20\n\r\x1b[3A\x1b[JNAME    CPUS\nweb-1   0.30\n"},
		"dumb":     {true, true, "NAME    CPUS\nweb-1   0.10\ndb-1    0.20\nNAME    CPUS\nweb-1   0.30\n"},
		"pipe":     {false, false, "NAME    CPUS\nweb-1   0.10\ndb-1    0.20\nNAME    CPUS\nweb-1   0.30\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			u := newFor(&out, c.tty, c.dumb)
			board := u.Board()
			for _, table := range tables {
				if err := board.Show(table, ""); err != nil {
					t.Fatal(err)
				}
			}
			if out.String() != c.want {
				t.Errorf("got %q", out.String())
			}
		})
	}
}

// A terminal without control sequences gets none, whatever is shown.
func TestDumbTerminal(t *testing.T) {
	var out strings.Builder
	u := newFor(&out, true, true)
	p := u.Progress(upPlan())
	u.Preview(upPlan(), state.World{})
	u.Warnf("a warning")
	p.Close()
	u.Plan(upPlan(), state.World{})
	u.Close()
	if strings.Contains(out.String(), "\x1b") || !strings.Contains(out.String(), "a warning") {
		t.Errorf("got %q", out.String())
	}
}

func TestPreview(t *testing.T) {
	long := &planner.Plan{Stack: "shop"}
	for i := range 40 {
		op := planner.Op(planner.Create{Target: target("web-1")})
		if i%2 == 1 {
			op = planner.Start{Target: target("web-1")}
		}
		long.Steps = append(long.Steps, planner.Step{ID: i + 1, Op: op})
	}
	var out strings.Builder
	u := newFor(&out, true, false)
	u.Preview(upPlan(), state.World{})
	if !strings.Contains(out.String(), "not present") {
		t.Errorf("got %q", out.String())
	}
	out.Reset()
	u.Preview(long, state.World{})
	if out.String() != "shop: 40 steps: 20 create, 20 start\n" {
		t.Errorf("got %q", out.String())
	}
}

func TestDocumentsAreSafe(t *testing.T) {
	var out strings.Builder
	u := newFor(&out, true, false)
	_ = u.JSON([]byte("{\n  \"a\": \"x\u202ey\u061c\U000e0001\"\n}\n"))
	_ = u.YAML([]byte("a: \"x\u202ey\U000e0001\"\n"))
	if want := "{\n  \"a\": \"x\\u202ey\\u061c\\udb40\\udc01\"\n}\na: \"x\\u202ey\\U000e0001\"\n"; out.String() != want {
		t.Errorf("got %q", out.String())
	}
}

func newFor(out *strings.Builder, tty, dumb bool) *UI {
	return New(Options{Out: out, Err: out, Dumb: dumb, IsTerminal: func(io.Writer) bool { return tty }, Size: func() (int, int) { return 80, 24 }})
}
