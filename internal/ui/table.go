package ui

import (
	"strings"
	"text/template"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Table is a list of things as a result.
type Table struct {
	Header []string
	Rows   []Row
}

// Row is one thing.
type Row struct {
	Cells []string // as many as Header
	ID    string   // what -q prints
	Value any      // what JSON and templates see
}

// gap between two columns, in cells.
const gap = 3

// Table shows t. format is "" or "table"; "json", an object a line; or a
// text/template that is executed for each row's value, a line each, with the
// function json. With ids it shows the IDs alone, a line each.
func (u *UI) Table(t Table, format string, ids bool) error {
	switch {
	case ids:
		var b strings.Builder
		for _, r := range t.Rows {
			b.WriteString(visible(r.ID) + "\n")
		}
		return u.Result([]byte(b.String()))
	case format == "" || format == "table":
		return u.Result([]byte(t.String()))
	case format == "json":
		var b []byte
		for _, r := range t.Rows {
			b = appendJSON(b, r.Value)
		}
		return u.Result(b)
	}
	return u.template(t, format)
}

// Board shows a table that changes: on a terminal in the place of the one before,
// elsewhere below it.
type Board struct {
	u     *UI
	shown []string
}

// Board returns an empty one.
func (u *UI) Board() *Board { return &Board{u: u} }

// Show is Table, without ids. Of a terminal it takes as many lines as that has.
func (b *Board) Show(t Table, format string) error {
	if !b.u.redraws || format != "" && format != "table" {
		return b.u.Table(t, format, false)
	}
	columns, rows := b.u.screen.dimensions()
	text := ""
	if len(b.shown) > 0 {
		text = lift(b.shown, columns)
	}
	b.shown = nil
	for line := range strings.Lines(t.String()) {
		if len(b.shown) < rows-1 {
			b.shown = append(b.shown, cut(strings.TrimSuffix(line, "\n"), columns-1))
		}
	}
	return b.u.Result([]byte(text + strings.Join(b.shown, "\n") + "\n"))
}

func (u *UI) template(t Table, format string) error {
	tmpl, err := template.New("format").Option("missingkey=error").Funcs(template.FuncMap{
		"json": func(v any) string { return strings.TrimSuffix(string(appendJSON(nil, v)), "\n") },
	}).Parse(format)
	if err != nil {
		return errs.New(errs.InvalidArgument, "--format: %w", err)
	}
	var b strings.Builder
	for _, r := range t.Rows {
		if err := tmpl.Execute(&b, r.Value); err != nil {
			return errs.New(errs.InvalidArgument, "--format: %w", err)
		}
		b.WriteByte('\n')
	}
	return u.Text(b.String())
}

// String is the table, its columns aligned.
func (t Table) String() string {
	lines := [][]string{t.Header}
	for _, r := range t.Rows {
		lines = append(lines, r.Cells)
	}
	var widths []int
	for i, cells := range lines {
		lines[i] = make([]string, len(cells))
		for c, cell := range cells {
			lines[i][c] = visible(cell)
			if c == len(widths) {
				widths = append(widths, 0)
			}
			widths[c] = max(widths[c], width(lines[i][c]))
		}
	}
	var b strings.Builder
	for _, cells := range lines {
		var line strings.Builder
		for c, cell := range cells {
			line.WriteString(pad(cell, widths[c]+gap))
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}
