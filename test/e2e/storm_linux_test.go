package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/filelock"
	"github.com/vzcompose/vzcompose/internal/store"
)

// stormStack has a counter on a volume, which says a number once it is on the
// disk; one that says numbers as fast as it can and is restarted by its policy;
// and a network between them.
const stormStack = `
defaults: {image: busybox, cpus: 1, memory: 64MiB, stop_grace_period: 1s}
containers:
  counter:
    command: [sh, -c, "n=$$(cat /data/n 2>/dev/null || echo 0); while :; do n=$$((n+1)); echo $$n >/data/new; sync /data/new; mv /data/new /data/n; sync /data; echo $$n; sleep 0.05; done"]
    mounts: [{type: volume, source: data, destination: /data}]
  talker:
    command: [sh, -c, "n=0; while :; do n=$$((n+1)); echo $$n; [ $$((n%50)) = 0 ] && sleep 0.05; done"]
    restart: always
    depends_on: [counter]
  idle: {command: [sleep, "36000"], depends_on: [talker]}
volumes: {data: {size: 64MiB}}
`

// TestStorm kills commands, shims, machines and switches of a stack that works,
// at moments that a seed decides. After each kill the next up heals what was
// lost; no line of a log is lost, torn or told twice, and no counter of a volume
// goes back. STORM_SEED and STORM_FAULTS choose; make storm runs it alone.
func TestStorm(t *testing.T) {
	if os.Getenv("VZCOMPOSE_COLD") != "" {
		t.Skip("what is killed is the same on machines that were booted")
	}
	faults, seed := stormNumber(t, "STORM_FAULTS", 30), stormNumber(t, "STORM_SEED", 1)
	s := scenario(t, stormStack)
	x := &storm{stack: s, rnd: rand.New(rand.NewPCG(uint64(seed), 0)), counted: map[string]int{}}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d, so far:\n%s", seed, strings.Join(x.did, "\n"))
			s.vz("exec", "counter", "sh", "-c", "ls -la /data; cat /data/n; mount | grep data").dump(t)
		}
	})
	s.must("up", "-d")
	for n := range faults {
		x.fault(n)
		if t.Failed() {
			t.FailNow()
		}
	}
	x.check()
	t.Logf("%d faults: %v; %d lines and %d counts were whole", faults, x.kinds(), x.lines, x.counts)
	s.must("down", "-v")
}

func stormNumber(t *testing.T, name string, usual int) int {
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s: it is a number", name, text)
	}
	return n
}

type storm struct {
	*stack
	rnd     *rand.Rand
	did     []string       // since the beginning, a line a fault
	counted map[string]int // faults by kind
	lines   int            // of logs that were checked
	counts  int            // of the volume's counter that were checked
	// The counter's numbers: the highest that was read, and the highest that an
	// instance before the present one had, which is of the time created.
	highest, floor int
	created        time.Time
}

func (x *storm) kinds() string {
	var words []string
	for _, k := range slices.Sorted(maps.Keys(x.counted)) {
		words = append(words, fmt.Sprintf("%s %d", k, x.counted[k]))
	}
	return strings.Join(words, ", ")
}

// fault is one kill, and what follows it.
func (x *storm) fault(n int) {
	x.t.Helper()
	kinds := []struct {
		name string
		do   func()
	}{
		{"shim", func() { x.kill(func(i shown) int { return i.PID }) }},
		{"machine", func() { x.kill(func(i shown) int { return x.machineOf(i.PID) }) }},
		{"switch", x.killSwitch},
		{"command", x.killCommand},
	}
	k := kinds[x.rnd.IntN(len(kinds))]
	x.counted[k.name]++
	x.did = append(x.did, fmt.Sprintf("%d: %s", n, k.name))
	k.do()
	x.must("ps")
	x.must("up", "-d")
	if got, want := x.states(), "counter-1=running idle-1=running talker-1=running"; got != want {
		x.t.Errorf("after up there is %s, want %s", got, want)
	}
}

// kill kills a process of a random instance that runs.
func (x *storm) kill(which func(shown) int) {
	all := x.instances()
	names := slices.Sorted(maps.Keys(all))
	if len(names) == 0 {
		return
	}
	i := all[names[x.rnd.IntN(len(names))]]
	pid := which(i)
	x.did = append(x.did, fmt.Sprintf("  of %s, which was %s: process %d", i.Name, i.State, pid))
	x.end(pid)
}

// end kills a process, if it is there, and waits until it is gone: what it held is
// free then.
func (x *storm) end(pid int) {
	if pid <= 1 || syscall.Kill(pid, syscall.SIGKILL) != nil {
		return // it has ended
	}
	x.eventually("the process is gone", func() bool { return !isThere(pid) })
}

// isThere reports whether a process has its files open: one that only waits to be
// reaped has none (proc(5), the state in stat).
func isThere(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, ok := strings.Cut(string(b), ") ")
	return err == nil && ok && !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X")
}

// machineOf returns the process below a shim, or 0.
func (x *storm) machineOf(shim int) int {
	var pid int
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", shim)) // the pattern is right
	for _, list := range lists {
		if b, err := os.ReadFile(list); err == nil && pid == 0 {
			_, _ = fmt.Sscan(string(b), &pid) // none: it has no machine now
		}
	}
	return pid
}

func (x *storm) killSwitch() {
	pid, err := filelock.Signed(store.Home{Dir: shared.home}.SwitchLock(x.name))
	if err == nil {
		x.end(pid)
	}
}

// killCommand kills a command that changes the stack, at a random moment.
func (x *storm) killCommand() {
	commands := [][]string{{"up", "-d"}, {"up", "-d", "--force-recreate"}, {"restart"}, {"stop"}, {"down"}, {"exec", "counter", "cat", "/data/n"}}
	args := commands[x.rnd.IntN(len(commands))]
	after := time.Duration(x.rnd.IntN(1500)) * time.Millisecond
	ctx, cancel := context.WithTimeout(context.Background(), after)
	defer cancel()
	x.did = append(x.did, fmt.Sprintf("  %s, killed after %s", strings.Join(args, " "), after))
	if args[0] == "down" || args[0] == "up" && len(args) > 2 {
		x.check() // its logs go
	}
	_ = x.command(ctx, args...).Run() // killed, or done before
}

// check reads the logs of all boots: the numbers of each follow each other, and
// those of the counter do over all boots and instances. The last line of a boot
// may be cut off by a kill, and is marked so.
func (x *storm) check() {
	x.t.Helper()
	if i, ok := x.instances()["counter-1"]; ok && !i.Created.Equal(x.created) {
		x.created, x.floor = i.Created, x.highest
	}
	volume := x.floor
	last, cut := map[string]int{}, map[string]bool{} // of an instance's boot
	for line := range strings.Lines(x.must("logs", "--json").out) {
		var r struct {
			Name, Line string
			Boot       int
			Partial    bool
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			x.t.Fatalf("logs: %v: %s", err, line)
		}
		key := fmt.Sprintf("%s, boot %d", r.Name, r.Boot)
		n, err := strconv.Atoi(r.Line)
		was, began := last[key]
		switch {
		case cut[key] || err != nil:
			x.t.Fatalf("%s: a torn line %q at %d", key, r.Line, was)
		case r.Partial:
			cut[key] = true
			continue
		case began && n != was+1:
			x.t.Fatalf("%s: %d after %d", key, n, was)
		case !began && r.Name == "counter-1" && n <= volume:
			x.t.Fatalf("%s begins with %d, and %d was on the volume", key, n, volume)
		}
		last[key] = n
		x.lines++
		if r.Name == "counter-1" {
			volume = max(volume, n)
			x.counts++
		}
	}
	x.highest = max(x.highest, volume)
}
