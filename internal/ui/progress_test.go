package ui

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vzcompose/vzcompose/internal/event"
)

// news of one step of upPlan, dated now.
func news(step int, status event.Status, phase string) event.Event {
	s := upPlan().Steps[step-1]
	return event.Event{Time: time.Now(), Step: step, Operation: s.Op.Verb(), Subject: s.Op.Subject(), Status: status, Phase: phase, Cause: s.Cause}
}

// run plays a run that fails: each event, and 200 ms after each.
func run(p *Progress) {
	time.Sleep(30 * time.Millisecond) // so that no event falls on a frame
	failure := news(3, event.Failed, "")
	failure.Err = errors.New("start container/db-1: the machine ended")
	skipped := news(4, event.Skipped, "")
	skipped.Cause = "because container/db-1 failed"
	pulling := news(1, event.Running, "pulling")
	pulling.Current, pulling.Total = 12_900_000, 51_600_000
	for _, e := range []event.Event{
		news(1, event.Waiting, ""), news(1, event.Running, ""), pulling, news(5, event.Running, ""), news(1, event.Done, ""), news(5, event.Done, ""),
		news(2, event.Running, ""), news(2, event.Done, ""), news(3, event.Running, ""), news(3, event.Running, "booting kernel"), news(3, event.Running, "booting kernel"), failure, skipped,
	} {
		e.Time = time.Now()
		p.Sink()(e)
		time.Sleep(200 * time.Millisecond)
	}
}

// show plays run in a mode and answers what was written to standard error.
func show(t *testing.T, mode string, rows int) string {
	var c terminal
	synctest.Test(t, func(t *testing.T) {
		c = terminal{columns: 80, rows: rows}
		p := c.ui(mode, mode == TTY, false).Progress(upPlan())
		run(p)
		p.Close()
		p.Close()
		p.Sink()(news(7, event.Done, "")) // too late, and no harm
	})
	return c.err.String()
}

func TestPlainProgress(t *testing.T) {
	expect(t, show(t, Plain, 0), `
  0.2s  image busybox  pulling (not present)
  0.4s  image busybox  pulling
  0.6s  web-1  stopping (memory 512MiB → 1GiB)
  0.8s  image busybox  pulled
  1.0s  web-1  stopped
  1.2s  db-1  creating (new)
  1.4s  db-1  created
  1.6s  db-1  starting (new)
  1.8s  db-1  booting kernel
  2.2s  db-1  failed
  2.4s  db-1  skipped (because db-1 failed)
`)
}

func TestJSONProgress(t *testing.T) {
	lines := strings.Split(strings.TrimSpace(show(t, JSON, 0)), "\n")
	if len(lines) != 13 {
		t.Errorf("%d lines", len(lines))
	}
	expect(t, lines[2], `{"time":"2000-01-01T00:00:00.43Z","step":1,"operation":"pull","subject":"image/busybox","phase":"pulling","status":"running","cause":"not present","current":12900000,"total":51600000}`)
	expect(t, lines[11], `{"time":"2000-01-01T00:00:02.23Z","step":3,"operation":"start","subject":"container/db-1","status":"failed","cause":"new","error":{"message":"start container/db-1: the machine ended"}}`)
}

func TestQuietProgress(t *testing.T) { expect(t, show(t, Quiet, 0), "") }

func TestLiveProgress(t *testing.T) {
	got := show(t, TTY, 24)
	if !strings.HasPrefix(got, "\x1b[?25l") || !strings.HasSuffix(got, "\x1b[?25h") {
		t.Error("the cursor must be hidden and shown again")
	}
	var pictures []string
	for _, p := range play(t, got, 80, 24) {
		pictures = append(pictures, p+"\n")
	}
	all := strings.Join(pictures, "---\n")
	for _, want := range []string{`---
image busybox       pulling  12.3 MiB / 49.2 MiB  25%  0.5s
web-1               stopping  0.1s
0 of 4 done  0.7s
---
`, `---
image busybox       pulled  0.6s
db-1                booting kernel  0.7s
1 of 4 done  1.9s
---
`} {
		if !strings.Contains(all, want) {
			t.Errorf("no\n%s\nin\n%s", want, all)
		}
	}
	expect(t, pictures[len(pictures)-1], `
image busybox       pulled  0.6s
db-1                failed  1.0s
`)
}

func TestALowTerminalShowsTheLongestRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c terminal
		var columns atomic.Int64
		columns.Store(24)
		u := New(Options{Out: &c.out, Err: &c.err, Mode: TTY, NoColor: true, Size: func() (int, int) { return int(columns.Load()), 5 }})
		p := u.Progress(nil)
		for i := range 9 {
			p.Sink()(event.Event{Time: time.Now(), Step: i, Operation: "start", Subject: fmt.Sprintf("container/web-with-a-long-name-%d", i), Phase: "booting kernel", Status: event.Running})
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(120 * time.Millisecond)
		synctest.Wait()
		pictures := play(t, c.err.String(), 24, 5)
		lines := strings.Split(pictures[len(pictures)-1], "\n")
		if len(lines) != 4 || lines[2] != "… and 7 more" || width(lines[0]) > 23 {
			t.Errorf("got %q", lines)
		}
		// The terminal shrinks: what wrapped is taken away as well.
		columns.Store(12)
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if !strings.Contains(c.err.String(), "\x1b[7A\x1b[J") {
			t.Errorf("wrapped lines were not erased: %q", c.err.String())
		}
		p.Close()
	})
}

func TestOutputGoesAboveTheBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := terminal{}
		both := &c.err
		u := New(Options{Out: both, Err: both, Mode: TTY, NoColor: true, Size: func() (int, int) { return 60, 10 }, IsTerminal: func(io.Writer) bool { return true }})
		p := u.Progress(upPlan())
		p.Sink()(news(3, event.Running, "booting kernel"))
		time.Sleep(150 * time.Millisecond)
		synctest.Wait()
		l := u.Logs(LogOptions{})
		l.Write(entry("db-1", "ready", false))
		pictures := play(t, both.String(), 60, 10)
		expect(t, pictures[len(pictures)-1], "db-1  | ready\ndb-1                booting kernel  0.1s\n0 of 4 done  0.1s")
		u.Close()
		pictures = play(t, both.String(), 60, 10)
		expect(t, pictures[len(pictures)-1], "db-1  | ready")
	})
}

// play answers what stands on a terminal after each time the block was drawn.
func play(t *testing.T, s string, columns, rows int) []string {
	t.Helper()
	lines := []string{""}
	var pictures []string
	up := regexp.MustCompile(`^\r\x1b\[(\d+)A\x1b\[J`)
	picture := func() {
		text := strings.TrimSuffix(strings.Join(lines, "\n"), "\n")
		if len(pictures) == 0 || pictures[len(pictures)-1] != text {
			pictures = append(pictures, text)
		}
	}
	for s != "" {
		switch m := up.FindStringSubmatch(s); {
		case m != nil:
			picture()
			n, _ := strconv.Atoi(m[1])
			if n > rows || n >= len(lines) {
				t.Fatalf("goes up %d lines of %d", n, len(lines))
			}
			lines = append(lines[:len(lines)-1-n], "")
			s = s[len(m[0]):]
		case strings.HasPrefix(s, "\x1b[?25"):
			s = s[6:]
		case s[0] == '\n':
			lines = append(lines, "")
			s = s[1:]
		default:
			i := strings.IndexAny(s, "\x1b\n\r")
			if i < 0 {
				i = len(s)
			}
			lines[len(lines)-1] += s[:i]
			s = s[i:]
		}
	}
	picture()
	return pictures
}

// stuck is a terminal that takes nothing until it is released.
type stuck struct{ released chan struct{} }

func (s stuck) Write(b []byte) (int, error) {
	<-s.released
	return len(b), nil
}

func TestATerminalThatTakesNothingHoldsNobodyUp(t *testing.T) {
	for _, mode := range []string{TTY, Plain, JSON} {
		synctest.Test(t, func(t *testing.T) {
			w := stuck{make(chan struct{})}
			u := New(Options{Out: w, Err: w, Mode: mode, Size: func() (int, int) { return 80, 24 }})
			p := u.Progress(upPlan())
			began := time.Now()
			sink := p.Sink()
			sink(news(1, event.Running, ""))
			time.Sleep(time.Second) // the renderer is stuck by now
			var senders sync.WaitGroup
			for range 4 {
				senders.Go(func() {
					for i := range 10_000 {
						e := news(1+i%8, event.Running, fmt.Sprint("phase ", i))
						sink(e)
					}
				})
			}
			senders.Wait()
			if held := time.Since(began); held != time.Second {
				t.Errorf("the work was held up: %v", held)
			}
			if n := len(p.box.take()); n > 16 {
				t.Errorf("%d news are kept for 8 steps", n)
			}
			u.Close()
			if took := time.Since(began); took != time.Second+patience {
				t.Errorf("the end took %v", took)
			}
			u.Error(errors.New("nobody sees this")) // and nobody waits for it
			close(w.released)
			<-p.done
		})
	}
}

func TestFinalNewsAreNeverDropped(t *testing.T) {
	m := newMailbox()
	for i := range 100 {
		for range 5 {
			m.put(event.Event{Step: i, Status: event.Running})
		}
		m.put(event.Event{Step: i, Status: event.Done})
	}
	done := 0
	for _, e := range m.take() {
		if e.Status == event.Done {
			done++
		}
	}
	if done != 100 || len(m.take()) != 0 {
		t.Errorf("%d of 100", done)
	}
}

func TestTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := terminal{columns: 60, rows: 10}
		u := c.ui(TTY, true, false)
		task := u.Task("busybox:1.36")
		task.Update("downloading", 512, 1024)
		time.Sleep(150 * time.Millisecond)
		synctest.Wait()
		pictures := play(t, c.err.String(), 60, 10)
		expect(t, pictures[len(pictures)-1], "busybox:1.36  downloading  512 B / 1.0 KiB  50%  0.1s")
		task.Close()
		pictures = play(t, c.err.String(), 60, 10)
		expect(t, pictures[len(pictures)-1], "")
	})
}
