// Package logs keeps the output of one instance: a writer that turns streams of
// bytes into records, one JSON object a line, in numbered files that are only
// ever appended to; and readers that filter, take the tail, follow and merge.
//
// The promise is exactness: the texts of a stream's records, each followed by a
// newline unless it is partial, are the bytes that were written to the stream,
// however they were cut into writes and whatever bytes they are. What cannot be
// had any more (old files removed, a damaged line) is reported, never left out
// in silence, and what the file did not take (the disk was full) is counted by a
// record in its place.
//
// It does not sanitise: what a guest wrote may drive a terminal. internal/ui
// sees to that.
package logs

import (
	"encoding/base64"
	"encoding/binary"
	"math/bits"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Record is one line of output, or a piece of one.
type Record struct {
	Time   time.Time // when the line was complete, UTC
	Stream string    // "stdout", "stderr", "console"
	Boot   int       // of which boot of the instance, from 1
	// Text is the line without its newline. At most 16 KiB.
	Text []byte
	// Partial says that no newline follows Text: a longer line was cut here, or
	// the output ended.
	Partial bool
	// Lost is how many bytes of the stream are missing here, because they could
	// not be written; 0: none. Text is empty then, and no newline follows.
	Lost int64
}

// Bounds of a record and of its line in the file, in bytes. Control characters
// grow sixfold when they are escaped, so that the largest record has a line of
// about 96 KiB.
const (
	maxText   = 16 << 10
	maxLine   = 256 << 10
	maxStream = 32
	maxBoot   = 999_999_999
	maxLost   = 1<<53 - 1 // bytes
)

// timeLayout always has nine digits, so that records sort as text.
const timeLayout = "2006-01-02T15:04:05.000000000Z"

const hexDigits = "0123456789abcdef"

// appendHead appends the part of a record that all lines of one write share.
func appendHead(b []byte, t time.Time, stream string, boot int) []byte {
	b = append(b, `{"t":"`...)
	b = t.UTC().AppendFormat(b, timeLayout)
	b = append(b, `","s":"`...)
	b = append(b, stream...)
	b = append(b, `","b":`...)
	return strconv.AppendInt(b, int64(boot), 10)
}

// appendText appends the rest of a record, and its newline.
func appendText(b, text []byte, partial bool) []byte {
	if utf8.Valid(text) {
		b = append(b, `,"l":"`...)
		b = appendEscaped(b, text)
	} else {
		b = append(b, `,"x":"`...)
		b = base64.StdEncoding.AppendEncode(b, text)
	}
	if partial {
		return append(b, "\",\"p\":true}\n"...)
	}
	return append(b, "\"}\n"...)
}

// appendEscaped appends text as the inside of a JSON string (RFC 8259, 7).
func appendEscaped(b, text []byte) []byte {
	for {
		n := plainPrefix(text)
		b = append(b, text[:n]...)
		if n == len(text) {
			return b
		}
		switch c := text[n]; c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\t':
			b = append(b, '\\', 't')
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		text = text[n+1:]
	}
}

// plain reports whether c stands for itself. DEL need not be escaped, but is,
// as the control character that it is.
func plain(c byte) bool { return c >= ' ' && c != '"' && c != '\\' && c != 0x7f }

// plainPrefix answers how many bytes at the begin of b are plain. It looks at
// eight at a time: in each byte of hits, the high bit says that it is not plain
// (below the first such byte the subtractions borrow nothing, so that the
// lowest hit is always a true one).
func plainPrefix(b []byte) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	i := 0
	for ; i+8 <= len(b); i += 8 {
		x := binary.LittleEndian.Uint64(b[i:])
		quote, slash, del := x^ones*'"', x^ones*'\\', x^ones*0x7f
		hits := (x-ones*' ')&^x | (quote-ones)&^quote | (slash-ones)&^slash | (del-ones)&^del
		if hits &= highs; hits != 0 {
			return i + bits.TrailingZeros64(hits)/8
		}
	}
	for i < len(b) && plain(b[i]) {
		i++
	}
	return i
}

// appendLost appends the rest of a record of what is missing, and its newline.
func appendLost(b []byte, n int64) []byte {
	b = append(b, `,"lost":`...)
	return append(strconv.AppendInt(b, min(n, maxLost), 10), "}\n"...)
}

func appendRecord(b []byte, r Record) []byte {
	if r.Lost > 0 {
		return appendLost(appendHead(b, r.Time, r.Stream, r.Boot), r.Lost)
	}
	return appendText(appendHead(b, r.Time, r.Stream, r.Boot), r.Text, r.Partial)
}

// validStream reports whether name may name a stream: such a name needs no
// escaping.
func validStream(name string) bool {
	if name == "" || len(name) > maxStream {
		return false
	}
	for _, c := range []byte(name) {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

// decode reads one line, without its newline. It accepts what appendRecord
// writes and little else. The record shares nothing with line.
func decode(line []byte) (Record, error) {
	d := decoder{rest: line}
	var r Record
	d.literal(`{"t":"`)
	r.Time = d.time()
	d.literal(`","s":"`)
	r.Stream = d.stream()
	d.literal(`","b":`)
	r.Boot = int(d.number("boot", maxBoot))
	switch {
	case d.skip(`,"lost":`):
		if r.Lost = d.number("lost", maxLost); r.Lost == 0 {
			d.fail("lost")
		}
	case d.skip(`,"x":"`):
		r.Text = d.base64()
		r.Partial = d.skip(`,"p":true`)
	default:
		d.literal(`,"l":"`)
		r.Text = d.text()
		r.Partial = d.skip(`,"p":true`)
	}
	d.literal(`}`)
	if len(d.rest) > 0 {
		d.fail("more after the end")
	}
	if d.err != nil {
		return Record{}, d.err
	}
	return r, nil
}

// decoder takes a line apart from the front. After the first error it does
// nothing.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = errs.New(errs.DataLoss, "not a log record: %s", what)
	}
	d.rest = nil
}

func (d *decoder) skip(s string) bool {
	if len(d.rest) < len(s) || string(d.rest[:len(s)]) != s {
		return false
	}
	d.rest = d.rest[len(s):]
	return true
}

func (d *decoder) literal(s string) {
	if !d.skip(s) {
		d.fail("no " + s)
	}
}

// take answers the next n bytes, or nil.
func (d *decoder) take(n int) []byte {
	if len(d.rest) < n {
		d.fail("too short")
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) time() time.Time {
	b := d.take(len(timeLayout))
	if b == nil {
		return time.Time{}
	}
	var t time.Time
	// The layout is a case of RFC 3339, for which the parser is the fast one.
	if err := t.UnmarshalText(b); err != nil || b[len(b)-1] != 'Z' || b[19] != '.' {
		d.fail("time")
	}
	return t
}

// stream interns the usual names.
func (d *decoder) stream() string {
	end := 0
	for end < len(d.rest) && end <= maxStream && d.rest[end] != '"' {
		end++
	}
	switch b := d.take(end); string(b) {
	case "stdout":
		return "stdout"
	case "stderr":
		return "stderr"
	default:
		if !validStream(string(b)) {
			d.fail("stream")
		}
		return string(b)
	}
}

func (d *decoder) number(what string, most int64) int64 {
	n, digits := int64(0), 0
	for digits < len(d.rest) && d.rest[digits] >= '0' && d.rest[digits] <= '9' {
		if n = 10*n + int64(d.rest[digits]-'0'); n > most {
			break
		}
		digits++
	}
	if digits == 0 || n > most || digits > 1 && d.rest[0] == '0' {
		d.fail(what)
		return 0
	}
	d.take(digits)
	return n
}

// text reads up to and over the closing quote.
func (d *decoder) text() []byte {
	out := make([]byte, 0, len(d.rest)) // little more comes after the text
	for {
		n := plainPrefix(d.rest)
		out = append(out, d.rest[:n]...)
		d.rest = d.rest[n:]
		switch {
		case d.skip(`"`):
			if !utf8.Valid(out) {
				d.fail("text is not UTF-8")
			}
			return out
		case len(d.rest) == 0:
			d.fail("no end of text")
			return nil
		case d.rest[0] != '\\':
			d.fail("control character")
			return nil
		}
		out = append(out, d.escape())
	}
}

// escape reads one of the escapes that appendEscaped writes.
func (d *decoder) escape() byte {
	switch {
	case d.skip(`\"`):
		return '"'
	case d.skip(`\\`):
		return '\\'
	case d.skip(`\t`):
		return '\t'
	case d.skip(`\n`):
		return '\n'
	case d.skip(`\r`):
		return '\r'
	case d.skip(`\u00`):
		if b := d.take(2); b != nil {
			if n, err := strconv.ParseUint(string(b), 16, 7); err == nil {
				return byte(n)
			}
		}
	}
	d.fail("escape")
	return 0
}

func (d *decoder) base64() []byte {
	end := 0
	for end < len(d.rest) && d.rest[end] != '"' {
		end++
	}
	out, err := base64.StdEncoding.Strict().AppendDecode(nil, d.take(end))
	if err != nil {
		d.fail("base64")
		return nil
	}
	d.literal(`"`)
	return out
}
