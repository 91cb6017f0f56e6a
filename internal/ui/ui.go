// Package ui is the only writer to standard output and standard error: results
// to the one, progress, findings and errors to the other. It decides nothing.
//
// What it prints on a terminal is safe: text of guests, images, registries and
// files reaches the terminal with its control characters written out. Only
// output of guests keeps its colours and tabs, and only a result that is not
// for a terminal is passed through as it is.
package ui

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/term"
)

// The modes of progress. Auto is TTY where standard error is a terminal, else
// Plain.
const (
	Auto  = "auto"
	TTY   = "tty"   // a live block, one line an instance
	Plain = "plain" // one line a change
	JSON  = "json"  // one object a line, for errors and summaries too
	Quiet = "quiet" // errors only
)

// Options of a UI.
type Options struct {
	Out, Err io.Writer
	// Mode is one of the modes; any other text means Auto. The command line
	// refuses it before.
	Mode    string
	NoColor bool
	// Dumb: the terminal knows no control sequences (TERM=dumb).
	Dumb bool
	// Size of the terminal in cells; nil asks the system about Err. 0, 0 where
	// it is not known.
	Size func() (columns, rows int)
	// IsTerminal answers for Out and for Err; nil asks the system.
	IsTerminal func(io.Writer) bool
}

// UI may be used from several goroutines.
type UI struct {
	mode               string
	screen             *screen
	colorOut, colorErr bool
	redraws            bool // standard output is a terminal that can

	mu       sync.Mutex // guards the following
	progress []*Progress
}

// New answers a UI. Close it.
func New(o Options) *UI {
	if o.IsTerminal == nil {
		o.IsTerminal = isTerminal
	}
	if o.Size == nil {
		o.Size = func() (int, int) { return sizeOf(o.Err) }
	}
	s := &screen{out: o.Out, err: o.Err, outTTY: o.IsTerminal(o.Out), errTTY: o.IsTerminal(o.Err), size: o.Size}
	o.NoColor = o.NoColor || o.Dumb
	u := &UI{mode: o.Mode, screen: s, colorOut: s.outTTY && !o.NoColor, colorErr: s.errTTY && !o.NoColor, redraws: s.outTTY && !o.Dumb}
	switch o.Mode {
	case TTY:
		// Asked for, it is drawn even where we do not see a terminal.
		s.errTTY = true
		u.colorErr = !o.NoColor
	case Plain, JSON, Quiet:
	default:
		u.mode = Plain
		if s.errTTY && !o.Dumb {
			u.mode = TTY
		}
	}
	return u
}

// Close ends every progress that is still shown and gives the terminal back as
// it was.
func (u *UI) Close() {
	u.mu.Lock()
	open := slices.Clone(u.progress)
	u.mu.Unlock()
	for _, p := range open {
		p.Close()
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func sizeOf(w io.Writer) (columns, rows int) {
	f, ok := w.(*os.File)
	if !ok {
		return 0, 0
	}
	columns, rows, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0, 0
	}
	return columns, rows
}

// Result writes bytes that are the result as they are.
func (u *UI) Result(b []byte) error { return u.screen.writeOut(b) }

// JSON writes a JSON document as a result, and YAML one of YAML.
func (u *UI) JSON(doc []byte) error { return u.Result(appendDocument(nil, doc, false)) }
func (u *UI) YAML(doc []byte) error { return u.Result(appendDocument(nil, doc, true)) }

// Text writes lines of text as a result. On a terminal they are made safe.
func (u *UI) Text(s string) error {
	if !u.screen.outTTY {
		return u.Result([]byte(s))
	}
	return u.screen.writeOut(safeText(s))
}

// safeText keeps newlines and tabs.
func safeText(s string) []byte {
	var b []byte
	for line := range strings.Lines(s) {
		text, nl := strings.CutSuffix(line, "\n")
		b, _ = appendHarmless(b, []byte(text), false)
		if nl {
			b = append(b, '\n')
		}
	}
	return b
}

// Printf writes text as a result, as Text does. That it could not be written
// shows in what is written last.
func (u *UI) Printf(format string, args ...any) { _ = u.Text(fmt.Sprintf(format, args...)) }

// Notef tells of something beside the result. Quiet leaves it out.
func (u *UI) Notef(format string, args ...any) { u.remark("note", "", fmt.Sprintf(format, args...)) }

// Warnf tells of something that may be wrong. Quiet leaves it out.
func (u *UI) Warnf(format string, args ...any) {
	u.remark("warning", "warning: ", fmt.Sprintf(format, args...))
}

func (u *UI) remark(key, prefix, text string) {
	switch u.mode {
	case Quiet:
	case JSON:
		u.errJSON(map[string]string{key: text})
	default:
		u.errText(u.paint(sgrYellow, prefix) + visibleLines(text, "  ") + "\n")
	}
}

// errText writes to standard error. There is nowhere to report that it failed.
func (u *UI) errText(s string) { _ = u.screen.writeErr([]byte(s)) }

func (u *UI) errJSON(v any) { _ = u.screen.writeErr(appendJSON(nil, v)) }

// The colours (ECMA-48, SGR).
const (
	sgrRed    = "31"
	sgrGreen  = "32"
	sgrYellow = "33"
	sgrCyan   = "36"
	sgrBold   = "1"
	sgrDim    = "2"
)

// paint colours a text for standard error.
func (u *UI) paint(sgr, s string) string { return paint(u.colorErr, sgr, s) }

func paint(colors bool, sgr, s string) string {
	if !colors || sgr == "" || s == "" {
		return s
	}
	return "\x1b[" + sgr + "m" + s + "\x1b[0m"
}
