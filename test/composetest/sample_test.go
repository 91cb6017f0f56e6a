package composetest

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/diag"
	"github.com/vzcompose/vzcompose/spec"
)

var sample = flag.String("sample", "", "a list of Compose files, a path a line, relative to the list's folder")

// kind is what a finding is about; files are counted by kinds.
type kind struct {
	name string
	// users: what is missing is not in the repository, because each user has their
	// own.
	users bool
	of    *regexp.Regexp
}

// kinds are looked through in order.
var kinds = []kind{
	{"an env file that only the user has", true, regexp.MustCompile(`env_file.*no such file`)},
	{"a variable that only the user sets", true, regexp.MustCompile(`variable "[^"]*" is (not set|empty)(:|$)`)},
	{"a secret or config that only the user has", true, regexp.MustCompile(`(secrets|configs)\..*(does not exist|no such file)`)},
	{"the engine's socket", false, regexp.MustCompile(`docker\.sock|podman\.sock|engine's socket|engine whose socket`)},
	{"build without an image", false, regexp.MustCompile(`\.build|images are not built|image is built|build`)},
	{"an external network", false, regexp.MustCompile(`external network`)},
	{"the host's network", false, regexp.MustCompile(`on the host's network`)},
	{"another service's network card", false, regexp.MustCompile(`share a network card`)},
	{"a device of the host", false, regexp.MustCompile(`device of the host`)},
	{"a GPU", false, regexp.MustCompile(`GPU`)},
	{"a tree of the host", false, regexp.MustCompile(`the host's own|tree of the host`)},
	{"processes or memory of the host or of others", false, regexp.MustCompile(`in another machine`)},
	{"a bind source that is not there", false, regexp.MustCompile(`does not exist`)},
	{"a driver of volumes", false, regexp.MustCompile(`there is no driver|a volume of type`)},
	{"a port of the host twice", false, regexp.MustCompile(`port \d+ of the host is already|open the same port`)},
	{"an unknown key", false, regexp.MustCompile(`unknown key`)},
}

// emptied is what is found in a text whose variables are not set.
var emptied = regexp.MustCompile(`^"[^"]*" (is not|has no)`)

// kindOf names what a finding is about: a kind, or its message without names.
func kindOf(f diag.Finding) (name string, users bool) {
	text := f.Path + ": " + f.Message
	if f.Severity == diag.Error && strings.Contains(f.Source, "$") && emptied.MatchString(f.Message) {
		return "a variable that only the user sets", true
	}
	for _, k := range kinds {
		if k.of.MatchString(text) {
			return k.name, k.users
		}
	}
	return regexp.MustCompile(`"[^"]*"|\d+`).ReplaceAllString(f.Message, "…"), false
}

// A sample of public Compose files, none of which is in the repository: how many
// load, how many would run for an ordinary user, and what is refused.
//
//	go test -run TestSample -v -sample /folder/list
func TestSample(t *testing.T) {
	if *sample == "" {
		t.Skip("needs -sample")
	}
	data, err := os.ReadFile(*sample)
	if err != nil {
		t.Fatal(err)
	}
	var files, theirs, loads, both, usersOnly, runs int
	different, alone := map[string][]string{}, map[string][]string{}
	refused, warned, held := map[string][]string{}, map[string][]string{}, map[string][]string{}
	for name := range strings.FieldsSeq(string(data)) {
		files++
		path := filepath.Join(filepath.Dir(*sample), name)
		p := project{dir: filepath.Dir(path), env: map[string]string{"HOME": "/home/user", "PWD": filepath.Dir(path), "USER": "user"}}
		if !slices.Contains([]string{"compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"}, filepath.Base(path)) {
			p.files = []string{path}
		}
		t.Chdir(p.dir)
		t.Setenv("HOME", p.env["HOME"]) // compose-go asks the process
		their, theirErr := p.theirs()
		if theirErr == nil {
			theirs++
		}
		loaded, err := p.ours()
		var findings diag.Findings
		switch {
		case err == nil:
			loads++
			findings = loaded.Findings
			if belowLow(loaded.Stack) {
				count(held, "a port of the host below 1024", name)
			} else {
				runs++
			}
		case !errors.As(err, &findings):
			t.Errorf("%s: %v", name, err)
		}
		users, why := err != nil, map[string]bool{}
		for _, f := range findings {
			kind, of := kindOf(f)
			if f.Severity == diag.Warning {
				count(warned, kind, name)
				continue
			}
			users, why[kind] = users && of, true
			count(refused, kind, name)
			t.Logf("%s: %s", name, f)
		}
		if users {
			usersOnly++
		}
		for kind := range why {
			if len(why) == 1 {
				count(alone, kind, name)
			}
		}
		if err != nil && theirErr != nil {
			both++
		}
		if err == nil && theirErr == nil {
			for _, line := range differ(their, loaded) {
				t.Logf("%s: %s", name, line)
				count(different, line[strings.IndexByte(line, ':')+1:], name)
			}
		}
		if err == nil && theirErr != nil {
			t.Logf("%s: only vzcompose loads it: %v", name, theirErr)
		}
	}
	share := func(n int) string { return fmt.Sprintf("%d of %d, %.0f %%", n, files, 100*float64(n)/float64(files)) }
	var b strings.Builder
	fmt.Fprintf(&b, "compose-go loads %s\nvzcompose loads %s; neither loads %s\n", share(theirs), share(loads), share(both))
	fmt.Fprintf(&b, "  and %s more once the user has written their own files and variables\n", share(usersOnly))
	fmt.Fprintf(&b, "would run as an ordinary user, given the images: %s\n", share(runs))
	table(&b, "loads, but needs more than an ordinary user has", held)
	table(&b, "refused", refused)
	table(&b, "refused for one thing alone", alone)
	table(&b, "warned of", warned)
	fmt.Fprintf(&b, "%d facts are read otherwise than compose-go reads them\n", len(different))
	t.Log("\n" + b.String())
}

func belowLow(s *spec.Stack) bool {
	for _, c := range s.Containers {
		for _, p := range c.Ports {
			if p.Published[0] > 0 && p.Published[0] < 1024 {
				return true
			}
		}
	}
	return false
}

// count puts a file under a kind, once.
func count(by map[string][]string, kind, file string) {
	if !slices.Contains(by[kind], file) {
		by[kind] = append(by[kind], file)
	}
}

func table(b *strings.Builder, title string, by map[string][]string) {
	var names []string
	for name := range by {
		names = append(names, name)
	}
	slices.SortFunc(names, func(x, y string) int { return cmp.Or(len(by[y])-len(by[x]), strings.Compare(x, y)) })
	fmt.Fprintf(b, "%s, by files:\n", title)
	for _, name := range names {
		fmt.Fprintf(b, "%4d %s\n", len(by[name]), name)
	}
}
