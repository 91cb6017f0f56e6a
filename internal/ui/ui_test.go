package ui

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-multierror"

	"github.com/vzcompose/vzcompose/internal/diag"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/logs"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/planner"
)

// terminal is where a UI under test writes.
type terminal struct {
	out, err      bytes.Buffer
	columns, rows int
}

func (c *terminal) ui(mode string, tty, colors bool) *UI {
	if c.columns == 0 {
		c.columns, c.rows = 80, 24
	}
	return New(Options{Out: &c.out, Err: &c.err, Mode: mode, NoColor: !colors,
		Size:       func() (int, int) { return c.columns, c.rows },
		IsTerminal: func(io.Writer) bool { return tty }})
}

func expect(t *testing.T, got, want string) {
	t.Helper()
	want = strings.TrimPrefix(want, "\n")
	if got != want {
		t.Errorf("got\n%s\nwant\n%s\ngot %q", got, want, got)
	}
}

func TestModes(t *testing.T) {
	var c terminal
	for _, x := range []struct {
		mode string
		tty  bool
		want string
	}{{"auto", true, TTY}, {"", false, Plain}, {"plain", true, Plain}, {"json", true, JSON}, {"quiet", true, Quiet}, {"tty", false, TTY}} {
		if u := c.ui(x.mode, x.tty, true); u.mode != x.want {
			t.Errorf("%q on a terminal %v: %s", x.mode, x.tty, u.mode)
		}
	}
	u := c.ui("quiet", false, true)
	u.Notef("not seen")
	u.Warnf("not seen")
	u = c.ui("plain", false, true)
	u.Notef("one\ntwo")
	u.Warnf("esc \x1b[2J")
	c.ui("json", false, true).Warnf("x\u009by")
	expect(t, c.err.String(), "one\n  two\nwarning: esc \\x1b[2J\n"+`{"warning":"x\u009by"}`+"\n")
}

func TestFindings(t *testing.T) {
	var c terminal
	c.ui("plain", false, false).Findings(diag.Findings{
		{Position: diag.Position{File: "vzcompose.yaml", Line: 5, Column: 5}, Path: "containers.web", Message: `unknown key "restrat"`,
			Hint: `did you mean "restart"?`, Source: "    restrat: always", Length: 7},
		{Position: diag.Position{File: "a.yaml"}, Message: "is empty", Severity: diag.Warning},
		{Position: diag.Position{File: "a.yaml", Line: 123, Column: 3}, Message: "tab", Source: "\t\tx: y", Length: 1},
		{Position: diag.Position{File: "a.yaml", Line: 1, Column: 5}, Message: "wide", Source: "漢字: 漢x漢", Length: 2},
		{Position: diag.Position{File: "a.yaml", Line: 1, Column: 9}, Message: "behind the end", Source: "end", Length: 4},
		{Position: diag.Position{File: "evil\x1b[2J.yaml", Line: 1, Column: 2}, Message: "two\nlines", Source: "a\x1b]0;x\x07\xff\u202eb", Length: 2},
	})
	expect(t, c.err.String(), `
vzcompose.yaml:5:5: containers.web: unknown key "restrat"; did you mean "restart"?
  5 |     restrat: always
    |     ^~~~~~~
a.yaml: warning: is empty
a.yaml:123:3: tab
  123 |         x: y
      |         ^
a.yaml:1:5: wide
  1 | 漢字: 漢x漢
    |       ^~~
a.yaml:1:9: behind the end
  1 | end
    |    ^
evil\x1b[2J.yaml:1:2: two\nlines
  1 | a\x1b]0;x\x07\xff\u202eb
    |  ^~~~~
`)
}

func TestLongSourceIsCutAroundThePlace(t *testing.T) {
	c := terminal{columns: 40, rows: 10}
	c.ui("plain", true, false).Findings(diag.Findings{
		{Position: diag.Position{File: "a", Line: 1, Column: 51}, Message: "m", Source: strings.Repeat("b", 50) + "HERE" + strings.Repeat("a", 50), Length: 4},
		{Position: diag.Position{File: "a", Line: 1, Column: 1}, Message: "m", Source: strings.Repeat("x", 1<<20), Length: 1 << 20},
		{Position: diag.Position{File: "a", Line: 1, Column: 100}, Message: "m", Source: strings.Repeat("b", 99) + "Z", Length: 1},
	})
	expect(t, c.err.String(), `
a:1:51: m
  1 | …bbbbbbbbbbbbbHEREaaaaaaaaaaaaaa…
    |               ^~~~
a:1:1: m
  1 | xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…
    | ^~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~
a:1:100: m
  1 | …bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbZ
    |                                 ^
`)
}

func TestErrorsAreToldOnceEach(t *testing.T) {
	var c terminal
	one := errs.WithHint(errors.New("boot: no kernel"), "run vzcompose doctor")
	u := c.ui("plain", false, false)
	u.Error(fmt.Errorf("up: %w", multierror.Append(nil, one, one, fmt.Errorf("web-1: %w", multierror.Append(nil, errors.New("a\nerror: forged"), errors.New("b"))))))
	u.Error(fmt.Errorf("read stack: %w", diag.Findings{{Position: diag.Position{File: "a.yaml"}, Message: "is empty"}}))
	u.Error(nil)
	u.Error(fmt.Errorf("kill: %w", errors.Join(one, errors.New("c"), one)))
	u.Error(fmt.Errorf("the sum: %w (and %w)", errors.New("d"), errors.New("e")))
	c.ui("json", false, false).Error(errs.As(errs.NotFound, one))
	expect(t, c.err.String(), `
error: up: boot: no kernel
  hint: run vzcompose doctor
error: up: web-1: a
    error: forged
error: up: web-1: b
a.yaml: is empty
error: kill: boot: no kernel
  hint: run vzcompose doctor
error: kill: c
error: the sum: d (and e)
{"error":{"message":"boot: no kernel","class":"not found","hint":"run vzcompose doctor"}}
`)
}

func target(name string) planner.Target {
	container, _, _ := strings.Cut(name, "-")
	return planner.Target{Container: container, Instance: name, Index: 1}
}

// upPlan brings up db-1, then web-1 once db-1 is healthy.
func upPlan() *planner.Plan {
	return &planner.Plan{Stack: "shop", Steps: []planner.Step{
		{ID: 1, Op: planner.Pull{Ref: "busybox"}, Cause: "not present"},
		{ID: 2, Op: planner.Create{Target: target("db-1")}, Cause: "new"},
		{ID: 3, Op: planner.Start{Target: target("db-1")}, After: []int{1, 2}, Cause: "new"},
		{ID: 4, Op: planner.Await{Target: target("db-1"), Condition: "healthy"}, After: []int{3}, Cause: "web depends on it"},
		{ID: 5, Op: planner.Stop{Target: target("web-1")}, Cause: "memory 512MiB → 1GiB"},
		{ID: 6, Op: planner.Update{Target: target("web-1")}, After: []int{5}, Cause: "memory 512MiB → 1GiB"},
		{ID: 7, Op: planner.Start{Target: target("web-1")}, After: []int{4, 6}},
		{ID: 8, Op: planner.RemoveVolume{Name: "old\x1b[31m"}, Cause: "asked to"},
	}}
}

func TestPlan(t *testing.T) {
	var c terminal
	u := c.ui("plain", false, false)
	u.Plan(upPlan(), state.World{})
	u.Plan(&planner.Plan{}, state.World{Instances: make([]state.Instance, 5)})
	u.Plan(&planner.Plan{}, state.World{Instances: make([]state.Instance, 1)})
	expect(t, c.out.String(), `
shop: 8 steps
images
  + pull           busybox      not present
db
  + create         db-1         new
  + start          db-1         new
    await healthy  db-1         web depends on it
web
  - stop           web-1        memory 512MiB → 1GiB
  ~ update         web-1        memory 512MiB → 1GiB
  + start          web-1
volumes
  - remove         old\x1b[31m  asked to
nothing to do: 5 instances are as declared
nothing to do: 1 instance is as declared
`)
	if c.err.Len() > 0 {
		t.Error("a result went to standard error")
	}
}

func failedRun() Summary {
	p := upPlan()
	s := Summary{Said: []Said{{Step: 3, Output: []logs.Record{{Stream: "stderr", Text: []byte("panic: \x1b]0;owned\x07 \x1b[31mred\r")}}, Console: []string{"Kernel panic"}}}}
	for _, st := range p.Steps {
		o := Outcome{Step: st, Status: event.Done}
		switch st.ID {
		case 3:
			o.Status, o.Err = event.Failed, errs.WithHint(errors.New("start container/db-1: the machine ended"), "more memory")
		case 4, 7:
			o.Status, o.Because = event.Skipped, 3
		}
		s.Outcomes = append(s.Outcomes, o)
	}
	return s
}

func TestSummary(t *testing.T) {
	var c terminal
	s := failedRun()
	s.Outcomes = append(s.Outcomes, Outcome{Step: planner.Step{ID: 9, Op: planner.Start{Target: target("mail-1")}}, Status: event.Done})
	c.ui("plain", false, false).Summary(s)
	expect(t, c.err.String(), `
1 started, 1 failed, 1 skipped (because db-1 failed)
error: start container/db-1: the machine ended
  hint: more memory
  last lines of its output:
    stderr | panic: \x1b]0;owned\x07 red
  last lines of its console:
    console | Kernel panic
`)
	c.err.Reset()
	c.ui("json", false, false).Summary(s)
	expect(t, c.err.String(), `
{"summary":"1 started, 1 failed, 1 skipped (because db-1 failed)"}
{"step":3,"operation":"start","subject":"container/db-1","error":{"message":"start container/db-1: the machine ended","hint":"more memory"},"output":["panic: \u001b]0;owned\u0007 \u001b[31mred\r"],"console":["Kernel panic"]}
`)
	c.err.Reset()
	interrupted := Summary{Err: errors.New("interrupted"), Outcomes: []Outcome{
		{Step: planner.Step{ID: 1, Op: planner.Start{Target: target("a-1")}}, Status: event.Done},
		{Step: planner.Step{ID: 2, Op: planner.Await{Target: target("a-1"), Condition: "healthy"}}, Status: event.Done},
		{Step: planner.Step{ID: 3, Op: planner.Start{Target: target("b-1")}}, Status: event.Skipped},
		{Step: planner.Step{ID: 4, Op: planner.Start{Target: target("c-1")}}, Status: event.Interrupted}}}
	c.ui("plain", false, false).Summary(interrupted)
	expect(t, c.err.String(), "1 started, 1 interrupted, 1 not begun\n")
	c.err.Reset()
	c.ui("quiet", false, false).Summary(failedRun())
	if got := c.err.String(); !strings.HasPrefix(got, "error: start container/db-1") {
		t.Errorf("quiet: %s", got)
	}
}

func TestTable(t *testing.T) {
	type thing struct{ Name, State string }
	table := Table{Header: []string{"NAME", "STATE", "PORTS"}, Rows: []Row{
		{[]string{"web-1", "running", "80"}, "web-1", thing{"web-1", "running"}},
		{[]string{"漢字-12", "exited (1)\x1b[31m", ""}, "漢字-12", thing{"漢字-12", "exited\x1b[31m"}},
	}}
	for _, x := range []struct {
		format string
		ids    bool
		want   string
	}{
		{"", false, "NAME      STATE                PORTS\nweb-1     running              80\n漢字-12   exited (1)\\x1b[31m\n"},
		{"json", false, `{"Name":"web-1","State":"running"}` + "\n" + `{"Name":"漢字-12","State":"exited\u001b[31m"}` + "\n"},
		{"{{.Name}}\t{{json .State}}", false, "web-1\t\"running\"\n漢字-12\t\"exited\\u001b[31m\"\n"},
		{"{{.State}}", false, "running\nexited\n"},
		{"table", true, "web-1\n漢字-12\n"},
	} {
		var c terminal
		if err := c.ui("plain", true, false).Table(table, x.format, x.ids); err != nil {
			t.Error(err)
		}
		expect(t, c.out.String(), x.want)
	}
	for _, format := range []string{"{{.Nam}}", "{{", "{{.Name"} {
		var c terminal
		if err := c.ui("plain", true, false).Table(table, format, false); !errs.Is(err, errs.InvalidArgument) || c.out.Len() > 0 {
			t.Errorf("%s: %v, %q", format, err, c.out.String())
		}
	}
}

func entry(name, text string, partial bool) logs.Entry {
	return logs.Entry{Name: name, Record: logs.Record{Time: time.Date(2026, 3, 1, 12, 0, 0, 5, time.UTC), Stream: "stdout", Boot: 1, Text: []byte(text), Partial: partial}}
}

func TestLogs(t *testing.T) {
	entries := []logs.Entry{
		entry("web-1", "hello \x1b[1;32mgreen\x1b[0m\tx", false), entry("db-1", "half", true), entry("db-1", " whole\r", false),
		entry("web-1", "cut", true), entry("longer-1", "\x1b[2J\x1b]0;t\x07\x9b \u009b\xff", false), entry("web-1", "off", true),
	}
	for name, x := range map[string]struct {
		tty, colors bool
		o           LogOptions
		want        string
	}{
		"piped and bare": {false, true, LogOptions{NoPrefix: true},
			"hello \x1b[1;32mgreen\x1b[0m\tx\nhalf whole\r\ncut\x1b[2J\x1b]0;t\x07\x9b \u009b\xff\noff"},
		"piped": {false, true, LogOptions{Names: []string{"web-1", "db-1"}},
			"web-1  | hello \x1b[1;32mgreen\x1b[0m\tx\ndb-1   | half whole\r\nweb-1  | cut\nlonger-1  | \x1b[2J\x1b]0;t\x07\x9b \u009b\xff\nweb-1     | off\n"},
		"terminal": {true, true, LogOptions{Names: []string{"web-1", "db-1"}},
			"\x1b[33mweb-1  |\x1b[0m hello \x1b[1;32mgreen\x1b[0m\tx\x1b[0m\n\x1b[36mdb-1   |\x1b[0m half whole\n\x1b[33mweb-1  |\x1b[0m cut\n" +
				"\x1b[34mlonger-1  |\x1b[0m \\x1b]0;t\\x07\\x9b \\u009b\\xff\n\x1b[33mweb-1     |\x1b[0m off\n"},
		"terminal without colours": {true, false, LogOptions{NoPrefix: true, Timestamps: true},
			"2026-03-01T12:00:00.000000005Z hello green\tx\n2026-03-01T12:00:00.000000005Z half whole\n2026-03-01T12:00:00.000000005Z cut\n" +
				"2026-03-01T12:00:00.000000005Z \\x1b]0;t\\x07\\x9b \\u009b\\xff\n2026-03-01T12:00:00.000000005Z off\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var c terminal
			l := c.ui("plain", x.tty, x.colors).Logs(x.o)
			for _, e := range entries {
				if err := l.Write(e); err != nil {
					t.Error(err)
				}
			}
			l.Close()
			expect(t, c.out.String(), x.want)
		})
	}
	var c terminal
	l := c.ui("plain", true, true).Logs(LogOptions{JSON: true})
	l.Write(entry("web-1", "a\x1b\u009b", false))
	l.Write(entry("web-1", "\xff", true))
	missing := entry("web-1", "", false)
	missing.Lost = 12
	l.Write(missing)
	l.Close()
	expect(t, c.out.String(), `
{"name":"web-1","time":"2026-03-01T12:00:00.000000005Z","stream":"stdout","boot":1,"line":"a\u001b\u009b"}
{"name":"web-1","time":"2026-03-01T12:00:00.000000005Z","stream":"stdout","boot":1,"bytes":"/w==","partial":true}
{"name":"web-1","time":"2026-03-01T12:00:00.000000005Z","stream":"stdout","boot":1,"lost":12}
`)
	var piped terminal
	l = piped.ui("plain", false, false).Logs(LogOptions{NoPrefix: true})
	l.Write(entry("web-1", "a", false))
	l.Write(missing)
	l.Write(entry("web-1", "b", false))
	l.Close()
	expect(t, piped.out.String(), "a\nb\n")
	expect(t, piped.err.String(), "warning: log of web-1: 12 bytes of stdout are missing here: they could not be written to the log\n")
}

func TestWords(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, x := range []struct {
		i           state.Instance
		want, since string
	}{
		{state.Instance{State: lifecycle.Initialized, Created: now.Add(-48 * time.Hour)}, "created", "2 days ago"},
		{state.Instance{State: lifecycle.Booting}, "starting", ""},
		{state.Instance{State: lifecycle.Started, Health: "healthy", Started: now.Add(-3*time.Minute - 59*time.Second)}, "running (healthy)", "Up 3 minutes"},
		{state.Instance{State: lifecycle.Started, Health: "healthy", Stall: "host disk full: /x", Started: now.Add(-time.Hour)}, "stalled (host disk full: /x)", "Up 1 hour"},
		{state.Instance{State: lifecycle.Started, Started: now.Add(time.Second)}, "running", "Up less than a second"},
		{state.Instance{State: lifecycle.Paused, Started: now.Add(-time.Hour)}, "paused", "Up 1 hour"},
		{state.Instance{State: lifecycle.Stopped, Exit: &state.Exit{At: now.Add(-time.Second)}}, "exited (0)", "1 second ago"},
		{state.Instance{State: lifecycle.Stopped, Exit: &state.Exit{Code: 137, Signal: "SIGKILL", OOM: true}}, "exited (137, out of memory)", ""},
		{state.Instance{State: lifecycle.Stopped, Exit: &state.Exit{Code: 143, Signal: "SIGTERM"}}, "exited (143, SIGTERM)", ""},
		{state.Instance{State: lifecycle.Stopped}, "stopped", ""},
		{state.Instance{State: lifecycle.Errored, Cause: "shim was lost", Finished: now.Add(-400 * 24 * time.Hour)}, "errored: shim was lost", "1 year ago"},
		{state.Instance{State: lifecycle.Errored, Broken: "bad\x1b"}, `errored: its record cannot be used: bad\x1b`, ""},
	} {
		if got := State(x.i); got != x.want {
			t.Errorf("got %q, want %q", got, x.want)
		}
		if got := Since(x.i, now); got != x.since {
			t.Errorf("%s: got %q, want %q", x.want, got, x.since)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 12_900_000: "12.3 MiB", 1<<20 - 1: "1.0 MiB", 1 << 62: "4.0 EiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}

func TestWidths(t *testing.T) {
	for s, want := range map[string]int{"abc": 3, "漢字": 4, "é": 1, "e\u0301": 1, "✅": 2, "…→": 2, "🚀": 2, "": 0, "가": 2} {
		if got := width(s); got != want {
			t.Errorf("%q: %d", s, got)
		}
	}
	for max := range 8 {
		for _, s := range []string{"abcdef", "漢字漢字", "a漢b字"} {
			for _, got := range []string{cut(s, max), cutLeft(s, max)} {
				if width(got) > max {
					t.Errorf("%q in %d: %q", s, max, got)
				}
			}
		}
	}
}

// ours are the sequences that we write.
var ours = regexp.MustCompile(`\x1b\[([0-9;:]*m|\?25[hl]|[0-9]+A|J)`)

// control reports what would drive a terminal.
func control(s string) string {
	for _, r := range ours.ReplaceAllString(s, "") {
		if (r < ' ' && r != '\n' && r != '\t' && r != '\r') || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return fmt.Sprintf("%U", r)
		}
	}
	return ""
}

func FuzzNothingDrivesTheTerminal(f *testing.F) {
	f.Add("plain", 1, 3)
	f.Add("\x1b[2J\x1b]0;t\x07\x9b31m\u009b\u202e\r\n\b", 2, 90)
	f.Add("\x1b[31\x1b[3\xff1m\x1b[;;;m\x1b[?25lm\x1bM", 3, 0)
	f.Fuzz(func(t *testing.T, s string, column, length int) {
		for _, mode := range []string{TTY, Plain, JSON} {
			var c terminal
			u := c.ui(mode, true, true)
			p := u.Progress(nil)
			for i, status := range []event.Status{event.Running, event.Running, event.Failed, event.Skipped, event.Done} {
				p.Sink()(event.Event{Step: i, Operation: s, Subject: "container/" + s, Phase: s, Status: status, Cause: s, Err: errors.New(s), Current: int64(column), Total: int64(length)})
			}
			p.Close()
			l := newTTY(u, nil, time.Now())
			l.news([]event.Event{{Subject: s, Phase: s, Status: event.Running}, {Step: 1, Subject: "x" + s, Operation: s, Status: event.Running}})
			l.tick()
			u.Error(errs.WithHint(errors.New(s), "%s", s))
			u.Notef("%s", s)
			u.Findings(diag.Findings{{Position: diag.Position{File: s, Line: 1, Column: column}, Path: s, Message: s, Hint: s, Source: s, Length: length}})
			sum := failedRun()
			sum.Said[0].Output[0].Text, sum.Said[0].Console[0] = []byte(s), s
			u.Summary(sum)
			plan := upPlan()
			plan.Stack, plan.Steps[0].Cause = s, s
			plan.Steps[1].Op = planner.Create{Target: planner.Target{Container: s, Instance: s}}
			u.Plan(plan, state.World{})
			for _, o := range []LogOptions{{}, {NoPrefix: true}, {JSON: true}} {
				l := u.Logs(o)
				l.Write(entry(s, s, length%2 == 0))
				l.Close()
			}
			table := Table{Header: []string{"A"}, Rows: []Row{{[]string{s}, s, map[string]string{"v": s}}}}
			for _, format := range []string{"table", "json", "{{.v}}"} {
				if err := u.Table(table, format, length%2 == 0); err != nil {
					t.Fatal(err)
				}
			}
			if bad := control(c.out.String() + c.err.String()); bad != "" {
				t.Fatalf("%s: %s got through: %q %q", mode, bad, c.out.String(), c.err.String())
			}
		}
	})
}
