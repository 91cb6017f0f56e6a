package ui

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// visible answers s with everything that is not printable written out (\n,
// \x1b, \u202e): nothing that a guest, a YAML file or a registry says may drive
// the terminal, end a line, or reorder it.
func visible(s string) string {
	for i, r := range s {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return s[:i] + visibleTail(s[i:])
		}
	}
	return s
}

func visibleTail(s string) string {
	var b []byte
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		b = appendVisible(b, r, s[:size])
		s = s[size:]
	}
	return string(b)
}

// appendVisible appends the rune r, which was decoded from raw.
func appendVisible(b []byte, r rune, raw string) []byte {
	switch {
	case r == utf8.RuneError && len(raw) == 1:
		return fmt.Appendf(b, `\x%02x`, raw[0])
	case unicode.IsPrint(r):
		return append(b, raw...)
	case r == '\n':
		return append(b, `\n`...)
	case r == '\r':
		return append(b, `\r`...)
	case r == '\t':
		return append(b, `\t`...)
	case r < 0x80:
		return fmt.Appendf(b, `\x%02x`, r)
	case r < 0x10000:
		return fmt.Appendf(b, `\u%04x`, r)
	}
	return fmt.Appendf(b, `\U%08x`, r)
}

// visibleLines is visible for a text of several lines: all but the first are
// indented, so that none can pass for a line of ours.
func visibleLines(s, indent string) string {
	lines := strings.Split(strings.TrimRight(s, "\r\n"), "\n")
	for i := range lines {
		lines[i] = visible(strings.TrimSuffix(lines[i], "\r"))
	}
	return strings.Join(lines, "\n"+indent)
}

// maxCSI bounds a control sequence that is recognised, in bytes.
const maxCSI = 64

// appendHarmless appends a piece of a line of a guest's output as a terminal
// may have it: text, tabs, and colours where colors says so. Other control
// sequences are left out, other control characters written out. It reports
// whether a colour was set.
func appendHarmless(b, text []byte, colors bool) (_ []byte, colored bool) {
	for len(text) > 0 {
		if text[0] == 0x1b {
			n, sgr := controlSequence(text)
			if sgr && colors {
				b = append(b, text[:n]...)
				colored = true
			}
			if n == 0 {
				b = append(b, `\x1b`...)
				n = 1
			}
			text = text[n:]
			continue
		}
		r, size := utf8.DecodeRune(text)
		if r == '\t' || r == '\u200d' || r == '\u200c' {
			b = append(b, text[:size]...)
		} else {
			b = appendVisible(b, r, string(text[:size]))
		}
		text = text[size:]
	}
	return b, colored
}

// controlSequence answers the length of the control sequence (ECMA-48, 5.4)
// that b begins with, 0 where there is none, and whether it only sets colours
// and the like (SGR).
func controlSequence(b []byte) (n int, sgr bool) {
	if len(b) < 3 || b[1] != '[' {
		return 0, false
	}
	sgr = true
	for i, c := range b[2:min(len(b), maxCSI)] {
		switch {
		case c >= 0x40 && c <= 0x7e:
			return i + 3, sgr && c == 'm'
		case c < 0x20 || c > 0x3f:
			return 0, false
		case c > ';' || c < '0':
			sgr = false
		}
	}
	return 0, false
}

// appendJSON appends v as one line. What encoding/json leaves as it is and a
// terminal would act on is escaped too.
func appendJSON(b []byte, v any) []byte {
	var line bytes.Buffer
	enc := json.NewEncoder(&line)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		// Our own types always encode; a template's row may not.
		line.Reset()
		line.WriteString(`{"error":`)
		line.Write(appendQuoted(nil, err.Error()))
		line.WriteString("}\n")
	}
	return append(appendDocument(b, bytes.TrimSuffix(line.Bytes(), []byte("\n")), false), '\n')
}

// appendDocument appends JSON or YAML in which what a terminal would act on, or be
// led astray by, is escaped as it is in these: it stands in quotes there.
func appendDocument(b, doc []byte, yaml bool) []byte {
	for len(doc) > 0 {
		r, size := utf8.DecodeRune(doc)
		switch {
		case unicode.IsPrint(r), r == '\n':
			b = append(b, doc[:size]...)
		case r < 0x10000:
			b = fmt.Appendf(b, `\u%04x`, r)
		case yaml:
			b = fmt.Appendf(b, `\U%08x`, r)
		default:
			hi, lo := utf16.EncodeRune(r)
			b = fmt.Appendf(b, `\u%04x\u%04x`, hi, lo)
		}
		doc = doc[size:]
	}
	return b
}

// appendQuoted appends s as a JSON string.
func appendQuoted(b []byte, s string) []byte {
	q, err := json.Marshal(s)
	if err != nil {
		return append(b, `""`...)
	}
	return append(b, q...)
}
