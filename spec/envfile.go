package spec

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"
)

// envReader reads files of NAME=value lines, as Compose does: "#" begins a
// comment at the start of a line or after a blank; single quotes keep all as it
// is; double quotes know \n, \r, \t, \", \\ and \$; both may span lines; outside
// of single quotes variables are put in; "export" is skipped; a name alone takes
// the caller's value.
type envReader struct {
	w    *walker
	src  *source
	vars map[string]string
	line int // index of the next line
}

// readEnv answers the variables of a text.
func readEnv(w *walker, name string, data []byte) map[string]string {
	r := &envReader{w: w, src: newSource(name, string(data)), vars: map[string]string{}}
	for r.line < len(r.src.lines) {
		r.next()
	}
	return r.vars
}

func (r *envReader) error(line, column int, hint, format string, args ...any) {
	r.w.errorAt(place{src: r.src, line: line + 1, column: column}, nil, hint, format, args...)
}

func (r *envReader) next() {
	line := r.line
	text := r.src.lines[line]
	r.line++
	rest := strings.TrimLeft(text, " \t")
	if rest == "" || rest[0] == '#' {
		return
	}
	column := len(text) - len(rest) + 1
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		r.error(line, 1, "", "the line is not text")
		return
	}
	if after, ok := strings.CutPrefix(rest, "export "); ok {
		rest = strings.TrimLeft(after, " \t")
	}
	name, value, found := strings.Cut(rest, "=")
	name = strings.TrimRight(name, " \t")
	switch {
	case name == "" || strings.ContainsAny(name, " \t\"'"):
		r.error(line, column, "", "expected NAME=value")
	case !found:
		if v, ok := r.w.lookup(name); ok {
			r.vars[name] = v
		}
	default:
		if v, ok := r.value(line, strings.TrimLeft(value, " \t")); ok {
			r.vars[name] = v
		}
	}
}

// value reads what stands after "=" on line, and on more lines where a quote
// is not closed.
func (r *envReader) value(line int, text string) (string, bool) {
	if text == "" || text[0] != '\'' && text[0] != '"' {
		for i := range len(text) {
			if text[i] == '#' && (i == 0 || text[i-1] == ' ' || text[i-1] == '\t') {
				text = text[:i]
				break
			}
		}
		return r.expand(line, strings.TrimRight(text, " \t"))
	}
	quote := text[0]
	body, ok := r.quoted(line, text)
	switch {
	case !ok:
		return "", false
	case quote == '\'':
		return body, true
	}
	return r.expand(line, unescape(body))
}

// quoted answers what stands between the quote that text begins with and the
// one that ends it, on whatever line.
func (r *envReader) quoted(line int, text string) (string, bool) {
	var body strings.Builder
	quote := text[0]
	for {
		end := closingQuote(text, quote)
		if end > 0 {
			if after := strings.TrimSpace(text[end+1:]); after != "" && after[0] != '#' {
				r.error(r.line-1, 1, "", "text after the closing %c", quote)
				return "", false
			}
			body.WriteString(text[1:end])
			return body.String(), true
		}
		if r.line >= len(r.src.lines) {
			r.error(line, 1, "", "the value has a %c without its partner", quote)
			return "", false
		}
		body.WriteString(text[1:] + "\n")
		text = string(quote) + r.src.lines[r.line]
		r.line++
	}
}

// unescape resolves the escapes of double quotes; "\$" becomes "$$", which
// variables leave as a dollar sign.
func unescape(text string) string {
	return strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\n`, "\n", `\r`, "\r", `\t`, "\t", `\$`, "$$").Replace(text)
}

// expand puts in variables: the caller's first, then those above in the file.
func (r *envReader) expand(line int, text string) (string, bool) {
	lookup := func(name string) (string, bool) {
		if v, ok := r.w.lookup(name); ok {
			return v, true
		}
		v, ok := r.vars[name]
		return v, ok
	}
	n := &node{place: place{src: r.src, line: line + 1, column: 1}}
	out, ok := interpolate(text, r.w.room, lookup, func(p problem) { r.w.variable(n, nil, p) })
	r.w.room = max(0, r.w.room-len(out))
	if ok && !utf8.ValidString(out) {
		r.error(line, 1, "", "a variable in the text is not UTF-8")
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
