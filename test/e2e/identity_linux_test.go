package e2e

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/vmm"
)

// identity is what must not be the same in two machines, or is told to each.
type identity struct {
	bootID, random, hostname, machineID string
	off                                 time.Duration // of the clock, at least; as far as can be told
}

// introduce is the container's process: it says who the machine is, and then for
// each line that it reads the time, in seconds and microseconds.
const introduce = `cat /proc/sys/kernel/random/boot_id
head -c 32 /dev/urandom | hexdump -v -e '1/1 "%02x"'; echo
hostname
cat /etc/machine-id 2>/dev/null || echo none
while read x; do adjtimex | grep time.tv_; done`

// clockTolerance is how far a machine's clock may be from the host's.
const clockTolerance = 50 * time.Millisecond

// Machines that were one when they were saved have nothing in common that should
// be theirs.
func TestRestoredMachinesAreNotTheSame(t *testing.T) {
	m := newMill(t, store.Home{Dir: shared.home}.Templates())
	const machines = 20
	seen := map[string]string{}
	var off time.Duration
	begin := time.Now()
	for i := range machines {
		name := fmt.Sprintf("machine-%d", i)
		id := m.meet(t, name)
		if id.hostname != name {
			t.Errorf("%s is called %q", name, id.hostname)
		}
		values := map[string]string{"boot_id": id.bootID, "random": id.random}
		if id.machineID != "none" {
			values["machine-id"] = id.machineID
		}
		for what, v := range values {
			if other := seen[what+v]; other != "" || len(v) < 32 {
				t.Errorf("%s of %s is %q, as that of %q", what, name, v, other)
			}
			seen[what+v] = name
		}
		off = max(off, id.off)
	}
	t.Logf("%d machines after %s; the clock that was off the most was by %s", machines,
		time.Since(begin).Round(time.Millisecond), off.Round(time.Millisecond))
}

// meet restores a machine, sets it up and asks who it is.
func (m mill) meet(t *testing.T, name string) (id identity) {
	t.Helper()
	machine, notes := m.boot(t, vmm.Restored)
	defer stop(t, machine)
	if len(notes) > 0 {
		t.Errorf("%s: notes %q", name, notes)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	in, out := introduced(ctx, machine, name)
	for _, field := range []*string{&id.bootID, &id.random, &id.hostname, &id.machineID} {
		*field = line(t, out)
	}
	for range 3 { // the first has code to translate
		before := time.Now()
		if _, err := io.WriteString(in, "\n"); err != nil {
			t.Fatal(err)
		}
		at := time.Unix(number(t, line(t, out)), 1000*number(t, line(t, out)))
		after := time.Now()
		off := max(before.Sub(at), at.Sub(after))
		id.off = max(id.off, off)
		if off > clockTolerance {
			t.Errorf("%s: the time is %s: %s before it was asked for, or %s after it was told", name, at, before.Sub(at), at.Sub(after))
		}
	}
	return id
}

// number is what stands after the colon.
func number(t *testing.T, text string) int64 {
	t.Helper()
	_, text, _ = strings.Cut(text, ":")
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// introduced runs introduce as the container of a machine that it sets up, and
// answers its streams, which end with ctx.
func introduced(ctx context.Context, machine vmm.Machine, name string) (io.Writer, *bufio.Reader) {
	agent := must(agentproto.NewClient(ctx, must(machine.Dial(ctx, vmm.AgentPort)), agentproto.Notices{}))
	set := agentproto.Setup{Hostname: name, Entropy: make([]byte, 64), Root: agentproto.Root{Lower: "root"}}
	must(rand.Read(set.Entropy))
	must(agent.Setup(ctx, set))
	start := agentproto.Start{ID: agentproto.InitID, Stdin: rand.Text(), Stdout: rand.Text(), Spec: &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: agentproto.RootPath},
		Process: &specs.Process{Args: []string{"sh", "-c", introduce}, Cwd: "/", Env: []string{"PATH=/bin:/usr/bin:/sbin:/usr/sbin"}},
		Mounts: []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}}},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace},
			{Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.CgroupNamespace}}},
	}}
	in := must(agentproto.OpenStream(ctx, must(machine.Dial(ctx, vmm.AgentPort)), start.Stdin))
	out := must(agentproto.OpenStream(ctx, must(machine.Dial(ctx, vmm.AgentPort)), start.Stdout))
	context.AfterFunc(ctx, func() { _, _ = in.Close(), out.Close() })
	must(agent.Start(ctx, start))
	return in, bufio.NewReader(out)
}

func line(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	text, err := r.ReadString('\n')
	if err != nil {
		t.Fatalf("after %q: %v", text, err)
	}
	return strings.TrimSpace(text)
}
