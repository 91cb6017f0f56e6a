package cli

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/vzcompose/vzcompose/internal/docs"
)

// The page has the options of the program and of its commands, and every command.
func TestDocumentedOptions(t *testing.T) {
	app := (&app{}).command()
	page, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	tables := map[string][]cli.Flag{"## Global options": app.Flags}
	for _, c := range app.Commands {
		told := false
		for line := range strings.Lines(string(page)) {
			heading, is := strings.CutPrefix(strings.TrimSpace(line), "## ")
			if !is {
				continue
			}
			names := strings.FieldsFunc(heading, func(r rune) bool { return r == ' ' || r == ',' || r == '[' })
			if !slices.Contains(names, c.Name) {
				continue
			}
			told = true
			if slices.Contains([]string{"up", "down", "run", "exec", "logs"}, c.Name) {
				tables[strings.TrimSpace(line)] = c.Flags
			}
		}
		if !told {
			t.Errorf("the page has no heading with %s", c.Name)
		}
	}
	for heading, flags := range tables {
		rows, err := docs.Table("../..", "cli.md", heading, 0)
		if err != nil {
			t.Error(err)
			continue
		}
		var told []string
		for _, r := range rows {
			for _, w := range docs.Words(r[0]) {
				name, _, _ := strings.Cut(w, " ")
				told = append(told, strings.TrimLeft(name, "-"))
			}
		}
		for _, f := range flags {
			if !slices.ContainsFunc(f.Names(), func(n string) bool { return slices.Contains(told, n) }) {
				t.Errorf("%s lacks --%s", heading, f.Names()[0])
			}
		}
		for _, name := range told {
			if !slices.ContainsFunc(flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), name) }) {
				t.Errorf("%s has --%s, which the code has not", heading, name)
			}
		}
	}
}
