//go:build linux

package main

import (
	"testing"
	"time"
)

func durations(ms ...int) []time.Duration {
	var ds []time.Duration
	for _, n := range ms {
		ds = append(ds, time.Duration(n)*time.Millisecond)
	}
	return ds
}

func TestMedian(t *testing.T) {
	for _, tc := range []struct {
		of   []time.Duration
		want time.Duration
	}{
		{nil, 0},
		{durations(7), 7 * time.Millisecond},
		{durations(9, 1, 5), 5 * time.Millisecond},
		{durations(4, 1, 9, 2), 3 * time.Millisecond},
	} {
		if got := median(tc.of); got != tc.want {
			t.Errorf("median(%v) = %s, want %s", tc.of, got, tc.want)
		}
	}
}

func TestMedianLeavesTheOrderAlone(t *testing.T) {
	ds := durations(3, 1, 2)
	median(ds)
	if ds[0] != 3*time.Millisecond {
		t.Errorf("now %v", ds)
	}
}

func TestRatioOfNothingIsNone(t *testing.T) {
	for _, tc := range []struct {
		a, b []time.Duration
		want string
	}{
		{durations(30), durations(20), "1.50"},
		{nil, durations(20), none},
		{durations(30), nil, none},
	} {
		if got := ratio(tc.a, tc.b); got != tc.want {
			t.Errorf("ratio(%v, %v) = %s, want %s", tc.a, tc.b, got, tc.want)
		}
	}
}

func TestCompareTableTakesRatiosWithinASize(t *testing.T) {
	got := compareTable([]series{
		{name: "vzcompose cold", size: 1, up: durations(300, 100, 200), again: durations(20), down: durations(30)},
		{name: "bare QEMU", size: 1, up: durations(100), down: durations(5)},
		{name: "docker", size: 1, up: durations(50), again: durations(8), down: durations(9)},
		{name: "vzcompose cold", size: 10, up: durations(900), again: durations(21), down: durations(31)},
	})
	const want = "| containers | with | `up -d` | `up -d` again | `down` | up / docker's | up / bare QEMU's |\n" +
		"|---|---|---|---|---|---|---|\n" +
		"| 1 | vzcompose cold | 200 ms (100–300) | 20 ms (20–20) | 30 ms (30–30) | 4.00 | 2.00 |\n" +
		"| 1 | bare QEMU | 100 ms (100–100) | – | 5 ms (5–5) | 2.00 | 1.00 |\n" +
		"| 1 | docker | 50 ms (50–50) | 8 ms (8–8) | 9 ms (9–9) | 1.00 | 0.50 |\n" +
		"| 10 | vzcompose cold | 900 ms (900–900) | 21 ms (21–21) | 31 ms (31–31) | – | – |\n"
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestACellDoesNotEndItsRow(t *testing.T) {
	var m markdown
	m.row("a|b", "c")
	if got, want := m.String(), "| a\\|b | c |\n|---|---|\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
