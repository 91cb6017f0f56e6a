package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/logs"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/vmm"
	"github.com/vzcompose/vzcompose/vmm/vmmfake"
)

// rig is a home with one instance, web-1 of the stack shop, and its shim.
type rig struct {
	t      *testing.T
	launch shimproto.Launch
	driver *vmmfake.Driver
	over   vmm.Driver         // what the shim gets in its place; nil: the driver itself
	stop   context.CancelFunc // as SIGTERM does
	ended  chan error         // of Run
	wanted func()             // called by a spare that has its order
	hold   *shimproto.Launch  // what a spare holds; nil: nothing
}

// newRig makes the instance; args are its process's.
func newRig(t *testing.T, o vmmfake.Options, args ...string) *rig {
	t.Helper()
	noneLeft(t)
	// A socket's path has 108 bytes.
	run, err := os.MkdirTemp("", "vz")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	home := store.Home{Dir: t.TempDir(), Runtime: filepath.Join(run, "r")}
	if err := os.MkdirAll(home.Instance("shop", "web-1"), 0o700); err != nil {
		t.Fatal(err)
	}
	file := func(path string) string {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file(home.Writable("shop", "web-1"))
	i := store.Instance{Stack: "shop", Container: "web", Name: "web-1", Index: 1, CPUs: 1, Memory: 64 << 20,
		Root: file(filepath.Join(home.Dir, "root")), StopSignal: agentproto.SIGTERM, StopTimeout: time.Minute,
		Runtime: &specs.Spec{Hostname: "web-1", Root: &specs.Root{Path: agentproto.RootPath},
			Process: &specs.Process{Args: args, Env: []string{"A=1", "B=2"}, Cwd: "/"}}}
	return &rig{t: t, driver: vmmfake.New(o), wanted: func() {}, launch: shimproto.Launch{Version: shimproto.LaunchVersion, Home: home, Instance: i,
		Kernel: file(filepath.Join(home.Dir, "kernel")), Initramfs: file(filepath.Join(home.Dir, "initramfs"))}}
}

// noneLeft fails the test if a goroutine of the shim is there at its end.
func noneLeft(t *testing.T) {
	t.Cleanup(func() {
		buf := make([]byte, 4<<20)
		var left []string
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); <-time.After(time.Millisecond) {
			left = nil
			for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
				ours := strings.Contains(g, "internal/shim.(") || strings.Contains(g, "internal/wire.(") || strings.Contains(g, "vmmfake.(")
				if ours && !strings.Contains(g, "testing.tRunner(") {
					left = append(left, g)
				}
			}
			if left == nil {
				return
			}
		}
		t.Errorf("%d goroutines are left:\n%s", len(left), strings.Join(left, "\n\n"))
	})
}

// run starts the shim and waits until it can be dialled.
func (r *rig) run() {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	r.ended = make(chan error, 1)
	ready := make(chan struct{})
	driver := vmm.Driver(r.driver)
	if r.over != nil {
		driver = r.over
	}
	go func() { r.ended <- Run(ctx, driver, r.launch, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-r.ended:
		r.t.Fatalf("the shim ended before it was ready: %v", err)
	}
	r.t.Cleanup(func() {
		cancel()
		r.end()
	})
}

// end waits for the shim's end, after which nothing of it may be there.
func (r *rig) end() {
	r.t.Helper()
	if r.ended == nil {
		return
	}
	if err := <-r.ended; err != nil {
		r.t.Errorf("the shim: %v", err)
	}
	r.ended = nil
	if _, err := os.Lstat(r.launch.Home.Runtime); !os.IsNotExist(err) {
		r.t.Errorf("the runtime folder is still there (%v)", err)
	}
	if alive, err := r.launch.Home.Alive("shop", "web-1"); alive || err != nil {
		r.t.Errorf("the lock is held: %v, %v", alive, err)
	}
	if ms := r.driver.Machines(); len(ms) > 0 {
		r.t.Errorf("%d machines are left", len(ms))
	}
}

// client dials the shim; what it is told comes on the channel.
func (r *rig) client() (*shimproto.Client, <-chan shimproto.Status) {
	r.t.Helper()
	news := make(chan shimproto.Status, 100)
	c, err := shimproto.Dial(r.t.Context(), r.launch.Home.Socket("shop", "web-1"), func(s shimproto.Status) { news <- s })
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return c, news
}

// until answers the first status in state.
func (r *rig) until(c *shimproto.Client, news <-chan shimproto.Status, state lifecycle.State) shimproto.Status {
	r.t.Helper()
	var last shimproto.Status
	for {
		select {
		case last = <-news:
		case <-c.Done():
			select { // what came before the end
			case last = <-news:
			default:
				r.t.Fatalf("the connection ended; the last news was %+v, not %s", last, state)
			}
		}
		if last.State == state {
			return last
		}
	}
}

// started runs the shim until the process runs.
func (r *rig) started() (*shimproto.Client, <-chan shimproto.Status, *vmmfake.Machine) {
	r.t.Helper()
	r.run()
	c, news := r.client()
	r.until(c, news, lifecycle.Started)
	return c, news, r.driver.Machine("shop-web-1")
}

func (r *rig) record() store.State {
	r.t.Helper()
	s, err := r.launch.Home.ReadState("shop", "web-1")
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// output answers what is in the log of a stream.
func (r *rig) output(stream string) string {
	r.t.Helper()
	l, err := logs.OpenReader(r.launch.Home.Log("shop", "web-1"), logs.ReadOptions{Tail: logs.All, Streams: []string{stream}})
	if err != nil {
		r.t.Fatal(err)
	}
	defer l.Close()
	var b strings.Builder
	for {
		rec, err := l.Next(r.t.Context())
		if err == io.EOF {
			return b.String()
		}
		if err != nil {
			r.t.Fatal(err)
		}
		b.Write(rec.Text)
		if !rec.Partial {
			b.WriteByte('\n')
		}
	}
}

// program is a fake program of the name "prog".
func program(fn vmmfake.Program) vmmfake.Options {
	return vmmfake.Options{Programs: map[string]vmmfake.Program{"prog": fn}}
}

func TestProcessThatEnds(t *testing.T) {
	for _, code := range []int{0, 3} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			begin := time.Now()
			goOn := make(chan struct{})
			r := newRig(t, program(func(context.Context, *vmmfake.Process) int { <-goOn; return code }), "prog")
			r.run()
			c, news := r.client()
			got := r.until(c, news, lifecycle.Started)
			if got.Started.Before(begin) || got.Boots != 1 || got.PID != os.Getpid() {
				t.Errorf("it started as %+v", got)
			}
			close(goOn)
			got = r.until(c, news, lifecycle.Stopped)
			if got.Exit == nil || got.Exit.Code != code || got.Exit.Requested || got.Cause != "" || got.Finished.Before(got.Started) {
				t.Errorf("the last notice is %+v (%+v)", got, got.Exit)
			}
			r.end()
			rec := r.record()
			if rec.State != lifecycle.Stopped || rec.Exit == nil || rec.Exit.Code != code || rec.Boots != 1 || len(rec.Phases) < 4 {
				t.Errorf("on record is %+v", rec)
			}
		})
	}
}

// A process that ends before its start is even answered was started and ended.
func TestProcessThatEndsAtOnce(t *testing.T) {
	for i := range 30 {
		r := newRig(t, vmmfake.Options{}, "true")
		r.run()
		r.end()
		if rec := r.record(); rec.State != lifecycle.Stopped || rec.Exit == nil || rec.Started.IsZero() {
			t.Fatalf("run %d: %+v", i, rec)
		}
	}
}

func TestSecondRunCountsItsBoot(t *testing.T) {
	r := newRig(t, vmmfake.Options{}, "exit", "2")
	for want := 1; want <= 2; want++ {
		r.run()
		r.end()
		if rec := r.record(); rec.Boots != want || rec.Exit.Code != 2 {
			t.Errorf("run %d: %+v", want, rec)
		}
	}
}

func TestLogIsWhole(t *testing.T) {
	const size = 20 << 20
	line := strings.Repeat("x", 1023) + "\n"
	r := newRig(t, program(func(_ context.Context, p *vmmfake.Process) int {
		for range size / len(line) {
			if _, err := io.WriteString(p.Stdout, line); err != nil {
				return 1
			}
		}
		_, _ = io.WriteString(p.Stderr, "last words")
		return 0
	}), "prog")
	r.run()
	r.end()
	if got := r.output("stdout"); len(got) != size || strings.Count(got, line) != size/len(line) {
		t.Errorf("%d bytes are in the log, not %d", len(got), size)
	}
	if got := r.output("stderr"); got != "last words" {
		t.Errorf("stderr has %q", got)
	}
}

func TestBootThatFails(t *testing.T) {
	for name, x := range map[string]struct {
		o     vmmfake.Options
		args  []string
		cause string
	}{
		"driver":     {vmmfake.Options{Boot: func(context.Context, *vmm.Config) error { return errors.New("no such accelerator") }}, []string{"true"}, "no such accelerator"},
		"machine":    {vmmfake.Options{Ready: func(context.Context, *vmmfake.Machine) error { return errors.New("no agent in it") }}, []string{"true"}, "no agent in it"},
		"panic":      {vmmfake.Options{Ready: panics}, []string{"true"}, "kernel panic: VFS: Unable to mount root"},
		"set-up":     {vmmfake.Options{Setup: func(context.Context, agentproto.Setup) error { return errors.New("bad disk") }}, []string{"true"}, "set up machine: bad disk"},
		"executable": {vmmfake.Options{}, []string{"/bin/nothing"}, `executable "/bin/nothing" is not there`},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, x.o, x.args...)
			r.run()
			r.end()
			rec := r.record()
			if rec.State != lifecycle.Errored || !strings.Contains(rec.Cause, x.cause) || rec.Exit != nil || rec.Finished.IsZero() {
				t.Errorf("on record is %+v, %+v", rec, rec.Exit)
			}
		})
	}
}

// panics is a kernel that panics; the guest waits for its end.
func panics(ctx context.Context, m *vmmfake.Machine) error {
	m.Panic("VFS: Unable to mount root")
	<-ctx.Done()
	return nil
}

func TestMachineThatIsLost(t *testing.T) {
	for name, x := range map[string]struct {
		lose  func(*vmmfake.Machine)
		cause string
	}{
		"crash":         {func(m *vmmfake.Machine) { m.Crash(errors.New("power supply on fire")) }, "power supply on fire"},
		"panic":         {func(m *vmmfake.Machine) { m.Panic("Attempted to kill init!") }, "kernel panic: Attempted to kill init!"},
		"without cause": {func(m *vmmfake.Machine) { _ = m.Kill() }, "the agent was lost"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, vmmfake.Options{}, "sleep", "infinity")
			console := r.launch.Home.Console("shop", "web-1")
			if err := os.WriteFile(console, []byte("Kernel panic - not syncing: of yesterday\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			c, news, m := r.started()
			x.lose(m)
			if got := r.until(c, news, lifecycle.Errored); !strings.Contains(got.Cause, x.cause) {
				t.Errorf("the last notice is %+v", got)
			}
			r.end()
			if rec := r.record(); rec.State != lifecycle.Errored || !strings.Contains(rec.Cause, x.cause) || strings.Contains(rec.Cause, "yesterday") {
				t.Errorf("on record is %+v", rec)
			}
		})
	}
}
