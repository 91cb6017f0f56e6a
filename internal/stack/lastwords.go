package stack

import (
	"context"
	"os"
	"slices"
	"strings"

	"github.com/vzcompose/vzcompose/executor"
	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/internal/logs"
	"github.com/vzcompose/vzcompose/planner"
)

// lastLines is how much of a failed instance's output is kept.
const lastLines = 10

// lastWords returns what each instance wrote last whose step failed.
func (s *Stack) lastWords(report executor.Report) []Said {
	var all []Said
	for _, o := range report.Outcomes {
		if o.Status != event.Failed {
			continue
		}
		t, ok := target(o.Step.Op)
		if !ok {
			continue
		}
		said := Said{Step: o.Step.ID, Output: s.lastOutput(t.Instance)}
		if len(said.Output) == 0 {
			said.Console = tailOf(s.Folder.Console(s.Name, t.Instance), lastLines)
		}
		all = append(all, said)
	}
	return all
}

func target(op planner.Op) (planner.Target, bool) {
	switch op := op.(type) {
	case planner.Start:
		return op.Target, true
	case planner.Await:
		return op.Target, true
	}
	return planner.Target{}, false
}

// lastOutput returns the last lines of an instance's last boot.
func (s *Stack) lastOutput(name string) []logs.Record {
	st, err := s.Folder.ReadState(s.Name, name)
	if err != nil {
		return nil // then there is nothing to show beside the failure itself
	}
	r, err := logs.OpenReader(s.Folder.Log(s.Name, name), logs.ReadOptions{Tail: lastLines, Boot: st.Boots})
	if err != nil {
		return nil
	}
	defer r.Close()
	var all []logs.Record
	for {
		rec, err := r.Next(context.Background())
		if err != nil {
			return all
		}
		all = append(all, rec)
	}
}

// tailOf returns the last lines of a console that say something, as far as it can be
// read.
func tailOf(path string, n int) []string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	const window = 8 << 10
	b := make([]byte, window)
	st, err := f.Stat()
	if err != nil {
		return nil
	}
	got, _ := f.ReadAt(b, max(0, st.Size()-window))
	lines := slices.DeleteFunc(strings.Split(string(b[:got]), "\n"), isRoutine)
	return lines[max(0, len(lines)-n):]
}

// isRoutine reports whether a line is one of every machine's console.
func isRoutine(line string) bool {
	line = strings.TrimSpace(line)
	return line == "" || line == "vzcompose-agent: up" || strings.HasSuffix(line, "reboot: Power down")
}
