package shimproto

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/store"
)

// goldenLaunch is a launch of LaunchVersion as it is written, with every field that
// the version had when the file was made.
func goldenLaunch(t testing.TB) []byte {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("testdata/launch-%d.json", LaunchVersion))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := json.Compact(&b, text); err != nil {
		t.Fatal(err)
	}
	b.WriteByte('\n')
	return b.Bytes()
}

// A launch comes through as it was. Where this fails a field was renamed, removed or
// given another meaning, and LaunchVersion must be another.
func TestLaunchOfThisVersion(t *testing.T) {
	want := goldenLaunch(t)
	l, err := ReadLaunch(bytes.NewReader(want))
	if err != nil {
		t.Fatal(err)
	}
	got, err := l.Encode()
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v\n got %s\nwant %s", err, got, want)
	}
}

// What is not a launch of this version, all of it, is refused.
func TestLaunchThatIsRefused(t *testing.T) {
	golden := string(goldenLaunch(t))
	with := func(old, as string) string {
		if !strings.Contains(golden, old) {
			t.Fatalf("no %s in the launch", old)
		}
		return strings.Replace(golden, old, as, 1)
	}
	for name, x := range map[string]struct {
		text  string
		class errs.Class
		says  string
	}{
		"a later version":          {with(`"version":1,"home"`, `"version":2,"home"`), errs.Unsupported, "version 2"},
		"of the first release":     {with(`"version":1,"home"`, `"home"`), errs.Unsupported, "run the command again"},
		"a container of a version": {with(`"hold":{"version":1`, `"hold":{"version":2`), errs.Unsupported, "version 2"},
		"an unknown field":         {with(`"kernel"`, `"colonel"`), errs.InvalidArgument, "colonel"},
		"one in the record":        {with(`"cpus"`, `"gpus"`), errs.InvalidArgument, "gpus"},
		"no instance":              {`{"version":1}`, errs.InvalidArgument, "without an instance"},
		"torn":                     {golden[:len(golden)/2], errs.InvalidArgument, "EOF"},
		"nothing":                  {"", errs.InvalidArgument, "EOF"},
	} {
		l, err := ReadLaunch(strings.NewReader(x.text))
		if !errs.Is(err, x.class) || !strings.Contains(err.Error(), x.says) || l.Home.Dir != "" {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
	}
}

// What does not end is not read for ever.
func TestLaunchHasABound(t *testing.T) {
	endless := &endless{}
	if _, err := ReadLaunch(endless); !errs.Is(err, errs.InvalidArgument) || endless.read > 2*maxLaunch {
		t.Errorf("%d bytes were read: %v", endless.read, err)
	}
}

// endless begins a string.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '"'
		if e.read > 0 {
			p[i] = 'x'
		}
		e.read++
	}
	return len(p), nil
}

// Any version can have a spare of any other end: down does.
func TestRetireOfAnyVersion(t *testing.T) {
	ours, err := Launch{Retire: true}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{string(ours), `{"version":99,"home":"elsewhere","retire":true,"more":1}`} {
		if l, err := ReadLaunch(strings.NewReader(text)); err != nil || !l.Retire {
			t.Errorf("%s: %+v, %v", text, l, err)
		}
	}
}

// FuzzReadLaunch: what is read is written as it is read again, and what is not is an
// error.
func FuzzReadLaunch(f *testing.F) {
	f.Add(goldenLaunch(f))
	f.Add([]byte(`{"version":1,"home":{"Dir":"/h"},"instance":{"name":"web-1","spec":null},"env":{"<":"&"}}`))
	f.Add([]byte(`{"retire":true}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ReadLaunch(bytes.NewReader(b))
		if err != nil {
			if l.Home != (store.Home{}) || l.Instance.Name != "" {
				t.Errorf("%v, and %+v", err, l)
			}
			return
		}
		once, err := l.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if l, err = ReadLaunch(bytes.NewReader(once)); err != nil {
			t.Fatalf("%v of %s", err, once)
		}
		twice, err := l.Encode()
		if err != nil || !bytes.Equal(once, twice) {
			t.Errorf("%v\n%s\n%s", err, once, twice)
		}
	})
}
