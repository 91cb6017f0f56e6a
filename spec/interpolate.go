package spec

import (
	"fmt"
	"strings"
)

// problem is what is wrong with a variable in a text.
type problem struct {
	part    string // the text that it is about, as written
	message string
	hint    string
	warning bool
}

// expander puts variables into a text by Compose's rules: $NAME, ${NAME},
// ${NAME:-default}, ${NAME-default}, ${NAME:?message}, ${NAME?message},
// ${NAME:+other}, ${NAME+other}, and $$ for a dollar sign. Defaults, messages and
// others may hold variables, and braces in pairs. A dollar sign that begins none
// of these stands for itself, so that "$1" and "$(date)" need no escape.
type expander struct {
	text   string
	pos    int
	pairs  map[int]int // from "{" to the "}" that closes it; made when first asked
	lookup func(string) (string, bool)
	report func(problem)
	left   int // bytes that may still be written
	failed bool
}

// interpolate answers the text with its variables in it; false after a problem
// that is not only a warning. It writes at most limit bytes.
func interpolate(text string, limit int, lookup func(string) (string, bool), report func(problem)) (string, bool) {
	x := &expander{text: text, lookup: lookup, report: report, left: limit}
	var b strings.Builder
	x.run(&b, 0, len(text), true)
	if x.left < 0 {
		x.fail(problem{message: "variables make the stack too large"})
	}
	return b.String(), !x.failed
}

func (x *expander) fail(p problem) {
	if !x.failed {
		x.report(p)
	}
	x.failed = true
	x.pos = len(x.text)
}

func (x *expander) write(b *strings.Builder, s string) {
	if x.left -= len(s); x.left >= 0 {
		b.WriteString(s)
	}
}

// firstBrace has run stop at the first closing brace that is not a variable's.
const firstBrace = -1

// run expands up to end. What is not live is parsed but neither looked up nor
// reported.
func (x *expander) run(b *strings.Builder, depth, end int, live bool) {
	for x.pos < len(x.text) && x.pos != end && x.left >= 0 {
		rest := x.text[x.pos:max(end, x.pos)]
		if end == firstBrace {
			rest = x.text[x.pos:]
			if brace := strings.IndexAny(rest, "$}"); brace >= 0 && rest[brace] == '}' {
				x.write(b, rest[:brace])
				x.pos += brace
				return
			}
		}
		stop := strings.IndexByte(rest, '$')
		if stop < 0 {
			stop = len(rest)
		}
		x.write(b, rest[:stop])
		x.pos += stop
		if stop < len(rest) {
			x.dollar(b, depth, live)
		}
	}
}

// closing returns where the brace at open is closed, or firstBrace where it is
// not closed in pairs, as in "${A:-{}".
func (x *expander) closing(open int) int {
	if x.pairs == nil {
		x.pairs = map[int]int{}
		var opened []int
		for i := range len(x.text) {
			switch {
			case x.text[i] == '{':
				opened = append(opened, i)
			case x.text[i] == '}' && len(opened) > 0:
				x.pairs[opened[len(opened)-1]] = i
				opened = opened[:len(opened)-1]
			}
		}
	}
	if end, ok := x.pairs[open]; ok {
		return end
	}
	return firstBrace
}

func (x *expander) dollar(b *strings.Builder, depth int, live bool) {
	start := x.pos
	x.pos++
	switch name := variableName(x.text[x.pos:]); {
	case strings.HasPrefix(x.text[x.pos:], "$"):
		x.pos++
		x.write(b, "$")
	case name != "":
		x.pos += len(name)
		if live {
			x.write(b, x.value(name, x.text[start:x.pos]))
		}
	case strings.HasPrefix(x.text[x.pos:], "{"):
		x.braces(b, start, depth+1, live)
	default:
		x.write(b, "$")
	}
}

// braces expands ${...}; start is where its dollar sign stands.
func (x *expander) braces(b *strings.Builder, start, depth int, live bool) {
	x.pos++
	name := variableName(x.text[x.pos:])
	if name == "" || depth > maxNesting {
		x.malformed(start)
		return
	}
	x.pos += len(name)
	colon := strings.HasPrefix(x.text[x.pos:], ":")
	if colon {
		x.pos++
	}
	if !colon && strings.HasPrefix(x.text[x.pos:], "}") {
		x.pos++
		if live {
			x.write(b, x.value(name, x.text[start:x.pos]))
		}
		return
	}
	if x.pos >= len(x.text) || !strings.ContainsRune("-?+", rune(x.text[x.pos])) {
		x.malformed(start)
		return
	}
	x.choice(b, start, depth, live, name, colon)
}

// choice expands what stands after the name: an operator and a word.
func (x *expander) choice(b *strings.Builder, start, depth int, live bool, name string, colon bool) {
	operator := x.text[x.pos]
	x.pos++
	value, set := "", false
	if live {
		value, set = x.lookup(name)
	}
	given := set && (value != "" || !colon)
	wanted := live && (operator == '+') == given // whether the word is used

	var word strings.Builder
	x.run(&word, depth, x.closing(start+1), wanted)
	if x.failed || x.left < 0 {
		return
	}
	if !strings.HasPrefix(x.text[x.pos:], "}") {
		x.malformed(start)
		return
	}
	x.pos++
	switch {
	case !live:
	case wanted && operator == '?':
		x.required(name, set, word.String(), x.text[start:x.pos])
	case wanted:
		b.WriteString(word.String())
	case operator != '+':
		x.write(b, value)
	}
}

func (x *expander) required(name string, set bool, why, part string) {
	state := "not set"
	if set {
		state = "empty"
	}
	message := fmt.Sprintf("variable %q is %s", name, state)
	if why != "" {
		message += ": " + cut(strings.Join(strings.Fields(why), " "))
	}
	x.fail(problem{part: part, message: message})
}

func (x *expander) malformed(start int) {
	part := x.text[start:]
	if i := strings.IndexByte(part, '}'); i >= 0 {
		part = part[:i+1]
	}
	x.fail(problem{
		part: part, message: quote(part) + " is not a variable",
		hint: `write ${NAME}, ${NAME:-default} or ${NAME:?message}; "$$" is a dollar sign`,
	})
}

func (x *expander) value(name, part string) string {
	value, set := x.lookup(name)
	if !set {
		x.report(problem{
			part: part, warning: true,
			message: fmt.Sprintf("variable %q is not set; it stands for nothing", name),
			hint:    fmt.Sprintf("${%s:-} says so on purpose", name),
		})
	}
	return value
}

// variableName answers the name that text begins with, or "".
func variableName(text string) string {
	for i := range len(text) {
		c := text[i]
		if c != '_' && (c|0x20 < 'a' || c|0x20 > 'z') && (i == 0 || c < '0' || c > '9') {
			return text[:i]
		}
	}
	return text
}
