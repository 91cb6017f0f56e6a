package spec

import (
	"strings"
	"unicode/utf8"

	"github.com/vzcompose/vzcompose/internal/diag"
)

// source is one text that was read, cut into lines where YAML sees breaks.
type source struct {
	name  string // as findings name it
	lines []string
	// compose: it is written in Compose's dialect.
	compose bool
	// dir is what its relative paths start at, near the same as the user reaches it,
	// and lookup returns its variables. Zero: as the walker has them. A file that is
	// included has its own.
	dir, near string
	lookup    func(string) (string, bool)
	// wide marks the long lines in which a rune is not a byte; made when asked.
	wide map[int]bool
}

func newSource(name, text string) *source {
	s := &source{name: name}
	for {
		i, width := lineBreak(text)
		s.lines = append(s.lines, text[:i])
		if width == 0 {
			return s
		}
		text = text[i+width:]
	}
}

// lineBreak finds the first line break of YAML 1.1 (CR LF, CR, LF, NEL, LS, PS),
// which is what the parser counts lines by.
func lineBreak(text string) (at, width int) {
	for i, r := range text {
		switch r {
		case '\r':
			if strings.HasPrefix(text[i:], "\r\n") {
				return i, 2
			}
			return i, 1
		case '\n', '\u0085', '\u2028', '\u2029':
			return i, utf8.RuneLen(r)
		}
	}
	return len(text), 0
}

// rest answers line from column on, both counted from 1, in runes. A place far
// into a long line that is not ASCII is not worth finding: "".
func (s *source) rest(line, column int) string {
	const long = 1 << 10
	if line < 1 || line > len(s.lines) {
		return ""
	}
	text := s.lines[line-1]
	if len(text) > long {
		wide, known := s.wide[line]
		if !known {
			wide = strings.ContainsFunc(text, func(r rune) bool { return r >= utf8.RuneSelf })
			if s.wide == nil {
				s.wide = map[int]bool{}
			}
			s.wide[line] = wide
		}
		if wide && column > long {
			return ""
		}
		if !wide {
			return text[min(max(column-1, 0), len(text)):]
		}
	}
	for range column - 1 {
		_, width := utf8.DecodeRuneInString(text)
		text = text[width:]
	}
	return text
}

// find answers where part first stands at or after a place, looking at a
// bounded number of lines.
func (s *source) find(line, column int, part string) (int, int, bool) {
	for n := 0; n < 1000 && line+n <= len(s.lines); n++ {
		text := s.rest(line+n, column)
		if n == 0 && text == "" {
			break
		}
		if i := strings.Index(text, part); i >= 0 {
			return line + n, column + utf8.RuneCountInString(text[:i]), true
		}
		column = 1
	}
	return 0, 0, false
}

// place is where a finding points: length runes of a line. Length 0 stands for
// the YAML token that begins there.
type place struct {
	src          *source
	line, column int
	length       int
}

// locate fills in what a finding says about its place.
func (p place) locate(f *diag.Finding) {
	if p.src == nil {
		return
	}
	f.Position = diag.Position{File: p.src.name, Line: p.line, Column: p.column}
	if p.line < 1 || p.line > len(p.src.lines) {
		f.Position.Line, f.Position.Column = 0, 0
		return
	}
	text := p.src.lines[p.line-1]
	if len(text) > utf8.UTFMax*maxSourceRunes || utf8.RuneCountInString(text) > maxSourceRunes {
		return
	}
	f.Source, f.Length = text, p.length
	if f.Length == 0 {
		f.Length = tokenLength(p.src.rest(p.line, p.column))
	}
}

// tokenLength answers how many runes the token at the start of text has.
func tokenLength(text string) int {
	if text == "" {
		return 1
	}
	end := len(text)
	switch c := text[0]; c {
	case '"', '\'':
		if i := closingQuote(text, c); i > 0 {
			end = i + 1
		}
	case '[', '{', '|', '>':
		end = 1
	default:
		end = plainEnd(text)
	}
	return max(1, utf8.RuneCountInString(text[:end]))
}

func closingQuote(text string, quote byte) int {
	for i := 1; i < len(text); i++ {
		switch {
		case text[i] == '\\' && quote == '"':
			i++
		case text[i] == quote:
			return i
		}
	}
	return 0
}

// plainEnd finds the end of a plain scalar: before ": ", " #", or a flow
// indicator that ends an entry, without the blanks before it.
func plainEnd(text string) int {
	end := len(text)
	for i := range len(text) {
		next := byte(' ')
		if i+1 < len(text) {
			next = text[i+1]
		}
		blank := next == ' ' || next == '\t'
		if text[i] == ':' && blank || text[i] == ' ' && next == '#' ||
			text[i] == ',' && blank || text[i] == ']' || text[i] == '}' && !strings.Contains(text[:i], "${") {
			end = i
			break
		}
	}
	return len(strings.TrimRight(text[:end], " \t"))
}
