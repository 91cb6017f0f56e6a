package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// smallHome has the stacks of this test on a filesystem of size bytes, which is
// mounted with another size by grow. Images, kernels and templates are the usual
// ones.
func smallHome(t *testing.T, size string) (home string, grow func(size string)) {
	t.Helper()
	if shared.cache == "" {
		t.Skip("VZCOMPOSE_E2E is not set: no machines")
	}
	home = t.TempDir()
	if err := unix.Mount("none", home, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("no small filesystem here: mounting one takes root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(home, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{"images", "kernels", "templates"} {
		if err := os.Symlink(filepath.Join(shared.home, name), filepath.Join(home, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("VZCOMPOSE_HOME", home)
	return home, func(size string) {
		t.Helper()
		if err := unix.Mount("none", home, "tmpfs", unix.MS_REMOUNT, "size="+size); err != nil {
			t.Fatal(err)
		}
	}
}

// fill takes all the room there is in a folder.
func fill(t *testing.T, dir string) {
	t.Helper()
	f := must(os.Create(filepath.Join(dir, "filler")))
	defer f.Close()
	for block := make([]byte, 64<<10); ; {
		_, err := f.Write(block)
		if errors.Is(err, unix.ENOSPC) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A host disk that is full stops what writes to it, and says so; what only
// speaks goes on, and its log says what it lost; both go on by themselves when
// there is room, and a stop does not wait for that.
func TestHostDiskFull(t *testing.T) {
	home, grow := smallHome(t, "24m")
	s := scenario(t, fmt.Sprintf(`
defaults: {image: busybox, cpus: 1, memory: 64MiB, interfaces: []}
containers:
  web: {command: [sleep, "36000"]}
  talker: {command: [sh, -c, 'i=0; while :; do echo "tick $$i %s"; i=$$((i+1)); sleep 0.1; done'], stop_grace_period: 0s}
`, strings.Repeat("x", 500)))
	s.must("up", "-d")
	// What the set-up changed on the talker's disk is committed up to five seconds
	// later (ext4(5), commit=). Afterwards nothing is written there.
	s.must("exec", "talker", "sync")
	path := filepath.Join(home, "stacks", s.name, "web-1", "writable.img")
	stalled := func() bool { return s.instances()["web-1"].Stall == "host disk full: "+path }
	atOnce := func(args ...string) result {
		t.Helper()
		began := time.Now()
		r := s.vz(args...)
		if d := time.Since(began); d > 8*time.Second {
			t.Errorf("%v took %s", args, d)
		}
		return r
	}
	s.must("exec", "-d", "web", "sh", "-c", "yes | head -c 33554432 >/big && sync && touch /done && sync")
	s.eventually("web stands still, and ps says so", stalled)
	contains(t, "ps", s.must("ps").out, "stalled (host disk full: ")
	for _, args := range [][]string{{"exec", "web", "true"}, {"stats", "--no-stream", "web"}, {"top", "web"}, {"cp", "web-1:/etc/hosts", t.TempDir()}} {
		r := atOnce(args...)
		contains(t, fmt.Sprint(args), r.out+r.err, "host disk full: "+path)
		if r.code == 0 && args[0] != "stats" {
			t.Errorf("%s", r)
		}
	}
	contains(t, "up", atOnce("up", "-d").err, "web-1 stands still: host disk full")
	fill(t, home) // the last of it, for the log
	log := filepath.Join(home, "stacks", s.name, "talker-1", "log", "000001.jsonl")
	size, since := int64(-1), time.Now()
	s.eventually("the log takes nothing more", func() bool {
		if n := must(os.Stat(log)).Size(); n != size {
			size, since = n, time.Now()
		}
		return time.Since(since) > 2*time.Second
	})
	if got := s.instances()["talker-1"]; got.Stall != "" {
		t.Errorf("what writes nothing to its disk stands still: %+v", got)
	}

	grow("200m")
	s.eventually("web goes on by itself", func() bool { return s.instances()["web-1"].Stall == "" })
	s.eventually("it has written all", func() bool { return s.vz("exec", "web", "sh", "-c", "test -e /done && sync").code == 0 })
	s.eventually("the log goes on, and says what it lost", func() bool { return ticks(t, s) })
	contains(t, "events", s.must("events", "--since", "1h", "--until", "0s").out, "stall web-1 (cause=host disk full: "+path+")", "unstall web-1")

	fill(t, home)
	s.must("exec", "-d", "web", "sh", "-c", "yes | head -c 33554432 >/more; sync")
	s.eventually("web stands still again", stalled)
	if r := atOnce("stop", "-t", "60", "web"); r.code != 0 {
		t.Errorf("%s", r)
	}
	if got := s.instances()["web-1"]; got.Exit == nil || got.Exit.Code != 137 || !got.Exit.Requested || !strings.Contains(got.Cause, "host disk full: "+path) {
		t.Errorf("after stop on a full disk: %+v, %+v", got, got.Exit)
	}
	if err := os.Remove(filepath.Join(home, "filler")); err != nil {
		t.Fatal(err)
	}
	s.must("start", "web")
	s.must("exec", "web", "test", "-e", "/done")
}

// ticks reports whether the talker's log has a loss and then ticks again, and
// that each tick is whole and later than the one before.
func ticks(t *testing.T, s *stack) bool {
	t.Helper()
	lost, after, last := int64(0), 0, -1
	for line := range bytes.Lines([]byte(s.must("logs", "--json", "talker").out)) {
		var r struct {
			Line string `json:"line"`
			Lost int64  `json:"lost"`
		}
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if r.Lost > 0 {
			lost += r.Lost
			continue
		}
		var n int
		if _, err := fmt.Sscanf(r.Line, "tick %d ", &n); err != nil || n <= last {
			t.Fatalf("after tick %d comes %q", last, r.Line)
		}
		if last = n; lost > 0 {
			after++
		}
	}
	if lost > 0 && after > 0 {
		t.Logf("%d bytes were lost, %d ticks came after", lost, after)
	}
	return lost > 0 && after > 2
}
