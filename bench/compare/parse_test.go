//go:build linux

package main

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCPUTimeIsPastAnyName(t *testing.T) {
	const rest = " S 1 2 3 0 -1 4194304 100 0 0 0 150 25 0 0 20 0 4 0 1 1 1"
	for _, name := range []string{"(qemu)", "(a b)", "(a) R 1 2 3 (b)"} {
		got, err := cpuTime("42 " + name + rest)
		if err != nil || got != 1750*time.Millisecond {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
	for _, bad := range []string{"", "42 (qemu)", "42 (qemu) S 1 2", "42 (qemu)" + strings.Replace(rest, "150", "x", 1)} {
		if got, err := cpuTime(bad); err == nil {
			t.Errorf("%q: %s", bad, got)
		}
	}
}

func TestUsageOfThisProcess(t *testing.T) {
	u, err := usageOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if u.pss == 0 || u.rss < u.pss {
		t.Errorf("%+v", u)
	}
}

func TestKibibytes(t *testing.T) {
	const text = "Rss:        12 kB\nPss:         7 kB\nPss_Anon:    3 kB\n"
	if got, err := kibibytes(text, "Pss"); err != nil || got != 7<<10 {
		t.Errorf("%d, %v", got, err)
	}
	if _, err := kibibytes(text, "Swap"); err == nil {
		t.Error("no error for what is not there")
	}
}

func TestParseShims(t *testing.T) {
	got, err := parseShims("{\"name\":\"box-1\",\"pid\":7}\n{\"name\":\"box-2\",\"pid\":9}\n")
	if err != nil || !slices.Equal(got, []int{7, 9}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"{\"name\":\"box-1\"}\n", "NAME STATE\n"} {
		if got, err := parseShims(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

func TestHearFindsAWordInPieces(t *testing.T) {
	r, w := io.Pipe()
	go func() {
		for _, piece := range []string{"booting\r\nvzcom", "pose-agent", ": up\n"} {
			_, _ = w.Write([]byte(piece))
		}
	}()
	if err := hear(r, greeting); err != nil {
		t.Error(err)
	}
	if err := hear(strings.NewReader("Kernel panic"), greeting); err == nil || !strings.Contains(err.Error(), "Kernel panic") {
		t.Errorf("got %v", err)
	}
}

func TestTail(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"", ""},
		{" a\n b ", "a b"},
		{"0123456789", "…56789"},
		{"0123–678", "…678"}, // not from the middle of a character
	} {
		if got := tail(tc.in, 5); got != tc.want {
			t.Errorf("tail(%q) = %q, want %q", tc.in, got, tc.want)
		}
	}
}

func TestOptions(t *testing.T) {
	o, err := parseOptions([]string{"-sizes", "1, 4", "-only", "docker,cold"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(o.sizes, []int{1, 4}) || o.rounds != 5 {
		t.Errorf("%+v", o)
	}
	for name, want := range map[string]bool{"docker": true, "vzcompose cold": true, "vzcompose warm": false, "bare QEMU": false} {
		if o.wants(name) != want {
			t.Errorf("wants(%s) = %t", name, !want)
		}
	}
	for _, bad := range [][]string{{"-sizes", "0"}, {"-sizes", "ten"}, {"-sizes", ","}, {"-rounds", "0"}, {"-density", "-1"}, {"docker"}} {
		if _, err := parseOptions(bad, io.Discard); err == nil {
			t.Errorf("%v: no error", bad)
		}
	}
}

func TestRemoveCgroups(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"ours/a/b", "memory/ours/c", "memory/theirs", "cpu"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := removeCgroups(root, "ours"); err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, pattern := range []string{"*", "*/*"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			left = append(left, strings.TrimPrefix(f, root+"/"))
		}
	}
	if got := strings.Join(left, " "); got != "cpu memory memory/theirs" {
		t.Errorf("left: %s", got)
	}
}
