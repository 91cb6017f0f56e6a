// Package docs reads the tables of documentation pages, for the tests of the packages
// that they describe: a table of limits, methods or words is compared with the code.
package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Table returns the rows of the table under a heading ("## Frames") of docs/NAME,
// the title left out, a slice of cells each. It is the nth (from 0) below the heading
// and above the next.
func Table(root, name, heading string, n int) ([][]string, error) {
	text, err := os.ReadFile(filepath.Join(root, "docs", name))
	if err != nil {
		return nil, err
	}
	_, section, ok := strings.Cut("\n"+string(text), "\n"+heading+"\n")
	if !ok {
		return nil, fmt.Errorf("%s has no heading %q", name, heading)
	}
	if next := strings.Index(section, "\n#"); next >= 0 {
		section = section[:next]
	}
	var rows [][]string
	tables := 0
	for line := range strings.Lines(section) {
		line = strings.TrimSpace(line)
		switch {
		case !strings.HasPrefix(line, "|"):
			if len(rows) > 0 {
				if tables == n {
					return rows[2:], nil // behind the title and the line below it
				}
				tables, rows = tables+1, nil
			}
		default:
			rows = append(rows, cells(line))
		}
	}
	if len(rows) < 3 || tables != n {
		return nil, fmt.Errorf("%s has no table %d under %q", name, n, heading)
	}
	return rows[2:], nil
}

func cells(line string) []string {
	var all []string
	for _, c := range strings.Split(strings.Trim(line, "|"), "|") {
		all = append(all, strings.TrimSpace(c))
	}
	return all
}

var word = regexp.MustCompile("`([^`]*)`")

// Words returns what stands in backquotes in a cell.
func Words(cell string) []string {
	var all []string
	for _, m := range word.FindAllStringSubmatch(cell, -1) {
		all = append(all, m[1])
	}
	return all
}

// Bytes returns how a table writes a size.
func Bytes(n int) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprint(n)
}
