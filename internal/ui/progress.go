package ui

import (
	"slices"
	"strings"
	"time"

	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/planner"
)

const (
	frame = 100 * time.Millisecond // between two pictures of the live block
	// patience is how long the end waits for a terminal that takes nothing.
	patience = 3 * time.Second
)

// renderer shows news. It belongs to the goroutine of its Progress.
type renderer interface {
	news([]event.Event)
	tick() // a frame has passed
	end()
}

// Progress shows how a plan goes, on standard error.
type Progress struct {
	u       *UI
	box     *mailbox
	closing chan struct{} // closed once, by Close
	done    chan struct{} // closed when the rest has been shown
}

// Progress begins to show how p goes. p may be nil where there is no plan: then
// every step is a thing of its own. Close ends it.
func (u *UI) Progress(p *planner.Plan) *Progress {
	pr := &Progress{u: u, box: newMailbox(), closing: make(chan struct{}), done: make(chan struct{})}
	began := time.Now()
	var r renderer
	live := false
	switch u.mode {
	case TTY:
		r, live = newTTY(u, p, began), true
	case JSON:
		r = &jsonLines{u: u}
	case Quiet:
		r = quiet{}
	default:
		r = &plainLines{u: u, began: began, last: map[int]string{}, skipped: map[string]string{}}
	}
	u.mu.Lock()
	u.progress = append(u.progress, pr)
	u.mu.Unlock()
	go pr.run(r, live)
	return pr
}

// Sink takes the events. It never blocks: what the terminal is too slow for is
// left out, but never the final event of a step. After Close it does nothing.
func (p *Progress) Sink() event.Sink { return p.box.put }

// Close waits until the rest has been shown, for three seconds where the
// terminal takes nothing (a pipe nobody reads, Ctrl-S): what is written later is
// lost then, and the program ends. It is idempotent.
func (p *Progress) Close() {
	p.u.mu.Lock()
	if i := slices.Index(p.u.progress, p); i >= 0 {
		p.u.progress = slices.Delete(p.u.progress, i, i+1)
		close(p.closing)
	}
	p.u.mu.Unlock()
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-p.done:
	case <-t.C:
		p.u.screen.stuck.Store(true)
	}
}

func (p *Progress) run(r renderer, live bool) {
	defer close(p.done)
	var frames <-chan time.Time
	if live {
		t := time.NewTicker(frame)
		defer t.Stop()
		frames = t.C
	}
	for {
		select {
		case <-p.box.ready:
			r.news(p.box.take())
		case <-frames:
			r.tick()
		case <-p.closing:
			r.news(p.box.take())
			r.end()
			return
		}
	}
}

// Task is the progress of one thing that is no step of a plan.
type Task struct {
	p       *Progress
	subject string
}

// Task begins to show what happens to subject. Close ends it.
func (u *UI) Task(subject string) *Task { return &Task{u.Progress(nil), subject} }

// Update tells what it is at, and bytes so far and in all, where it counts.
func (t *Task) Update(phase string, current, total int64) {
	t.p.box.put(event.Event{Time: time.Now(), Step: 1, Subject: t.subject, Phase: phase,
		Status: event.Running, Current: current, Total: total})
}

// Close ends it. The caller says how it ended.
func (t *Task) Close() { t.p.Close() }

type quiet struct{}

func (quiet) news([]event.Event) {}
func (quiet) tick()              {}
func (quiet) end()               {}

// jsonLines writes each event as an object: event.Event, and the error.
type jsonLines struct{ u *UI }

func (j *jsonLines) news(events []event.Event) {
	for _, e := range events {
		line := struct {
			event.Event
			Error *errorJSON `json:"error,omitempty"`
		}{Event: e}
		if e.Err != nil {
			line.Error = toErrorJSON(e.Err)
		}
		j.u.errJSON(line)
	}
}

func (*jsonLines) tick() {}
func (*jsonLines) end()  {}

// plainLines writes a line a change of status or phase.
type plainLines struct {
	u     *UI
	began time.Time
	at    time.Duration  // of the last line: time does not go back
	last  map[int]string // by step
	// skipped is what was said of a subject's skipped steps.
	skipped map[string]string
}

func (p *plainLines) news(events []event.Event) {
	for _, e := range events {
		text := plainText(e)
		if text == "" || p.last[e.Step] == text || e.Status == event.Skipped && p.skipped[e.Subject] == text {
			continue
		}
		p.last[e.Step] = text
		if e.Status == event.Skipped { // as each of its steps is
			p.skipped[e.Subject] = text
		}
		p.at = max(p.at, e.Time.Sub(p.began))
		p.u.errText(pad("", 6-len(seconds(p.at))) + seconds(p.at) + "  " + subjectName(e.Subject) + "  " + p.u.paint(colorOf(e.Status), text) + "\n")
	}
}

func (*plainLines) tick() {}
func (*plainLines) end()  {}

// plainText says what an event tells; "" where it is not worth a line.
func plainText(e event.Event) string {
	doing, done := wordsOf(e.Operation)
	switch {
	case e.Status == event.Done:
		return done
	case e.Status == event.Failed:
		return "failed" // why is in the summary, once
	case e.Status == event.Skipped && !strings.HasPrefix(e.Cause, "because "):
		return "" // an interrupt: the summary counts what was not begun
	case e.Status == event.Skipped:
		return "skipped (" + because(e.Cause) + ")"
	case e.Status == event.Interrupted:
		return "interrupted"
	case e.Status == event.Running && e.Phase != "":
		return visible(e.Phase)
	case e.Status == event.Running && e.Cause != "":
		return doing + " (" + visible(e.Cause) + ")"
	case e.Status == event.Running:
		return doing
	}
	return ""
}

func colorOf(s event.Status) string {
	switch s {
	case event.Done:
		return sgrGreen
	case event.Failed:
		return sgrRed
	case event.Skipped, event.Interrupted:
		return sgrYellow
	}
	return ""
}
