package spec

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The files of the environment are read as Compose reads them (dotenv of
// compose-go; the tests compare the two): NAME=value or NAME: value. "#" begins a
// comment at the start of a line, or after a space where the value is not quoted.
// A quoted value may span lines; \ keeps the quote that follows it; double quotes
// know more escapes. Outside of single quotes variables are put in. "export" is
// skipped; a name alone takes the caller's value.
//
// What Compose takes silently and not as it was meant is an error here: text
// after the closing quote, which would be the next variable; a name that is empty
// or holds a tab; an octal escape that is none; what is not UTF-8.

// envEntry is one statement of such a file, before variables are put in.
type envEntry struct {
	place
	name, text string
	source     envSource
}

// envSource is where the value of a variable comes from.
type envSource int

const (
	fromCaller   envSource = iota // text is empty
	fromText                      // text as it is
	fromTemplate                  // text with variables put in
)

// envParser cuts a text into statements.
type envParser struct {
	w       *walker
	src     *source
	text    string
	pos     int
	entries []envEntry
	line    int // of pos, from 1
	start   int // of that line in text
}

// envFormat is how a file of the environment is read.
func envFormat() kind[bool] {
	raw := enum[string](choice{name: "raw"}, choice{name: "env"})
	return kind[bool]{
		schema: raw.schema, encode: func(bool) any { return nil },
		decode: func(w *walker, n *node, at *trail) (bool, bool) {
			v, ok := raw.decode(w, n, at)
			return v == "raw", ok
		},
	}
}

// parseRaw returns the lines NAME=value of a text as they are: no quotes, escapes,
// variables, or comments after a value. It is Compose's format raw.
func parseRaw(w *walker, name string, data []byte) (all []envEntry) {
	p := &envParser{w: w, src: newSource(name, strings.TrimPrefix(string(data), "\ufeff"))}
	for i, line := range p.src.lines {
		at := place{src: p.src, line: i + 1, column: 1}
		text := strings.TrimLeftFunc(line, blank)
		switch key, value, said := strings.Cut(text, "="); {
		case text == "" || text[0] == '#':
		case !utf8.ValidString(line) || strings.ContainsRune(line, 0):
			p.error(at, "", "the line is not text")
		case key == "" || strings.ContainsFunc(key, unicode.IsSpace):
			p.error(at, "", "expected NAME=value")
		case !said:
			all = append(all, envEntry{place: at, name: key, source: fromCaller})
		default:
			all = append(all, envEntry{place: at, name: key, text: value, source: fromText})
		}
	}
	return all
}

// parseEnv returns the statements of a text, in its order.
func parseEnv(w *walker, name string, data []byte) []envEntry {
	text := strings.TrimPrefix(string(data), "\ufeff")
	src := &source{name: name}
	for line := range strings.SplitSeq(text, "\n") {
		src.lines = append(src.lines, strings.TrimSuffix(line, "\r"))
	}
	p := &envParser{w: w, src: src, text: text, line: 1}
	for p.skipBlank() {
		p.statement()
	}
	return p.entries
}

// blank reports whether r is space that does not end a line.
func blank(r rune) bool { return strings.ContainsRune("\t\v\f\r \u0085\u00a0", r) }

// skipBlank moves to the next statement or comment; false: there is none.
func (p *envParser) skipBlank() bool {
	i := strings.IndexFunc(p.text[p.pos:], func(r rune) bool { return !unicode.IsSpace(r) })
	if i < 0 {
		return false
	}
	p.moveTo(p.pos + i)
	return true
}

func (p *envParser) moveTo(pos int) {
	passed := p.text[p.pos:pos]
	if i := strings.LastIndexByte(passed, '\n'); i >= 0 {
		p.line += strings.Count(passed, "\n")
		p.start = p.pos + i + 1
	}
	p.pos = pos
}

// restOfLine returns what stands between pos and the next line feed.
func (p *envParser) restOfLine() string {
	line, _, _ := strings.Cut(p.text[p.pos:], "\n")
	return line
}

func (p *envParser) here() place {
	return place{src: p.src, line: p.line, column: utf8.RuneCountInString(p.text[p.start:p.pos]) + 1}
}

func (p *envParser) error(at place, hint, format string, args ...any) {
	p.w.error(&node{place: at}, nil, hint, format, args...)
}

// statement reads the statement at pos, or skips the comment there, and moves
// behind it.
func (p *envParser) statement() {
	line := p.restOfLine()
	if line[0] == '#' {
		p.moveTo(p.pos + len(line))
		return
	}
	e := envEntry{place: p.here()}
	if !utf8.ValidString(line) || strings.ContainsRune(line, 0) {
		p.error(place{src: p.src, line: p.line, column: 1}, "", "the line is not text")
		p.moveTo(p.pos + len(line))
		return
	}
	rest := line
	if after, ok := strings.CutPrefix(rest, "export"); ok && strings.TrimLeftFunc(after, blank) != after {
		rest = strings.TrimLeftFunc(after, blank)
	}
	name, value := rest, ""
	separator := strings.IndexAny(rest, "=:")
	if separator >= 0 {
		name, value = rest[:separator], strings.TrimLeftFunc(rest[separator+1:], blank)
	}
	e.name = strings.TrimRightFunc(name, blank)
	if !p.named(e, separator >= 0) {
		p.moveTo(p.pos + len(line))
		return
	}
	p.moveTo(p.pos + len(line) - len(value))
	switch {
	case separator < 0:
	case strings.HasPrefix(value, "'") || strings.HasPrefix(value, `"`):
		var ok bool
		if e.source = fromText; value[0] == '"' {
			e.source = fromTemplate
		}
		if e.text, ok = p.quoted(value[0], e.place); !ok {
			return
		}
	default:
		e.source = fromTemplate
		e.text, _, _ = strings.Cut(value, " #")
		e.text = strings.TrimRightFunc(e.text, unicode.IsSpace)
	}
	p.entries = append(p.entries, e)
	p.moveTo(p.pos + len(p.restOfLine()))
}

// named reports whether the name of a statement is one.
func (p *envParser) named(e envEntry, separated bool) bool {
	wrong := strings.IndexFunc(e.name, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsNumber(r) && !strings.ContainsRune("_.-[]", r)
	})
	switch {
	case e.name == "", !separated && wrong >= 0, wrong >= 0 && strings.ContainsFunc(e.name, unicode.IsSpace):
		p.error(e.place, "", "expected NAME=value")
	case wrong >= 0:
		p.error(e.place, "names have letters, digits and _ . - [ ]", "%s is not the name of a variable", quote(e.name))
	default:
		return true
	}
	return false
}

// quoted returns what stands between the quote at pos and the one that ends it,
// on whatever line, and moves behind that.
func (p *envParser) quoted(mark byte, at place) (string, bool) {
	var body strings.Builder
	for i := p.pos + 1; i < len(p.text); i++ {
		c := p.text[i]
		switch {
		case c == mark:
			p.moveTo(i + 1)
			return p.unquoted(mark, body.String(), at)
		case c == '\\' && i+1 < len(p.text) && p.text[i+1] == mark:
			i++
			c = mark
		case c == '\\' && i+1 < len(p.text):
			body.WriteByte(c)
			i++
			c = p.text[i]
		}
		body.WriteByte(c)
	}
	p.error(at, "", "the value has a %c without its partner", mark)
	p.moveTo(len(p.text))
	return "", false
}

// unquoted checks a value whose closing quote was just read, and resolves the
// escapes of double quotes.
func (p *envParser) unquoted(mark byte, body string, at place) (string, bool) {
	after := p.restOfLine()
	trimmed := strings.TrimLeftFunc(after, unicode.IsSpace)
	switch {
	case trimmed != "" && trimmed[0] != '#':
		p.moveTo(p.pos + len(after) - len(trimmed))
		p.error(p.here(), "write one variable a line", "text after the closing %c", mark)
	case !utf8.ValidString(body) || strings.ContainsRune(body, 0):
		p.error(at, "", "the value is not text")
	case mark == '\'':
		return body, true
	default:
		text, wrong := unescape(body)
		if wrong == "" {
			return text, true
		}
		p.error(at, `write \0 and three octal digits, to \0377; or \\0`, "%s is no escape of a character", quote(wrong))
	}
	p.moveTo(p.pos + len(p.restOfLine()))
	return "", false
}

// unescape resolves the escapes of double quotes, those of Go and octal ones
// after a 0. "\$" becomes "$$", which variables leave as a dollar sign. What is
// not an escape stays as it is; wrong is an octal escape that names no character.
func unescape(text string) (_, wrong string) {
	simple := map[byte]string{'a': "\a", 'b': "\b", 'f': "\f", 'n': "\n", 'r': "\r", 't': "\t", 'v': "\v", '"': `"`, '\\': `\`, '$': "$$"}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' || i+1 == len(text) {
			b.WriteByte(text[i])
			continue
		}
		i++
		out, ok := simple[text[i]]
		switch {
		case ok:
			b.WriteString(out)
		case text[i] == '0':
			octal := text[i:min(i+4, len(text))]
			n, err := strconv.ParseUint(octal, 8, 8)
			if len(octal) < 4 || err != nil || n == 0 {
				return "", `\` + octal
			}
			b.WriteRune(rune(n))
			i += 3
		default:
			b.WriteString(text[i-1 : i+1])
		}
	}
	return b.String(), ""
}

// putEnv puts the variables of the entries into vars. Variables in values are
// first what lookup finds, then those of vars: of earlier lines and files.
func putEnv(w *walker, entries []envEntry, vars map[string]string, lookup func(string) (string, bool)) {
	for _, e := range entries {
		switch e.source {
		case fromCaller:
			if v, ok := lookup(e.name); ok {
				vars[e.name] = v
			}
		case fromText:
			vars[e.name] = e.text
		case fromTemplate:
			if v, ok := expandEnv(w, e, func(name string) (string, bool) {
				if v, ok := lookup(name); ok {
					return v, true
				}
				v, ok := vars[name]
				return v, ok
			}); ok {
				vars[e.name] = v
			}
		}
	}
}

func expandEnv(w *walker, e envEntry, lookup func(string) (string, bool)) (string, bool) {
	if !strings.ContainsRune(e.text, '$') {
		return e.text, true
	}
	n := &node{place: e.place}
	out, ok := interpolate(e.text, w.room, lookup, func(p problem) { w.variable(n, nil, p) })
	w.room = max(0, w.room-max(len(e.text), len(out)))
	if ok && (!utf8.ValidString(out) || strings.ContainsRune(out, 0)) {
		w.error(n, nil, "", "a variable in the text is not UTF-8")
		return "", false
	}
	return out, ok
}

// readBounded reads a file of at most maxFileBytes. What is no regular file, such
// as a pipe that nobody writes to, is refused rather than waited for.
func readBounded(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("not a file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err == nil && len(data) > maxFileBytes {
		err = fmt.Errorf("larger than %s", formatSize(maxFileBytes))
	}
	return data, err
}
