package ui

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// What is taken for the terminal where its size is not known, in cells.
const (
	defaultColumns = 80
	defaultRows    = 24
)

// screen is both outputs. Where they are terminals they are taken for the same
// one: the live block is lifted before anything else is written and put back
// below it.
type screen struct {
	out, err       io.Writer
	outTTY, errTTY bool
	size           func() (columns, rows int)
	// stuck is set when a terminal does not take what is written: whoever holds
	// mu may hold it for ever, and nobody else waits for it.
	stuck atomic.Bool

	mu      sync.Mutex // guards the following and the writing
	block   []string   // the lines of the live block
	shown   bool       // block is on the terminal, the cursor on the line below
	midline bool       // the cursor stands within a line of somebody else
	hidden  bool       // the cursor is hidden
}

func (s *screen) dimensions() (columns, rows int) {
	columns, rows = s.size()
	if columns <= 0 {
		columns = defaultColumns
	}
	if rows <= 0 {
		rows = defaultRows
	}
	return columns, rows
}

func (s *screen) writeOut(b []byte) error { return s.write(s.out, s.outTTY, b) }
func (s *screen) writeErr(b []byte) error { return s.write(s.err, s.errTTY, b) }

func (s *screen) write(w io.Writer, tty bool, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if s.stuck.Load() {
		return errs.New(errs.DeadlineExceeded, "write output: the terminal takes nothing")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if tty && s.shown {
		if _, err := io.WriteString(s.err, s.liftLocked()); err != nil {
			return err
		}
	}
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	if tty {
		s.midline = b[len(b)-1] != '\n'
		if back := s.putLocked(); back != "" {
			_, err := io.WriteString(s.err, back)
			return err
		}
	}
	return nil
}

// draw writes lines that stay and puts the block below them.
func (s *screen) draw(kept string, block []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	if !s.hidden {
		s.hidden = true
		b.WriteString("\x1b[?25l")
	}
	b.WriteString(s.liftLocked())
	if kept != "" && s.midline {
		b.WriteString("\n")
		s.midline = false
	}
	b.WriteString(kept)
	s.block = block
	b.WriteString(s.putLocked())
	// Progress that cannot be written is nobody's failure.
	_, _ = io.WriteString(s.err, b.String())
}

// end writes the last lines, takes the block away and shows the cursor.
func (s *screen) end(kept string) {
	s.draw(kept, nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hidden = false
	_, _ = io.WriteString(s.err, "\x1b[?25h")
}

// liftLocked answers what erases the block. A terminal that became narrower has
// wrapped its lines.
func (s *screen) liftLocked() string {
	if !s.shown {
		return ""
	}
	s.shown = false
	columns, _ := s.dimensions()
	return lift(s.block, columns)
}

// lift returns what erases lines above the cursor, at a width.
func lift(lines []string, columns int) string {
	n := 0
	for _, line := range lines {
		n += max(1, (width(stripSGR(line))+columns-1)/columns)
	}
	return fmt.Sprintf("\r\x1b[%dA\x1b[J", n)
}

// putLocked answers what draws the block, where the cursor is at the begin of a
// line.
func (s *screen) putLocked() string {
	if s.midline || len(s.block) == 0 {
		return ""
	}
	s.shown = true
	return strings.Join(s.block, "\n") + "\n"
}

// stripSGR takes our colours out of a line of ours.
func stripSGR(s string) string {
	var b strings.Builder
	for {
		before, after, ok := strings.Cut(s, "\x1b[")
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		_, s, _ = strings.Cut(after, "m")
	}
}
