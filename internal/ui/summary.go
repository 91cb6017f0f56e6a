package ui

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/internal/logs"
	"github.com/vzcompose/vzcompose/planner"
)

// Summary is what became of a plan that did not succeed.
type Summary struct {
	// Outcomes of the steps, in the plan's order.
	Outcomes []Outcome
	// Said is what the failed ones said last.
	Said []Said
	// Err is told where no outcome tells why.
	Err error
}

// Outcome is what became of one step.
type Outcome struct {
	Step    planner.Step
	Status  event.Status
	Err     error // why it failed
	Because int   // the step whose failure it was skipped for; 0: none
}

// Said is the end of what an instance wrote, to be shown with its failure.
type Said struct {
	Step    int // its ID
	Output  []logs.Record
	Console []string
}

// Summary tells how a run ended: a line on the whole, "3 started, 1 failed, 2
// skipped (because db-1 failed)", then each failure once.
func (u *UI) Summary(s Summary) {
	if u.mode == JSON {
		u.summaryJSON(s)
		return
	}
	var b strings.Builder
	if u.mode != Quiet {
		b.WriteString(s.tally() + "\n")
	}
	failed := s.failures()
	for _, o := range failed {
		fmt.Fprintf(&b, "%s %s", u.paint(sgrRed, "error:"), u.explain(failureOf(o)))
		for _, said := range s.Said {
			if said.Step == o.Step.ID {
				said.write(&b)
			}
		}
	}
	u.errText(b.String())
	if s.unexplained() {
		u.Error(s.Err)
	}
}

// unexplained reports whether Err tells more than the outcomes do: an interrupt
// is told by what was interrupted and not begun.
func (s Summary) unexplained() bool {
	return s.Err != nil && len(s.failures()) == 0 && !slices.ContainsFunc(s.Outcomes, Outcome.undone)
}

// undone reports whether an interrupt kept a step from being done.
func (o Outcome) undone() bool {
	return o.Status == event.Interrupted || o.Status == event.Skipped && o.Because == 0
}

func (s Summary) failures() []Outcome {
	var failed []Outcome
	for _, o := range s.Outcomes {
		if o.Status == event.Failed {
			failed = append(failed, o)
		}
	}
	return failed
}

// failureOf answers the error of a failed step, also where there is none.
func failureOf(o Outcome) error {
	if o.Err != nil {
		return o.Err
	}
	return fmt.Errorf("%s %s failed", o.Step.Op.Verb(), subjectName(o.Step.Op.Subject()))
}

func (s Said) write(b *strings.Builder) {
	if len(s.Output) > 0 {
		b.WriteString("  last lines of its output:\n")
	}
	for _, r := range s.Output {
		text, _ := appendHarmless(nil, trimCR(r.Text), false)
		fmt.Fprintf(b, "    %s | %s\n", visible(r.Stream), text)
	}
	if len(s.Console) > 0 {
		b.WriteString("  last lines of its console:\n")
	}
	for _, line := range s.Console {
		text, _ := appendHarmless(nil, trimCR([]byte(line)), false)
		fmt.Fprintf(b, "    console | %s\n", text)
	}
}

// fate is what became of one subject.
type fate struct {
	name   string
	status event.Status
	word   string // what was done
	undone bool   // for an interrupt
}

// weight orders what a subject is known by: its steps may have come to several.
func weight(s event.Status) int {
	switch s {
	case event.Failed:
		return 3
	case event.Interrupted:
		return 2
	case event.Skipped:
		return 1
	}
	return 0
}

// fates answers what became of each instance; where the plan has none, of each
// thing. What failed is among them in any case.
func (s Summary) fates() []*fate {
	var all, instances []*fate
	by := map[string]*fate{}
	for _, o := range s.Outcomes {
		subject := o.Step.Op.Subject()
		f, ok := by[subject]
		if !ok {
			f = &fate{name: subjectName(subject)}
			by[subject] = f
			all = append(all, f)
		}
		_, wait := o.Step.Op.(planner.Await)
		_, word := wordsOf(o.Step.Op.Verb())
		switch {
		case weight(o.Status) > 0:
			if weight(o.Status) > weight(f.status) {
				f.status, f.undone = o.Status, o.undone()
			}
		case f.status == "" || f.status == event.Done && !(wait && f.word != ""):
			f.status, f.word = o.Status, word
		}
	}
	for _, o := range s.Outcomes {
		f := by[o.Step.Op.Subject()]
		if _, ok := targetOf(o.Step.Op); (ok || f.status == event.Failed) && !slices.Contains(instances, f) {
			instances = append(instances, f)
		}
	}
	if slices.ContainsFunc(instances, func(f *fate) bool { return f.status != event.Failed }) {
		return instances
	}
	return all
}

// tally is the line on the whole.
func (s Summary) tally() string {
	var parts, failed []string
	var skipped, interrupted, unbegun int
	done := map[string]int{}
	var words []string
	for _, f := range s.fates() {
		switch f.status {
		case event.Failed:
			failed = append(failed, f.name)
		case event.Interrupted:
			interrupted++
		case event.Skipped:
			if f.undone {
				unbegun++
			} else {
				skipped++
			}
		default:
			if done[f.word]++; done[f.word] == 1 {
				words = append(words, f.word)
			}
		}
	}
	for _, w := range words {
		parts = append(parts, fmt.Sprintf("%d %s", done[w], w))
	}
	if len(failed) > 0 {
		parts = append(parts, fmt.Sprintf("%d failed", len(failed)))
	}
	if interrupted > 0 {
		parts = append(parts, fmt.Sprintf("%d interrupted", interrupted))
	}
	if unbegun > 0 {
		parts = append(parts, fmt.Sprintf("%d not begun", unbegun))
	}
	if skipped > 0 {
		parts = append(parts, fmt.Sprintf("%d skipped%s", skipped, s.why()))
	}
	if len(parts) == 0 {
		return "nothing was done"
	}
	return strings.Join(parts, ", ")
}

// why says in brackets what made steps be skipped: at most three failures.
func (s Summary) why() string {
	var causes []string
	for _, o := range s.Outcomes {
		if o.Status != event.Skipped || o.Because < 1 || o.Because > len(s.Outcomes) {
			continue
		}
		name := subjectName(s.Outcomes[o.Because-1].Step.Op.Subject())
		if !slices.Contains(causes, name) {
			causes = append(causes, name)
		}
	}
	const most = 3
	if n := len(causes); n > most {
		causes = append(causes[:most], fmt.Sprintf("%d more", n-most))
	}
	if len(causes) == 0 {
		return ""
	}
	return " (because " + strings.Join(causes, ", ") + " failed)"
}

// summaryJSON writes the whole, then each failure, as an object a line.
func (u *UI) summaryJSON(s Summary) {
	u.errJSON(struct {
		Summary string `json:"summary"`
	}{s.tally()})
	for _, o := range s.failures() {
		line := struct {
			Step      int        `json:"step"`
			Operation string     `json:"operation"`
			Subject   string     `json:"subject"`
			Error     *errorJSON `json:"error"`
			Output    []string   `json:"output,omitempty"`
			Console   []string   `json:"console,omitempty"`
		}{Step: o.Step.ID, Operation: o.Step.Op.Verb(), Subject: o.Step.Op.Subject(), Error: toErrorJSON(failureOf(o))}
		for _, said := range s.Said {
			if said.Step != o.Step.ID {
				continue
			}
			for _, r := range said.Output {
				line.Output = append(line.Output, string(r.Text))
			}
			line.Console = append(line.Console, said.Console...)
		}
		u.errJSON(line)
	}
	if s.unexplained() {
		u.Error(s.Err)
	}
}
