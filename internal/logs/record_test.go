package logs

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/vzcompose/vzcompose/internal/errs"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 120, time.UTC)

func TestTheFileFormat(t *testing.T) {
	for _, c := range []struct {
		r    Record
		want string
	}{
		{Record{noon, "stdout", 1, []byte("hello"), false, 0},
			`{"t":"2026-03-01T12:00:00.000000120Z","s":"stdout","b":1,"l":"hello"}`},
		{Record{noon.In(time.FixedZone("", 3600)), "stderr", 12, nil, true, 0},
			`{"t":"2026-03-01T12:00:00.000000120Z","s":"stderr","b":12,"l":"","p":true}`},
		{Record{noon, "console", 0, []byte("a\t\"b\" \\ \x1b[0m\r\x7f ü\n"), false, 0},
			`{"t":"2026-03-01T12:00:00.000000120Z","s":"console","b":0,"l":"a\t\"b\" \\ \u001b[0m\r\u007f ü\n"}`},
		{Record{noon, "stdout", 1, []byte{0xff, 0}, true, 0},
			`{"t":"2026-03-01T12:00:00.000000120Z","s":"stdout","b":1,"x":"/wA=","p":true}`},
		{Record{noon, "stdout", 1, nil, false, 1234},
			`{"t":"2026-03-01T12:00:00.000000120Z","s":"stdout","b":1,"lost":1234}`},
	} {
		got := appendRecord(nil, c.r)
		if string(got) != c.want+"\n" {
			t.Errorf("got  %swant %s", got, c.want)
		}
		if !json.Valid(got) {
			t.Errorf("not JSON: %s", got)
		}
	}
}

func TestWhatIsNoRecordIsRefused(t *testing.T) {
	good := string(bytes.TrimSpace(appendRecord(nil, Record{noon, "stdout", 1, []byte("hello"), true, 0})))
	if _, err := decode([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for i := range good {
		if _, err := decode([]byte(good[:i])); !errs.Is(err, errs.DataLoss) {
			t.Errorf("%q: %v", good[:i], err)
		}
	}
	const head = `{"t":"2026-03-01T12:00:00.000000120Z","s":"stdout","b":1`
	for _, line := range []string{
		good + " ", `{"t":"2026-13-01T12:00:00.000000120Z","s":"stdout","b":1,"l":""}`,
		`{"t":"2026-03-01T12:00:00.000000120Z","s":"std out","b":1,"l":""}`,
		`{"t":"2026-03-01T12:00:00.000000120Z","s":"","b":1,"l":""}`,
		`{"t":"2026-03-01T12:00:00.00000000+01:00","s":"a","b":1,"l":""}`,
		head + `,"lost":0}`, head + `,"lost":-1}`, head + `,"lost":9007199254740992}`, head + `,"lost":1,"p":true}`, head + `,"lost":1,"l":""}`,
		head + `0000000000000000000000,"l":""}`, head + `,"l":"` + "\xff" + `"}`, head + `,"l":"` + "\x1b" + `"}`,
		head + `,"l":"\u0080"}`, head + `,"l":"\u00"}`, head + `,"l":"\x"}`, head + `,"l":"\`, head + `,"x":"*"}`, head + `,"x":"/w"}`, head + `,"x":"/x=="}`,
	} {
		if r, err := decode([]byte(line)); !errs.Is(err, errs.DataLoss) {
			t.Errorf("%s: %+v, %v", line, r, err)
		}
	}
}

func same(a, b Record) bool {
	return a.Time.Equal(b.Time) && a.Stream == b.Stream && a.Boot == b.Boot && a.Partial == b.Partial && bytes.Equal(a.Text, b.Text)
}

func FuzzDecode(f *testing.F) {
	f.Add(appendRecord(nil, Record{noon, "stdout", 1, []byte("hello \x00 \"w\\orld\" ü"), false, 0}))
	f.Add(appendRecord(nil, Record{noon, "stderr", 2, []byte("\xff\xfe"), true, 0}))
	f.Add([]byte(`{"t":"2026-03-01T12:00:00.000000120Z","s":"stdout","b":1,"l":"\u001b\u007f"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := decode(line)
		if err != nil {
			return
		}
		again := appendRecord(nil, r)
		back, err := decode(bytes.TrimSuffix(again, []byte("\n")))
		if err != nil || !same(r, back) {
			t.Fatalf("%q: %+v became %+v, %v", line, r, back, err)
		}
	})
}

func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte("text"), int64(0), true)
	f.Add([]byte("\xed\xa0\x80 \ufffd \u2028"), int64(1<<40), false)
	f.Fuzz(func(t *testing.T, text []byte, ns int64, partial bool) {
		r := Record{noon.Add(time.Duration(ns)), "stdout", 7, text, partial, 0}
		line := appendRecord(nil, r)
		if bytes.IndexByte(line, '\n') != len(line)-1 || !utf8.Valid(line) || !json.Valid(line) {
			t.Fatalf("not one line of JSON: %q", line)
		}
		back, err := decode(line[:len(line)-1])
		if err != nil || !same(r, back) {
			t.Fatalf("%+v became %+v, %v", r, back, err)
		}
		var std struct{ L *string }
		if json.Unmarshal(line, &std) == nil && std.L != nil && *std.L != string(text) {
			t.Fatalf("another reader of JSON sees %q", *std.L)
		}
	})
}

// TestTheLargestRecordFitsItsLine ties the two bounds together.
func TestTheLargestRecordFitsItsLine(t *testing.T) {
	r := Record{noon, "a0123456789012345678901234567890", maxBoot, bytes.Repeat([]byte{1}, maxText), true, 0}
	if n := len(appendRecord(nil, r)); n > maxLine/2 {
		t.Errorf("%d bytes", n)
	}
}

// hundred answers n lines of 100 bytes with their newline.
func hundred(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 0, n*100)
	for range n {
		for range 99 {
			b = append(b, byte(' '+2+r.IntN(56)))
		}
		b = append(b, '\n')
	}
	return b
}

func BenchmarkEncode(b *testing.B) {
	text := hundred(1)[:99]
	head := appendHead(nil, noon, "stdout", 1)
	b.SetBytes(100)
	var out []byte
	for b.Loop() {
		out = appendText(append(out[:0], head...), text, false)
	}
}

func BenchmarkDecode(b *testing.B) {
	line := bytes.TrimSpace(appendRecord(nil, Record{noon, "stdout", 1, hundred(1)[:99], false, 0}))
	b.SetBytes(100)
	for b.Loop() {
		if _, err := decode(line); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWriter(b *testing.B) {
	w, err := OpenWriter(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	s := w.Stream("stdout", 1)
	chunk := hundred(655)
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		if _, err := s.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
}
