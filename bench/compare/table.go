//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// none stands where nothing was measured.
const none = "–"

// median is the middle of ds, the mean of the two middle ones of an even number;
// 0 of none.
func median(ds []time.Duration) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(ds))
	mid := len(s) / 2
	if len(s)%2 == 1 {
		return s[mid]
	}
	return (s[mid-1] + s[mid]) / 2
}

// spread is "median (least–most)".
func spread(ds []time.Duration) string {
	if len(ds) == 0 {
		return none
	}
	return fmt.Sprintf("%s (%d–%d)", ms(median(ds)), slices.Min(ds).Milliseconds(), slices.Max(ds).Milliseconds())
}

func ms(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }

// ratio is how many times b the median of a is.
func ratio(a, b []time.Duration) string {
	if len(a) == 0 || median(b) == 0 {
		return none
	}
	return fmt.Sprintf("%.2f", float64(median(a))/float64(median(b)))
}

// compareTable is the result in Markdown.
func compareTable(all []series) string {
	var t markdown
	t.row("containers", "with", "`up -d`", "`up -d` again", "`down`", "up / docker's", "up / bare QEMU's")
	for _, s := range all {
		t.row(fmt.Sprint(s.size), s.name, spread(s.up), spread(s.again), spread(s.down),
			ratio(s.up, find(all, "docker", s.size).up), ratio(s.up, find(all, "bare QEMU", s.size).up))
	}
	return t.String()
}

// find answers the series of a contender and a size, an empty one if there is
// none.
func find(all []series, name string, size int) series {
	for _, s := range all {
		if s.name == name && s.size == size {
			return s
		}
	}
	return series{}
}

// markdown is a table whose first row is its head.
type markdown struct {
	b    strings.Builder
	rows int
}

func (m *markdown) row(cells ...string) {
	for i, c := range cells {
		cells[i] = strings.ReplaceAll(c, "|", `\|`)
	}
	fmt.Fprintf(&m.b, "| %s |\n", strings.Join(cells, " | "))
	if m.rows == 0 {
		m.b.WriteString(strings.Repeat("|---", len(cells)) + "|\n")
	}
	m.rows++
}

func (m *markdown) String() string { return m.b.String() }
