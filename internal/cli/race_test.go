package cli

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/store"
)

var (
	raceRounds = flag.Int("races", 60, "rounds of TestRaces")
	raceSeed   = flag.Uint64("seed", 1, "seed of TestRaces")
)

// raceStack has an order, a replica and a volume.
const raceStack = `
name: race
defaults: {image: base, pull: never, interfaces: []}
containers:
  db: {mounts: [{type: volume, source: data, destination: /data}]}
  web: {depends_on: [db]}
volumes: {data: {}}
`

// racing are the commands that meet. Each succeeds, whatever the others do at the
// same time: those that change a stack take turns.
var racing = [][]string{
	{"up", "-d"}, {"up", "-d"}, {"up", "-d", "--force-recreate"}, {"up", "-d", "--scale", "web=2"}, {"up", "-d", "--wait"},
	{"down", "-t", "0"}, {"down", "-t", "0"}, {"down", "-v", "-t", "0"},
	{"stop", "-t", "0"}, {"restart", "-t", "0"}, {"ps"}, {"ls"}, {"logs"}, {"volumes"}, {"plan"}, {"config"},
}

// TestRaces runs commands of one stack at the same time, in processes of their
// own, and kills them and shims at every step of up and down. After each round
// the next up and the next down do what they say, and a down leaves nothing.
func TestRaces(t *testing.T) {
	base, err := prepareHome(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	workers := runtime.NumCPU()
	for n := range workers {
		all.Go(func() {
			r := &racer{t: t, rnd: rand.New(rand.NewPCG(*raceSeed, uint64(n)))}
			if err := r.open(base); err != nil {
				t.Error(err)
				return
			}
			for round := n; round < *raceRounds && !t.Failed(); round += workers {
				r.round(round)
			}
			r.must("down", "-v", "-t", "0")
			r.nothingLeft("at the end")
		})
	}
	all.Wait()
}

// racer has a home of its own. What goes wrong is told with its round.
type racer struct {
	t    *testing.T
	rnd  *rand.Rand
	home store.Home
	dir  string
	said []string // of this round
}

func (r *racer) open(base string) error {
	r.dir = r.t.TempDir()
	home := filepath.Join(r.dir, "home")
	if err := errors.Join(os.CopyFS(home, os.DirFS(base)), os.WriteFile(filepath.Join(r.dir, "vzcompose.yaml"), []byte(raceStack), 0o600)); err != nil {
		return err
	}
	var err error
	r.home, err = store.Locate(func(name string) (string, bool) {
		if name == "VZCOMPOSE_HOME" {
			return home, true
		}
		return os.LookupEnv(name)
	})
	return err
}

// run runs a command, which is to end by itself, and returns its status: -1 where
// it was killed.
func (r *racer) run(env string, args ...string) (int, string) {
	cmd := exec.Command("vzcompose", args...)
	cmd.Dir, cmd.Env = r.dir, append(os.Environ(), "VZCOMPOSE_HOME="+r.home.Dir, env)
	late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	out, err := cmd.CombinedOutput()
	if !late.Stop() {
		return -2, fmt.Sprintf("%s did not end\n%s", strings.Join(args, " "), out)
	}
	return statusOf(err), fmt.Sprintf("%s %s: %v\n%s", env, strings.Join(args, " "), err, out)
}

// must runs a command that succeeds.
func (r *racer) must(args ...string) {
	code, said := r.run("A=b", args...)
	r.said = append(r.said, said)
	if code != 0 {
		r.t.Errorf("status %d of the last of\n%s", code, strings.Join(r.said, "\n"))
	}
}

func (r *racer) round(n int) {
	r.said = []string{fmt.Sprintf("round %d, seed %d", n, *raceSeed)}
	switch r.rnd.IntN(3) {
	case 0:
		r.race()
	case 1:
		r.kill()
	default:
		r.loseShim()
	}
	if r.rnd.IntN(2) == 0 {
		r.must("up", "-d")
		r.running()
		return
	}
	r.must("down", "-v", "-t", "0")
	r.nothingLeft(r.said[0])
}

// race runs two or three commands at once.
func (r *racer) race() {
	var all sync.WaitGroup
	n := 2 + r.rnd.IntN(2)
	codes, said := make([]int, n), make([]string, n)
	for i := range n {
		args := racing[r.rnd.IntN(len(racing))]
		all.Go(func() { codes[i], said[i] = r.run("A=b", args...) })
	}
	all.Wait()
	r.said = append(r.said, said...)
	for i, code := range codes {
		if code != 0 {
			r.t.Errorf("status %d of number %d of\n%s", code, i+1, strings.Join(r.said, "\n"))
		}
	}
}

// kill kills a command at one of its steps, and one that works on the stack at
// the same time need not care.
func (r *racer) kill() {
	changing := racing[r.rnd.IntN(10)]
	code, said := r.run(fmt.Sprintf("FAKE_DIE_AT=%d", 1+r.rnd.IntN(24)), changing...)
	r.said = append(r.said, said)
	if code != 0 && code != -1 {
		r.t.Errorf("status %d of\n%s", code, said)
	}
	r.must("ps")
}

// loseShim kills a shim while its machine starts: that up fails, or has begun
// nothing.
func (r *racer) loseShim() {
	die := filepath.Join(r.home.Dir, "fake", "die", []string{"boot", "ready"}[r.rnd.IntN(2)]+"-"+[]string{"web-1", "db-1"}[r.rnd.IntN(2)])
	if err := errors.Join(os.MkdirAll(filepath.Dir(die), 0o700), os.WriteFile(die, nil, 0o600)); err != nil {
		r.t.Error(err)
	}
	code, said := r.run("A=b", "up", "-d")
	r.said = append(r.said, said)
	died := errors.Is(os.Remove(die), os.ErrNotExist)
	if want := map[bool]int{true: 1, false: 0}[died]; code != want {
		r.t.Errorf("status %d, want %d, of\n%s", code, want, strings.Join(r.said, "\n"))
	}
}

// running checks that the stack is up.
func (r *racer) running() {
	_, out := r.run("A=b", "ps", "--format", "json")
	_, list, _ := strings.Cut(out, "\n")
	running := 0
	for line := range strings.Lines(list) {
		var i struct {
			State string `json:"state"`
		}
		if json.Unmarshal([]byte(line), &i) == nil && (i.State == "started" || i.State == "running") {
			running++
		}
	}
	if running != 2 && !strings.Contains(strings.Join(r.said, " "), "web=2") {
		r.t.Errorf("%d run after\n%s\n%s", running, strings.Join(r.said, "\n"), out)
	}
}

// nothingLeft checks that a down with its volumes has left nothing of the stack:
// no folder, no socket, and so no shim.
func (r *racer) nothingLeft(when string) {
	for _, dir := range []string{r.home.Stacks(), r.home.Runtime} {
		left, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) || len(left) > 0 {
			r.t.Errorf("%s: left in %s: %v, %v; after\n%s", when, dir, left, err, strings.Join(r.said, "\n"))
		}
	}
}
