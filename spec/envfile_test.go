package spec

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/dotenv"

	"github.com/vzcompose/vzcompose/internal/diag"
)

// callers are the caller's variables in these tests.
func callers(name string) (string, bool) {
	v, ok := map[string]string{"HOST": "caller", "EMPTY": ""}[name]
	return v, ok
}

// oursOf returns what we read, with lines joined by "|", or the first error
// after "!".
func oursOf(text string) string {
	r := newReporter()
	w := newWalker(r, "/", "", callers)
	vars := map[string]string{}
	putEnv(w, parseEnv(w, "env", []byte(text)), vars, callers)
	for _, f := range r.done() {
		if f.Severity == diag.Error {
			return "!" + f.Message
		}
	}
	return joinVars(vars)
}

// composesOf returns what Compose reads, or "!".
func composesOf(text string) string {
	vars, err := dotenv.ParseWithLookup(strings.NewReader(text), callers)
	if err != nil {
		return "!"
	}
	return joinVars(vars)
}

func joinVars(vars map[string]string) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		all = append(all, name+"="+vars[name])
	}
	return strings.Join(all, "|")
}

// The values are those of Compose's own reader. Where ours refuses what that
// takes, compose is what it takes it for.
func TestEnvFilesAreReadAsComposeReadsThem(t *testing.T) {
	for _, c := range []struct{ in, want, compose string }{
		{in: ""}, {in: "\n \t\n# A=1\n  # B=2\n"}, {in: "\ufeffA=1\n", want: "A=1"}, {in: "\ufeff", want: ""},
		{in: "COLOR=#fff\n", want: "COLOR=#fff"}, {in: "A= #fff\n", want: "A=#fff"}, {in: "A=x #c\n", want: "A=x"},
		{in: "A=x#c\n", want: "A=x#c"}, {in: "A=x\t#c\n", want: "A=x\t#c"}, {in: "A=x  # c # d\n", want: "A=x"},
		{in: `A='Let\'s'`, want: `A=Let's`}, {in: `A='a\nb\\'`, want: `A=a\nb\\`}, {in: `A="say \"x\""`, want: `A=say "x"`},
		{in: `A='\"'`, want: `A=\"`}, {in: `A="\'"`, want: `A=\'`}, {in: `A="a\tb\qc\\d\$HOST"`, want: "A=a\tb\\qc\\d$HOST"},
		{in: `A="\a\b\f\v\r\c"`, want: "A=\a\b\f\v\r\\c"}, {in: `A="\0101\0377"`, want: "A=A\u00ff"}, {in: `A="\\0101"`, want: `A=\0101`},
		{in: `A="\01"`, want: "!" + `"\\01" is no escape of a character`, compose: `A=\1`},
		{in: `A="\0400"`, want: "!" + `"\\0400" is no escape of a character`, compose: `A=\400`},
		{in: `A="\0000"`, want: "!" + `"\\0000" is no escape of a character`, compose: "A=\x00"},
		{in: "A=ab$\n", want: "A=ab$"}, {in: "A=$1\n", want: "A=$1"}, {in: "A=$(x)\n", want: "A=$(x)"}, {in: "A=$$x\n", want: "A=$x"},
		{in: "A=\"p$1$\"\n", want: "A=p$1$"}, {in: "A='$HOST'\n", want: "A=$HOST"}, {in: "A=$HOST-${HOST}\n", want: "A=caller-caller"},
		{in: "HOST=file\nA=$HOST\n", want: "A=caller|HOST=file"}, {in: "B=1\nA=$B\n", want: "A=1|B=1"}, {in: "A=${EMPTY:-d}${EMPTY-d}\n", want: "A=d"},
		{in: `A=${HOST:-{"a":{}}}` + "\n", want: "A=caller"}, {in: "A=${NO:?why}\n", want: `!variable "NO" is not set: why`, compose: "!"},
		{in: "A=${NO\n", want: `!"${NO" is not a variable`, compose: "!"},
		{in: "J: colon\n", want: "J=colon"}, {in: "J:colon=x\n", want: "J=colon=x"}, {in: "J=a:b\n", want: "J=a:b"}, {in: "A:=x\n", want: "A==x"},
		{in: "A+=x\n", want: `!"A+" is not the name of a variable`, compose: "!"}, {in: "A B=x\n", want: "!expected NAME=value", compose: "!"},
		{in: "A\tB=x\n", want: "!expected NAME=value", compose: "A\tB=x"}, {in: "=x\n", want: "!expected NAME=value", compose: "=x"},
		{in: "a.b-c[0]_=x\nÄ1=y\n1=z\n", want: "1=z|a.b-c[0]_=x|Ä1=y"}, {in: "'A'=x\n", want: `!"'A'" is not the name of a variable`, compose: "!"},
		{in: "export A=1\nexport\tB=2\n export  C: 3\nexport=4\nexported=5\n", want: "A=1|B=2|C=3|export=4|exported=5"},
		{in: "export\nA=1\n", want: "A=1"}, {in: "export HOST\n", want: "HOST=caller"},
		{in: "HOST\nNO\nEMPTY\n", want: "EMPTY=|HOST=caller"}, {in: "HOST  \n", want: "HOST=caller"}, {in: "HOST", want: "HOST=caller", compose: "=HOST"},
		{in: "A=1\r\nB=\"x\"\r\nC='y' # z\r\nHOST\r\n", want: "A=1|B=x|C=y|HOST=caller"}, {in: "A=1\rB=2\n", want: "A=1\rB=2"},
		{in: "A=\u20281\u2029\n", want: "A=\u20281"}, {in: "A=a\u0085b\n", want: "A=a\u0085b"},
		{in: "A=1\nA=2\n", want: "A=2"}, {in: "A=1\nA=\n", want: "A="}, {in: "A=\"\"\nB=''\nC=\nD", want: "A=|B=|C=", compose: "=D|A=|B=|C="},
		{in: "A=\"a\n b # c\n\"\nB='x\n\n#y'\n", want: "A=a\n b # c\n|B=x\n\n#y"}, {in: "A=\"x\r\ny\"\n", want: "A=x\r\ny"},
		{in: " A = 1 \n", want: "A=1"}, {in: "A=a b  c\n", want: "A=a b  c"}, {in: "A=x\"y\"\n", want: `A=x"y"`}, {in: "A=\"x\"#c\n", want: "A=x"},
		{in: "A=\"x\" B=2\n", want: `!text after the closing "`, compose: "A=x|B=2"}, {in: "A='x", want: "!the value has a ' without its partner", compose: "!"},
		{in: "A=\xff\n", want: "!the line is not text", compose: "A=\xff"}, {in: "A=a\x00b\n", want: "!the line is not text", compose: "A=a\x00b"},
	} {
		if got := oursOf(c.in); got != c.want {
			t.Errorf("%q: got %q, want %q", c.in, got, c.want)
		}
		if c.compose == "" {
			c.compose = c.want
		}
		if got := composesOf(c.in); got != c.compose {
			t.Errorf("%q: Compose reads %q, and we say it reads %q", c.in, got, c.compose)
		}
	}
}

// Texts of the pieces that matter: what we take, Compose takes for the same, and
// what we refuse and it does not is one of the few that the docs name.
func TestEnvFilesOfChanceAreReadAsComposeReadsThem(t *testing.T) {
	pieces := strings.Split(`A|B|HOST|=|=|:|#| #| |'|"|\|\'|\"|$|$$|$HOST|${HOST}|${EMPTY:-x}|${HOST:+y}|${NO-z}|{|}|$1|export |n|0101|é|-|`+"\t|\r|\n|\n|\v|\u00a0", "|")
	refused := []string{"!text after the closing", "!expected NAME=value", "!\"\\\\0"}
	random := rand.New(rand.NewPCG(1, 2))
	taken := 0
	for range 50_000 {
		var b strings.Builder
		b.WriteString("A=")
		for range random.IntN(12) {
			b.WriteString(pieces[random.IntN(len(pieces))])
		}
		b.WriteString("\n")
		got, want := oursOf(b.String()), composesOf(b.String())
		switch {
		case got == want:
			taken++
		case got[0] != '!':
			t.Fatalf("%q: got %q, Compose reads %q", b.String(), got, want)
		case want != "!" && !slices.ContainsFunc(refused, func(s string) bool { return strings.HasPrefix(got, s) }):
			t.Fatalf("%q: refused with %q; Compose reads %q", b.String(), got, want)
		}
	}
	if taken < 10_000 {
		t.Errorf("only %d of the texts were read", taken)
	}
}

// A later file sees the variables of an earlier one, and those of environment.
func TestEnvFilesSeeWhatIsSetBefore(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"one.env":       "A=1\nHOST=one\nSET\n",
		"two.env":       "B=${A}2 ${SET} $HOST\n",
		"vzcompose.yml": "containers:\n  a: {image: x, env_file: [one.env, two.env], environment: {SET: s}}\n  b: {image: x, env_file: two.env, environment: [A=b, SET=]}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l, err := Load(Options{Files: []string{filepath.Join(dir, "vzcompose.yml")}, LookupEnv: callers})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"a": "A=1|B=12 s caller|HOST=one|SET=s", "b": "A=b|B=b2  caller|SET="} {
		if got := joinVars(l.Stack.Containers[name].Environment); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

func FuzzEnvFile(f *testing.F) {
	for _, s := range []string{"A=1", "export A='x\\'y' # z", "A=\"\\0101${B:-{}}\"", "\ufeffA: b\r\n", "A", "=", "A=\"", "\\"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got := oursOf(s); got == "" || got[0] == '!' {
			return
		}
		// Places are counted while the text is cut, so each must be in it.
		r := newReporter()
		for _, e := range parseEnv(newWalker(r, "/", "", callers), "env", []byte(s)) {
			if e.line < 1 || e.line > len(e.src.lines) || e.column < 1 {
				t.Errorf("%q: %s", s, fmt.Sprint(e.line, ":", e.column))
			}
		}
	})
}
