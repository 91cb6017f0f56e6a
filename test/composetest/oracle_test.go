// Package composetest compares what package spec makes of Compose files with
// what Compose's own reader makes of them.
package composetest

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// difference is a place in which we read a file otherwise than Compose, and why.
type difference struct {
	file string         // of testdata, without .txt
	line *regexp.Regexp // of what is reported
	why  string
}

var differences = []difference{
	{"deploy", regexp.MustCompile(`unsaid.restart`), "the specification has any as the default of deploy.restart_policy.condition; docker compose does not restart"},
	{"environment", regexp.MustCompile(`FLOAT=`), "a number keeps the digits that are written: 1.50, not 1.5"},
	{"label-file", regexp.MustCompile(`labels`), "labels are read from the stack file alone; a warning says so"},
	{"mounts-letter", regexp.MustCompile(`mounts`), "a name of one letter is a volume, not a drive of Windows"},
	{"network-mode", regexp.MustCompile(`bridge.networks default`), "bridge is the stack's default network, which has names too"},
}

// What we read in a file is what Compose reads in it.
func TestFilesAreReadAsComposeReadsThem(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no files: %v", err)
	}
	used := make([]bool, len(differences))
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".txt")
		t.Run(name, func(t *testing.T) {
			for _, line := range compare(t, unpack(t, path)) {
				at := slices.IndexFunc(differences, func(d difference) bool { return d.file == name && d.line.MatchString(line) })
				if at < 0 {
					t.Error(line)
					continue
				}
				used[at] = true
			}
		})
	}
	for i, d := range differences {
		if !used[i] && !t.Failed() {
			t.Errorf("no difference %s in %s any more", d.line, d.file)
		}
	}
}

// compare returns what one reader says and the other does not.
func compare(t *testing.T, p project) []string {
	t.Helper()
	t.Chdir(p.dir) // where COMPOSE_FILE begins
	if home, ok := p.env["HOME"]; ok {
		t.Setenv("HOME", home) // compose-go asks the process
	}
	theirs, err := p.theirs()
	if err != nil {
		t.Fatalf("compose-go: %v", err)
	}
	want := theirFacts(theirs)
	ours, err := p.ours()
	if err != nil {
		return []string{fmt.Sprintf("only compose-go loads it: %v", err)}
	}
	got := ourFacts(ours, want)
	var report []string
	for _, line := range want.without(got) {
		report = append(report, "compose-go: "+line)
	}
	for _, line := range got.without(want) {
		report = append(report, "vzcompose:  "+line)
	}
	return report
}
