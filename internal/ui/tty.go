package ui

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/planner"
)

// maxName bounds the column of names, in cells.
const maxName = 32

// live draws a block of what is under way, one line a subject. What a subject
// came to is written once, above the block, and stays: so the block never grows
// with the plan.
type live struct {
	u     *UI
	began time.Time
	rows  map[string]*row // by subject
	names int             // width of the column
	kept  strings.Builder // lines to write above the block at the next frame
	ended int             // rows
	last  string          // the last picture
}

// row is one subject.
type row struct {
	name  string
	began time.Time
	left  int          // steps that have not ended; at most 0: not known
	now   *event.Event // what is under way, or nil
	ended bool
}

func newTTY(u *UI, p *planner.Plan, began time.Time) *live {
	l := &live{u: u, began: began, rows: map[string]*row{}}
	if p != nil {
		for _, s := range p.Steps {
			l.row(s.Op.Subject()).left++
		}
	}
	return l
}

func (l *live) row(subject string) *row {
	r, ok := l.rows[subject]
	if !ok {
		r = &row{name: cut(subjectName(subject), maxName)}
		l.rows[subject] = r
		l.names = max(l.names, width(r.name))
	}
	return r
}

func (l *live) news(events []event.Event) {
	for _, e := range events {
		r := l.row(e.Subject)
		switch {
		case r.ended, e.Status == event.Waiting:
		case e.Status == event.Running:
			if r.began.IsZero() {
				r.began = e.Time
			}
			r.now = &e
		default:
			l.final(r, e)
		}
	}
}

// final takes the last event of a step. A step that was not done ends its
// subject at once, for what follows is skipped with it.
func (l *live) final(r *row, e event.Event) {
	r.now = nil
	r.left--
	text := plainText(e)
	if e.Status == event.Done && r.left > 0 {
		return
	}
	r.ended = true
	l.ended++
	if text == "" {
		return
	}
	line := pad(r.name, l.names) + "  " + l.u.paint(colorOf(e.Status), text)
	if !r.began.IsZero() {
		line += "  " + l.u.paint(sgrDim, seconds(e.Time.Sub(r.began)))
	}
	l.kept.WriteString(line + "\n")
}

func (l *live) tick() {
	block := l.block(time.Now())
	picture := strings.Join(block, "\n")
	if l.kept.Len() == 0 && picture == l.last {
		return
	}
	l.last = picture
	l.u.screen.draw(l.kept.String(), block)
	l.kept.Reset()
}

func (l *live) end() {
	l.u.screen.end(l.kept.String())
	l.kept.Reset()
}

// block answers the lines of what is under way, the longest running first, as
// many as the terminal is high, and a last line on the whole.
func (l *live) block(now time.Time) []string {
	columns, rows := l.u.screen.dimensions()
	var active []*row
	for _, r := range l.rows {
		if r.now != nil && !r.ended {
			active = append(active, r)
		}
	}
	slices.SortFunc(active, func(a, b *row) int { return cmp.Or(a.began.Compare(b.began), cmp.Compare(a.name, b.name)) })
	more := 0
	// A line each for the whole and for the cursor; one for what is left out.
	if room := max(1, rows-2); len(active) > room {
		more = len(active) - max(1, room-1)
		active = active[:len(active)-more]
	}
	var lines []string
	for _, r := range active {
		lines = append(lines, l.line(r, now, columns-1))
	}
	if more > 0 {
		lines = append(lines, cut(fmt.Sprintf("… and %d more", more), columns-1))
	}
	if len(l.rows) < 2 {
		return lines // one line says it all
	}
	whole := fmt.Sprintf("%d of %d done  %s", l.ended, len(l.rows), seconds(now.Sub(l.began)))
	return append(lines, l.u.paint(sgrDim, cut(whole, columns-1)))
}

// line says what one subject is at, in at most max cells.
func (l *live) line(r *row, now time.Time, max int) string {
	e := r.now
	text := e.Phase
	if text == "" {
		text, _ = wordsOf(e.Operation)
	}
	if e.Total > 0 {
		text += fmt.Sprintf("  %s / %s  %d%%", Bytes(e.Current), Bytes(e.Total), percent(e.Current, e.Total))
	} else if e.Current > 0 {
		text += "  " + Bytes(e.Current)
	}
	elapsed := "  " + seconds(now.Sub(r.began))
	left := cut(pad(r.name, l.names)+"  "+visible(text), max-len(elapsed))
	return left + l.u.paint(sgrDim, cut(elapsed, max))
}

// percent of a whole that may be wrong.
func percent(current, total int64) int {
	return int(100 * min(1, float64(max(0, current))/float64(total)))
}
