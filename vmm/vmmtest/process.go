package vmmtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/wire"
	"github.com/vzcompose/vzcompose/vmm"
)

// IDs of the disks.
const (
	rootID  = "root"
	upperID = "upper"
)

// box is one machine of the suite and the host's end of its agent.
type box struct {
	s           *suite
	dir         string // for its disks
	m           vmm.Machine
	consoleFile string
	agent       *agentproto.Client
	exits       chan agentproto.Exit
	next        int // of process IDs
	interfaces  []agentproto.Interface
}

func (s *suite) newBox(t *testing.T, name string) *box {
	b := &box{s: s, dir: t.TempDir(), exits: make(chan agentproto.Exit, 64)}
	t.Cleanup(func() {
		if b.m != nil {
			end(t, b.m)
		}
		if t.Failed() {
			if text, err := os.ReadFile(b.consoleFile); err == nil {
				t.Logf("console of %s: %s", name, text[max(0, len(text)-4096):])
			}
		}
	})
	return b
}

// boot makes the machine. The console's folder outlives the row.
func (b *box) boot(t *testing.T, cfg *vmm.Config) {
	t.Helper()
	b.bootAs(t, cfg, b.s.Origin)
}

// bootAs makes the machine, which comes to be as want says ("": it does not
// matter).
func (b *box) bootAs(t *testing.T, cfg *vmm.Config, want vmm.Origin) {
	t.Helper()
	cfg.Console = filepath.Join(b.dir, "console.log")
	b.consoleFile = cfg.Console
	m, err := b.s.Driver.Boot(b.s.limit(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.m = m
	if want != "" {
		if tr := m.(vmm.Tracer).Trace(); tr.Origin != want || len(tr.Notes) > 0 {
			t.Errorf("the machine was %s, want %s; notes: %q", tr.Origin, want, tr.Notes)
		}
	}
}

func (b *box) greet(t *testing.T) {
	t.Helper()
	ctx := b.s.limit(t)
	begin := time.Now()
	c, err := b.m.Dial(ctx, vmm.AgentPort)
	if err != nil {
		t.Fatal(err)
	}
	agent, err := agentproto.NewClient(ctx, c, agentproto.Notices{Exit: func(e agentproto.Exit) { b.exits <- e }})
	if err != nil {
		t.Fatal(err)
	}
	b.agent = agent
	t.Logf("agent %s answered after %s", agent.Build(), time.Since(begin).Round(time.Millisecond))
	if agent.Build() == "" {
		t.Error("the agent does not say its build")
	}
}

// setUp makes the machine that of a container that sleeps.
func (b *box) setUp(t *testing.T) {
	t.Helper()
	b.setUpRoot(t, b.interfaces)
	if _, err := b.agent.Start(b.s.limit(t), agentproto.Start{ID: agentproto.InitID, Spec: runtimeSpec("sleep", "100000")}); err != nil {
		t.Fatal(err)
	}
}

// setUpRoot gives the machine its root and its interfaces.
func (b *box) setUpRoot(t *testing.T, interfaces []agentproto.Interface) {
	t.Helper()
	ctx := b.s.limit(t)
	set := agentproto.Setup{Hostname: "suite", Time: time.Now(), Entropy: make([]byte, 64),
		Root: agentproto.Root{Lower: rootID}, Interfaces: interfaces}
	if b.s.Blank != "" {
		set.Root.Upper = upperID
	}
	if _, err := rand.Read(set.Entropy); err != nil {
		t.Fatal(err)
	}
	r, err := b.agent.Setup(ctx, set)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("kernel %s, phases %v", r.Kernel, r.Phases)
	if r.Kernel == "" {
		t.Error("the agent does not say its kernel")
	}
	if _, err := b.agent.Setup(ctx, set); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("a second set-up: got %v, want class failed precondition", err)
	}
}

// runtimeSpec is the least of a container.
func runtimeSpec(args ...string) *specs.Spec {
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: agentproto.RootPath},
		Process: process(args...),
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace},
			{Type: specs.UTSNamespace}, {Type: specs.CgroupNamespace},
		}},
	}
}

func process(args ...string) *specs.Process {
	caps := []string{"CAP_MKNOD", "CAP_DAC_OVERRIDE", "CAP_KILL"}
	return &specs.Process{
		Args: args, Cwd: "/", Env: []string{"PATH=/bin:/usr/bin:/sbin:/usr/sbin"},
		Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
	}
}

// start starts a process without streams in the container.
func (b *box) start(t *testing.T, id string, args ...string) {
	t.Helper()
	if _, err := b.agent.Start(b.s.limit(t), agentproto.Start{ID: id, Process: process(args...)}); err != nil {
		t.Fatal(err)
	}
}

// result is what came of a process.
type result struct {
	exit           agentproto.Exit
	stdout, stderr string
}

// run runs a process to its end, with in as its stdin (nil: none).
func (b *box) run(t *testing.T, in io.Reader, out io.Writer, args ...string) (r result, err error) {
	t.Helper()
	ctx := b.s.limit(t)
	b.next++
	id := fmt.Sprintf("p%d", b.next)
	p := agentproto.Start{ID: id, Process: process(args...), Stdout: rand.Text(), Stderr: rand.Text()}
	var stdout, stderr bytes.Buffer
	if out == nil {
		out = &stdout
	}
	var all sync.WaitGroup
	var mu sync.Mutex // guards err
	fail := func(what string, e error) {
		mu.Lock()
		defer mu.Unlock()
		if e != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", what, e))
		}
	}
	carry := func(name, token string, fn func(*wire.Stream) error) {
		s, serr := b.open(ctx, token)
		if serr != nil {
			fail(name, serr)
			return
		}
		stop := context.AfterFunc(ctx, func() { _ = s.Close() })
		all.Go(func() {
			defer stop()
			fail(name, fn(s))
			_ = s.Close()
		})
	}
	carry("stdout", p.Stdout, func(s *wire.Stream) error { _, err := io.Copy(out, s); return err })
	carry("stderr", p.Stderr, func(s *wire.Stream) error { _, err := io.Copy(&stderr, s); return err })
	if in != nil {
		p.Stdin = rand.Text()
		carry("stdin", p.Stdin, func(s *wire.Stream) error {
			if _, err := io.Copy(s, in); err != nil {
				return err
			}
			if err := s.CloseWrite(); err != nil {
				return err
			}
			_, _ = io.Copy(io.Discard, s) // until the other side has it all
			return nil
		})
	}
	if _, serr := b.agent.Start(ctx, p); serr != nil {
		return r, serr // the streams end with the box
	}
	r.exit, err = b.agent.Wait(ctx, id)
	if err != nil {
		return r, err
	}
	all.Wait()
	fail("release", b.agent.Release(ctx, id))
	fail("release again", b.agent.Release(ctx, id))
	r.stdout, r.stderr = stdout.String(), stderr.String()
	return r, err
}

func (b *box) open(ctx context.Context, token string) (*wire.Stream, error) {
	c, err := b.m.Dial(ctx, vmm.AgentPort)
	if err != nil {
		return nil, err
	}
	return agentproto.OpenStream(ctx, c, token)
}

// exitCodes also expects a notice of each end, in their order.
func (b *box) exitCodes(t *testing.T) {
	t.Helper()
	ctx := b.s.limit(t)
	for cmd, want := range map[string]int{"true": 0, "false": 1} {
		r, err := b.run(t, nil, nil, cmd)
		if err != nil || r.exit.Code != want || r.exit.Signal != 0 {
			t.Errorf("%s: %+v, %v; want code %d", cmd, r, err, want)
			continue
		}
		select {
		case e := <-b.exits:
			if e.ID != r.exit.ID || e.Code != want {
				t.Errorf("%s: noticed %+v", cmd, e)
			}
		case <-ctx.Done():
			t.Errorf("%s: no notice of its end", cmd)
		}
	}
}

func (b *box) echo(t *testing.T) {
	r, err := b.run(t, nil, nil, "echo", "two  words", "and\ttabs")
	if err != nil || r.exit.Code != 0 || r.stdout != "two  words and\ttabs\n" || r.stderr != "" {
		t.Errorf("got %+v, %v", r, err)
	}
}

func (b *box) unknownExecutable(t *testing.T) {
	_, err := b.run(t, nil, nil, "no-such-program", "x")
	if !errs.Is(err, errs.NotFound) || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("got %v, want class not found and the name", err)
	}
}

// readerGone aborts the stream of a process that writes without end: its next
// write ends it, as one to a pipe does that nobody reads.
func (b *box) readerGone(t *testing.T) {
	ctx := b.s.limit(t)
	const sigPipe = 13
	token := rand.Text()
	out, err := b.open(ctx, token)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.agent.Start(ctx, agentproto.Start{ID: "endless", Process: process("yes"), Stdout: token}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 100_000)); err != nil {
		t.Error(err)
	}
	if err := out.Abort(errs.New(errs.Canceled, "enough")); err != nil {
		t.Error(err)
	}
	e, err := b.agent.Wait(ctx, "endless")
	if err != nil || e.Signal != sigPipe || e.Code != 128+sigPipe {
		t.Errorf("it ended with %+v, %v; want signal %d", e, err, sigPipe)
	}
	if err := b.agent.Release(ctx, "endless"); err != nil {
		t.Error(err)
	}
}

func (b *box) signalled(t *testing.T) {
	ctx := b.s.limit(t)
	const term = 15
	b.start(t, "sleeper", "sleep", "1000")
	if err := b.agent.Signal(ctx, agentproto.Signal{ID: "sleeper", Signal: term}); err != nil {
		t.Fatal(err)
	}
	e, err := b.agent.Wait(ctx, "sleeper")
	if err != nil || e.Code != 128+term || e.Signal != term {
		t.Errorf("got %+v, %v", e, err)
	}
	if err := b.agent.Signal(ctx, agentproto.Signal{ID: "sleeper", Signal: term}); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("a signal after the end: got %v, want class failed precondition", err)
	}
}

// streamSize is what goes through cat and back, in bytes.
const streamSize = 16 << 20

func (b *box) stream(t *testing.T) {
	begin := time.Now()
	sent, got := sha256.New(), sha256.New()
	in := io.TeeReader(io.LimitReader(noise(), streamSize), sent)
	n := &counter{w: got}
	r, err := b.run(t, in, n, "cat")
	if err != nil || r.exit.Code != 0 || r.stderr != "" {
		t.Fatalf("got %+v, %v", r, err)
	}
	if n.n != streamSize || !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		t.Errorf("%d of %d bytes came back, or not the same", n.n, streamSize)
	}
	d := time.Since(begin)
	t.Logf("%d MiB there and back in %s: %.0f MB/s each way", streamSize>>20, d.Round(time.Millisecond),
		streamSize/1e6/d.Seconds())
}

// writeReadOnly finds the root's disk by its serial number, makes a node of it
// and writes. The shell's status says which step was the last.
func (b *box) writeReadOnly(t *testing.T) {
	if !b.s.Shell {
		t.Skip("the machine has no shell")
	}
	const script = `for d in /sys/block/vd*; do
  [ "$(cat $d/serial)" = ` + rootID + ` ] || continue
  IFS=: read major minor < $d/dev
  mknod /disk b $major $minor || exit 3
  dd if=/disk of=/dev/null bs=4096 count=1 || exit 4
  dd if=/dev/zero of=/disk bs=4096 count=1 conv=fsync && exit 5
  exit 0
done
exit 6`
	before := sum(t, b.s.Root)
	r, err := b.run(t, nil, nil, "sh", "-c", script)
	if err != nil || r.exit.Code != 0 {
		t.Errorf("got %+v, %v (3: no node, 4: not read, 5: written, 6: not found)", r, err)
	}
	if sum(t, b.s.Root) != before {
		t.Error("the disk has changed on the host")
	}
}
