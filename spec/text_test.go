package spec

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/template"
)

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		in   string
		want string // words joined by "|", or an error after "!"
	}{
		{``, ``}, {"  \t\n", ``}, {`a b  c`, `a|b|c`}, {`'a b' "c d"`, `a b|c d`}, {`a'b'"c"d`, `abcd`},
		{`""`, `<>`}, {`'' a`, `<>|a`}, {`a\ b \'c`, `a b|'c`}, {`"a\"b\\c\n"`, `a"b\c\n`}, {`'a\b'`, `a\b`},
		{"a\\\nb", `ab`}, {"\"a\\\nb\"", `ab`}, {`sh -c 'echo $HOME && ls'`, `sh|-c|echo $HOME && ls`},
		{`a # b`, `a|#|b`}, {`größe 'ä ö'`, `größe|ä ö`},
		{`'a`, `!the command has a ' without its partner`}, {`a "b`, `!the command has a " without its partner`},
		{`a\`, `!the command ends in a backslash`},
	} {
		words, err := split(c.in)
		for i, w := range words {
			if w == "" {
				words[i] = "<>"
			}
		}
		got := strings.Join(words, "|")
		if err != nil {
			got = "!" + err.Error()
		}
		if got != c.want {
			t.Errorf("%q: got %q, want %q", c.in, got, c.want)
		}
	}
}

func FuzzSplit(f *testing.F) {
	for _, s := range []string{``, `a 'b c' "d\"e" f\ g`, `'`, "\\\n", `""`, `a&&b;c|d`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		words, err := split(s)
		if err != nil {
			return
		}
		again, err := split(join(words))
		if err != nil || !slices.Equal(words, again) {
			t.Errorf("%q: %q became %q (%v)", s, words, again, err)
		}
	})
}

func TestInterpolate(t *testing.T) {
	env := map[string]string{"A": "1", "E": "", "B": "$A", "LONG_name2": "x"}
	lookup := func(name string) (string, bool) { v, ok := env[name]; return v, ok }
	for _, c := range []struct{ in, want, problem string }{
		{in: "", want: ""}, {in: "plain }", want: "plain }"}, {in: "$A${A}", want: "11"}, {in: "$$A $${A}", want: "$A ${A}"},
		{in: "$B", want: "$A"}, {in: "${LONG_name2}-$LONG_name2.", want: "x-x."}, {in: "$A$", want: "1$"},
		{in: "$5", want: "$5"}, {in: "a $", want: "a $"}, {in: "$(x) $$$", want: "$(x) $$"}, {in: "${U:-$}", want: "$"},
		{in: `${A:-{"a": {}}}`, want: "1"}, {in: `${U:-{"a": {"b": "$A"}}}!`, want: `{"a": {"b": "1"}}!`},
		{in: "${U:-d}${U-d}${E:-d}${E-d}${A:-d}", want: "ddd1"}, {in: "${U:-}", want: ""},
		{in: "${A:+s}${E:+s}${E+s}${U+s}", want: "ss"}, {in: "${U:-${E:-$A}}", want: "1"}, {in: "${U:-a b: {c}", want: "a b: {c"},
		{in: "${A:?no}${E?no}", want: "1"}, {in: "${E:?no}", problem: `variable "E" is empty: no`},
		{in: "${U?}", problem: `variable "U" is not set`}, {in: "${U:?${A} $$}", problem: `variable "U" is not set: 1 $`},
		{in: "${A:-${U:?not asked}}", want: "1"}, {in: "${U}x", want: "x", problem: `variable "U" is not set; it stands for nothing`},
		{in: "${A:-$U}", want: "1"}, {in: "${U:+$U}", want: ""},
		{in: "${", problem: `"${" is not a variable`}, {in: "${}", problem: `"${}" is not a variable`}, {in: "${A", problem: `"${A" is not a variable`},
		{in: "${A:-b", problem: `"${A:-b" is not a variable`}, {in: "${A!b}c", problem: `"${A!b}" is not a variable`},
		{in: "${A:=b}", problem: `"${A:=b}" is not a variable`}, {in: "${1}", problem: `"${1}" is not a variable`},
		{in: strings.Repeat("${U:-", 17) + strings.Repeat("}", 17), problem: quote(strings.Repeat("${U:-", 1)+"}") + " is not a variable"},
	} {
		var problems []string
		got, ok := interpolate(c.in, 1000, lookup, func(p problem) {
			problems = append(problems, p.message)
			if p.part != "" && !strings.Contains(c.in, p.part) {
				t.Errorf("%q: %q is not in it", c.in, p.part)
			}
		})
		if ok && got != c.want || strings.Join(problems, ",") != c.problem {
			t.Errorf("%q: got %q %v %q, want %q %q", c.in, got, ok, problems, c.want, c.problem)
		}
	}
}

func FuzzInterpolate(f *testing.F) {
	for _, s := range []string{"", "$A ${A} $$", "${U:-${A:+x}}", "${A:?b}", "${", "${A:-", "$", "${U-}}{", "a}b"} {
		f.Add(s, "v")
	}
	f.Fuzz(func(t *testing.T, s, v string) {
		const limit = 1 << 12
		lookup := func(name string) (string, bool) { return v, name != "U" }
		got, ok := interpolate(s, limit, lookup, func(problem) {})
		if len(got) > limit+len(s) {
			t.Errorf("%d bytes from %d", len(got), len(s))
		}
		if !ok {
			return
		}
		if !strings.Contains(s, "$") && got != s && len(s) <= limit {
			t.Errorf("%q became %q", s, got)
		}
		if back, ok := interpolate(escape(got), 1<<20, lookup, func(problem) {}); !ok || back != got {
			t.Errorf("%q escaped became %q", got, back)
		}
	})
}

func TestSizes(t *testing.T) {
	for in, want := range map[string]uint64{
		"512MiB": 512 << 20, "1GiB": 1 << 30, "1g": 1 << 30, "64m": 64 << 20, "2gb": 2 << 30, "1.5g": 3 << 29, "10 KiB": 10 << 10,
		"100": 100, "100b": 100, "0": 0, "16TiB": 16 << 40, "1K": 1024,
	} {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("%s: got %d %v", in, got, err)
		}
	}
	for _, in := range []string{"", "x", "-1", "1e3", "5xyz", "1.0001k", "17TiB", "99999999999999999999", "1 g b", "0x10", "1.5", "9e9g", "+1"} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("%s: got %d", in, got)
		}
	}
	for _, n := range []uint64{0, 1, 1023, 1024, 1536 << 20, 1 << 30, 1<<30 + 1, maxSize} {
		if got, err := ParseSize(formatSize(n)); err != nil || got != n {
			t.Errorf("%d: wrote %s, read %d %v", n, formatSize(n), got, err)
		}
	}
}

func TestDurations(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"10s": 10 * time.Second, "1m30s": 90 * time.Second, "500ms": 500 * time.Millisecond, "0": 0, "1h": time.Hour, "1.5s": 1500 * time.Millisecond,
		"1d": 24 * time.Hour, "2d12h": 60 * time.Hour,
	} {
		got, err := parseDuration(in)
		if err != nil || got != want {
			t.Errorf("%s: got %s %v", in, got, err)
		}
		if back, err := parseDuration(formatDuration(got)); err != nil || back != got {
			t.Errorf("%s: wrote %s", in, formatDuration(got))
		}
	}
	for _, in := range []string{"", "10", "-1s", "1dx", "d", "1d-1h", "999d", "s", "9000h", "1s1"} {
		if got, err := parseDuration(in); err == nil {
			t.Errorf("%s: got %s", in, got)
		}
	}
	for d, want := range map[time.Duration]string{time.Hour: "1h", time.Minute: "1m", 3610 * time.Second: "1h0m10s", 0: "0s"} {
		if got := formatDuration(d); got != want {
			t.Errorf("%d: %s", d, got)
		}
	}
}

func TestSuggest(t *testing.T) {
	known := []string{"restart", "memory", "db", "api", "environment"}
	for in, want := range map[string]string{
		"restrat": "restart", "bd": "db", "mem": "", "enviroment": "environment", "x": "", "memroy": "memory", "apis": "api", "": "",
		strings.Repeat("memory", 20): "",
	} {
		if want != "" {
			want = `did you mean "` + want + `"?`
		}
		if got := suggest(in, known); got != want {
			t.Errorf("%s: got %s", in, got)
		}
	}
}

// Texts whose braces come in pairs are taken for what Compose takes them for. The
// names are ones that are set or have a default, since Compose's reader prints
// warnings of its own.
func TestVariablesAreThoseOfCompose(t *testing.T) {
	env := map[string]string{"A": "1", "E": ""}
	lookup := func(name string) (string, bool) { v, ok := env[name]; return v, ok }
	plain := []string{"x", "$.", "$$.", "$A.", "${A}", "$1", "$(x)", " ", ":-", "+"}
	open := []string{"${U:-", "${A:-", "${E-", "${E:-", "${A:+", "${U+", "${E:+", "{y"}
	random := rand.New(rand.NewPCG(3, 4))
	var text func(depth int) string
	text = func(depth int) string {
		out := ""
		for range random.IntN(4) {
			if depth < 3 && random.IntN(2) == 0 {
				out += open[random.IntN(len(open))] + text(depth+1) + "}"
			} else {
				out += plain[random.IntN(len(plain))]
			}
		}
		return out
	}
	for range 20_000 {
		in := text(0)
		got, ok := interpolate(in, 1<<20, lookup, func(p problem) { t.Errorf("%q: %s", in, p.message) })
		want, err := template.Substitute(in, lookup)
		if !ok || err != nil || got != want {
			t.Fatalf("%q: got %q, Compose reads %q %v", in, got, want, err)
		}
	}
}
