package ui

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/vzcompose/vzcompose/internal/diag"
)

const (
	tabWidth = 4   // cells a tab is shown as; only its place in the line counts
	maxPiece = 120 // cells of a source line where no terminal bounds them
	minPiece = 20
)

// Findings tells what is wrong with a text that the user wrote: for each its
// place, message and hint, then the source line with a mark under what is
// meant.
func (u *UI) Findings(fs diag.Findings) {
	for _, f := range fs {
		switch {
		case u.mode == JSON:
			u.errJSON(toFindingJSON(f))
		case u.mode == Quiet && f.Severity == diag.Warning:
		default:
			u.errText(u.finding(f))
		}
	}
}

func (u *UI) finding(f diag.Finding) string {
	head := visible(f.String())
	if f.Source == "" || f.Position.Line <= 0 {
		return head + "\n"
	}
	number := fmt.Sprintf("  %d | ", f.Position.Line)
	blank := strings.Repeat(" ", len(number)-2) + "| "
	room := maxPiece
	if u.screen.errTTY {
		columns, _ := u.screen.dimensions()
		room = max(minPiece, columns-1-len(number))
	}
	source, mark := excerpt(f.Source, f.Position.Column, f.Length, room)
	sgr := sgrRed
	if f.Severity == diag.Warning {
		sgr = sgrYellow
	}
	at := len(mark) - len(strings.TrimLeft(mark, " "))
	return head + "\n" + number + source + "\n" + blank + mark[:at] + u.paint(sgr, mark[at:]) + "\n"
}

// excerpt answers at most room cells of a source line, around column (from 1,
// in runes), and the marker for length runes from there.
func excerpt(source string, column, length, room int) (line, mark string) {
	column = max(1, column)
	begin := runesBefore(source, column-1)
	end := begin + runesBefore(source[begin:], max(1, length))
	before := shown(source[:begin])
	meant := shown(source[begin:end])
	after := shown(source[end:])

	// What is meant comes first, then what stands before it, then the rest.
	meant = cut(meant, room)
	left := room - max(1, width(meant))
	if w := width(before); w > left {
		before = cutLeft(before, min(left, max(left/2, left-width(after))))
	}
	left -= width(before)
	after = cut(after, left)
	marks := max(1, width(meant))
	return before + meant + after, strings.Repeat(" ", width(before)) + "^" + strings.Repeat("~", marks-1)
}

// shown is a piece of source as a terminal may have it.
func shown(s string) string {
	return visible(strings.ReplaceAll(s, "\t", strings.Repeat(" ", tabWidth)))
}

// cutLeft answers the end of s in at most max cells, with … for what is left
// out.
func cutLeft(s string, max int) string {
	if width(s) <= max {
		return s
	}
	if max <= 0 {
		return ""
	}
	n, at := 1, len(s)
	for at > 0 {
		r, size := utf8.DecodeLastRuneInString(s[:at])
		if n += runeWidth(r); n > max {
			break
		}
		at -= size
	}
	return "…" + s[at:]
}

type findingJSON struct {
	Severity string `json:"severity"`
	diag.Position
	Path    string `json:"path,omitempty"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

func toFindingJSON(f diag.Finding) findingJSON {
	severity := "error"
	if f.Severity == diag.Warning {
		severity = "warning"
	}
	return findingJSON{severity, f.Position, f.Path, f.Message, f.Hint}
}
