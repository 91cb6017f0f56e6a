// Command conformance writes docs/conformance.md from what the end-to-end tests
// reported of the last runs: conformance-MODE.json in the folder of its first
// argument, one file for each way in which machines came to be.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// lines is how many behaviours docs/conformance.md has.
const lines = 53

// behaviour is what a test reports.
type behaviour struct {
	Line   int    `json:"line"`
	What   string `json:"what"`
	Test   string `json:"test"`
	Mode   string `json:"mode"`
	Result string `json:"result"`
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: conformance FOLDER docs/conformance.md")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(dir, to string) error {
	files, err := filepath.Glob(filepath.Join(dir, "conformance-*.json"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("no report in %s: run the end-to-end tests first", dir)
	}
	var all []behaviour
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		var some []behaviour
		if err := json.Unmarshal(b, &some); err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
		all = append(all, some...)
	}
	return os.WriteFile(to, []byte(table(all)), 0o644)
}

// table is the page. A line may have several tests.
func table(all []behaviour) string {
	var modes []string
	results := map[string]map[string]string{} // by test, by mode
	tests := map[int][]behaviour{}
	for _, b := range all {
		if !slices.Contains(modes, b.Mode) {
			modes = append(modes, b.Mode)
		}
		if results[b.Test] == nil {
			results[b.Test] = map[string]string{}
			tests[b.Line] = append(tests[b.Line], b)
		}
		results[b.Test][b.Mode] = b.Result
	}
	slices.Sort(modes)
	var s strings.Builder
	s.WriteString("# Conformance\n\nWritten by `make conformance` from the last runs of the end-to-end tests, in emulated machines; not by hand. " +
		"A line is a behaviour that users of container engines rely on.\n\n| line | behaviour | " + strings.Join(modes, " | ") + " | test |\n|---|---|" +
		strings.Repeat("---|", len(modes)) + "---|\n")
	var missing []string
	for line := 1; line <= lines; line++ {
		if len(tests[line]) == 0 {
			missing = append(missing, fmt.Sprint(line))
		}
		for _, b := range tests[line] {
			fmt.Fprintf(&s, "| %d | %s |", line, b.What)
			for _, m := range modes {
				r := results[b.Test][m]
				if r == "" {
					r = "not run"
				}
				fmt.Fprintf(&s, " %s |", r)
			}
			name, _, _ := strings.Cut(b.Test, "/")
			fmt.Fprintf(&s, " `%s` |\n", name)
		}
	}
	if len(missing) > 0 {
		fmt.Fprintf(&s, "\nWithout a test of their own yet: lines %s.\n", strings.Join(missing, ", "))
	}
	return s.String()
}
