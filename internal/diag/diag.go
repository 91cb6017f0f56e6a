// Package diag holds findings: what is wrong with a text that the user wrote,
// where, and what to do. It is data; internal/ui prints it.
package diag

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Severity of a finding.
type Severity int

// Errors stop; warnings are shown.
const (
	Error Severity = iota
	Warning
)

// Position is a place in a text: Line and Column count from 1, Column in
// runes. The zero Line means that the finding is about the whole file.
type Position struct {
	File   string `json:"file"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
}

func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Finding is one thing that is wrong.
type Finding struct {
	Severity Severity `json:"severity"`
	Position Position `json:"position"`
	// Path names the thing in the stack: "containers.web.ports[0]". May be empty.
	Path string `json:"path,omitempty"`
	// Message says what is wrong, in one line, without a full stop.
	Message string `json:"message"`
	// Hint says what to do: `did you mean "restart"?`. May be empty.
	Hint string `json:"hint,omitempty"`
	// Unsupported: the text is right, and asks for what there is not.
	Unsupported bool `json:"unsupported,omitempty"`
	// Source is the line of text at Position, without its newline; Length is how
	// many runes of it, from Column, the finding is about.
	Source string `json:"source,omitempty"`
	Length int    `json:"length,omitempty"`
}

// String is the first line of a finding as the user sees it.
func (f Finding) String() string {
	var b strings.Builder
	if place := f.Position.String(); place != "" { // the file itself may be what is missing
		b.WriteString(place + ": ")
	}
	if f.Severity == Warning {
		b.WriteString("warning: ")
	}
	if f.Path != "" {
		b.WriteString(f.Path + ": ")
	}
	b.WriteString(f.Message)
	if f.Hint != "" {
		b.WriteString("; " + f.Hint)
	}
	return b.String()
}

// Findings are all that one run found. As an error it stands for its errors;
// make one with Err.
type Findings []Finding

// Sort orders by place.
func (fs Findings) Sort() {
	slices.SortStableFunc(fs, func(a, b Finding) int {
		return cmp.Or(
			cmp.Compare(a.Position.File, b.Position.File),
			cmp.Compare(a.Position.Line, b.Position.Line),
			cmp.Compare(a.Position.Column, b.Position.Column))
	})
}

// HasErrors reports whether any finding stops the run.
func (fs Findings) HasErrors() bool {
	return slices.ContainsFunc(fs, func(f Finding) bool { return f.Severity == Error })
}

// Err answers fs as an error, or nil where nothing in it is one.
func (fs Findings) Err() error {
	if !fs.HasErrors() {
		return nil
	}
	return fs
}

func (fs Findings) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}
