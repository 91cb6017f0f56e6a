package ui

import (
	"hash/fnv"
	"slices"
	"unicode/utf8"

	"github.com/vzcompose/vzcompose/internal/logs"
)

// LogOptions dress lines of output.
type LogOptions struct {
	// Names of the instances that are shown: they set the width of the prefix
	// and the order of its colours. Others may come all the same.
	Names      []string
	Timestamps bool
	NoPrefix   bool
	JSON       bool // one object a line
}

// Logs shows records of output as a result. It belongs to one goroutine.
//
// Where standard output is no terminal, the bytes of a line are passed through
// as they are; with NoPrefix and one source, what comes out is what the
// instance wrote, to the byte.
type Logs struct {
	u     *UI
	o     LogOptions
	names int    // width of the prefix
	open  string // whose line is unfinished; "": nobody's
	buf   []byte
}

// Logs answers a printer of records. Close it.
func (u *UI) Logs(o LogOptions) *Logs {
	l := &Logs{u: u, o: o}
	l.o.Names = slices.Clone(o.Names)
	slices.Sort(l.o.Names)
	for _, n := range o.Names {
		l.names = max(l.names, min(maxName, width(visible(n))))
	}
	return l
}

// Write shows one record.
func (l *Logs) Write(e logs.Entry) error {
	l.buf = l.buf[:0]
	switch {
	case e.Lost > 0 && !l.o.JSON:
		l.u.Warnf("log of %s: %d bytes of %s are missing here: they could not be written to the log", e.Name, e.Lost, e.Stream)
		return nil
	case l.o.JSON:
		l.json(e)
	case !l.u.screen.outTTY && l.o.NoPrefix && !l.o.Timestamps:
		l.buf = append(l.buf, e.Text...)
		if !e.Partial {
			l.buf = append(l.buf, '\n')
		}
	default:
		l.line(e)
	}
	return l.u.screen.writeOut(l.buf)
}

// Close ends a line that is unfinished, so that what follows begins its own.
func (l *Logs) Close() error {
	if l.open == "" {
		return nil
	}
	l.open = ""
	return l.u.screen.writeOut([]byte("\n"))
}

// line shows a record with what stands before it. Pieces of one line are put
// together, unless another's line came between.
func (l *Logs) line(e logs.Entry) {
	owner := e.Name + "\x00" + e.Stream
	if l.open != owner {
		if l.open != "" {
			l.buf = append(l.buf, '\n')
		}
		l.prefix(e)
	}
	l.open = ""
	if e.Partial {
		l.open = owner
	}
	if !l.u.screen.outTTY {
		l.buf = append(l.buf, e.Text...)
	} else {
		text, colored := e.Text, false
		if !e.Partial {
			text = trimCR(text)
		}
		if l.buf, colored = appendHarmless(l.buf, text, l.u.colorOut); colored {
			l.buf = append(l.buf, "\x1b[0m"...)
		}
	}
	if !e.Partial {
		l.buf = append(l.buf, '\n')
	}
}

func (l *Logs) prefix(e logs.Entry) {
	if !l.o.NoPrefix {
		name := visible(e.Name)
		l.names = max(l.names, min(maxName, width(name)))
		l.buf = append(l.buf, paint(l.u.colorOut, l.color(e.Name), pad(name, l.names)+"  |")...)
		l.buf = append(l.buf, ' ')
	}
	if l.o.Timestamps {
		l.buf = e.Time.UTC().AppendFormat(l.buf, "2006-01-02T15:04:05.000000000Z ")
	}
}

// color of a name: by its place among the names, or by its text where it is not
// among them, so that it is the same every time.
func (l *Logs) color(name string) string {
	palette := [...]string{"36", "33", "32", "35", "34", "96", "93", "92", "95", "94"}
	if i, ok := slices.BinarySearch(l.o.Names, name); ok {
		return palette[i%len(palette)]
	}
	h := fnv.New32a()
	h.Write([]byte(name))
	return palette[h.Sum32()%uint32(len(palette))]
}

func (l *Logs) json(e logs.Entry) {
	line := struct {
		Name    string  `json:"name"`
		Time    string  `json:"time"`
		Stream  string  `json:"stream"`
		Boot    int     `json:"boot"`
		Line    *string `json:"line,omitempty"`
		Bytes   []byte  `json:"bytes,omitempty"` // base64, where it is no text
		Partial bool    `json:"partial,omitempty"`
		Lost    int64   `json:"lost,omitempty"` // bytes that are missing here
	}{Name: e.Name, Time: e.Time.UTC().Format("2006-01-02T15:04:05.000000000Z"), Stream: e.Stream, Boot: e.Boot, Partial: e.Partial, Lost: e.Lost}
	if e.Lost > 0 {
		l.buf = appendJSON(l.buf, line)
		return
	}
	if text := string(e.Text); utf8.ValidString(text) {
		line.Line = &text
	} else {
		line.Bytes = e.Text
	}
	l.buf = appendJSON(l.buf, line)
}

// trimCR takes the CR of a CRLF away.
func trimCR(text []byte) []byte {
	if n := len(text); n > 0 && text[n-1] == '\r' {
		return text[:n-1]
	}
	return text
}
