//go:build linux

package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm"
)

// monitor is QEMU's end of a conversation: it notes the commands, refuses those
// that it is told to, and says what it is told to say after one.
type monitor struct {
	c    *net.UnixConn
	said chan string // each command, with what it is about

	mu     sync.Mutex // guards the following
	refuse map[string]bool
	after  map[string]string // more lines after the answer to a command
	silent map[string]bool   // commands that are not answered
}

// monitored is a machine whose monitor is the answered one.
func monitored(t *testing.T, cfg *vmm.Config) (*machine, *monitor) {
	t.Helper()
	ours, theirs := monitorPair(t)
	q := &monitor{c: theirs, said: make(chan string, 100), refuse: map[string]bool{}, after: map[string]string{}, silent: map[string]bool{}}
	go q.serve(`{"QMP": {"version": {}, "capabilities": []}}`)
	port, guest := net.Pipe()
	m := newMachine(cfg, port, nil)
	var err error
	if m.qmp, err = dialQMP(t.Context(), ours, m.takeEvent); err != nil {
		t.Fatal(err)
	}
	close(m.monitored)
	t.Cleanup(func() {
		m.qmp.close()
		_ = m.port.Close()
		_ = guest.Close()
		_ = theirs.Close()
		m.closeCards()
	})
	if word := <-q.said; word != "qmp_capabilities" {
		t.Errorf("it begins with %q", word)
	}
	return m, q
}

func monitorPair(t *testing.T) (ours, theirs *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends []*net.UnixConn
	for _, fd := range fds {
		f := os.NewFile(uintptr(fd), "monitor")
		c, err := net.FileConn(f)
		_ = f.Close() // c has its own
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, c.(*net.UnixConn))
	}
	return ends[0], ends[1]
}

func (q *monitor) serve(greeting string) {
	_, _ = fmt.Fprintln(q.c, greeting)
	for lines := bufio.NewScanner(q.c); lines.Scan(); {
		var call struct {
			Execute   string         `json:"execute"`
			ID        uint64         `json:"id"`
			Arguments map[string]any `json:"arguments"`
		}
		if json.Unmarshal(lines.Bytes(), &call) != nil {
			return
		}
		word := call.Execute
		for _, key := range []string{"node-name", "id", "fdname"} {
			if about, ok := call.Arguments[key].(string); ok {
				word += " " + about
				break
			}
		}
		q.said <- word
		q.mu.Lock()
		answer := fmt.Sprintf(`{"return": {}, "id": %d}`, call.ID)
		if q.refuse[call.Execute] {
			answer = fmt.Sprintf(`{"error": {"class": "GenericError", "desc": "not %s"}, "id": %d}`, call.Execute, call.ID)
		}
		if q.silent[call.Execute] {
			answer = ""
		}
		_, _ = fmt.Fprint(q.c, answer+"\n"[:min(1, len(answer))]+q.after[call.Execute])
		q.mu.Unlock()
	}
}

func (q *monitor) set(table map[string]bool, command string, is bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	table[command] = is
}

// heard returns the commands since the last time.
func (q *monitor) heard() (all []string) {
	for {
		select {
		case word := <-q.said:
			all = append(all, word)
		default:
			return all
		}
	}
}

func (q *monitor) expect(t *testing.T, what string, want ...string) {
	t.Helper()
	if got := q.heard(); !slices.Equal(got, want) {
		t.Errorf("%s: it is told %q, want %q", what, got, want)
	}
}

func freePorts(m *machine) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, holder := range m.ports {
		if holder == "" {
			n++
		}
	}
	return n
}

// A disk is plugged in in two steps, and a failure of the second takes the first
// back.
func TestAttachDisk(t *testing.T) {
	m, q := monitored(t, &vmm.Config{Name: "m"})
	d := vmm.Disk{ID: "vol0", Path: "/v"}
	q.set(q.refuse, "device_add", true)
	if err := m.AttachDisk(t.Context(), d); !errs.Is(err, errs.FailedPrecondition) || !strings.Contains(err.Error(), "attach disk vol0: qmp device_add: not device_add") {
		t.Errorf("got %v", err)
	}
	q.expect(t, "a device that is refused", "blockdev-add disk-vol0", "device_add "+deviceName("vol0"), "blockdev-del disk-vol0")
	q.set(q.refuse, "blockdev-add", true)
	if err := m.AttachDisk(t.Context(), d); err == nil {
		t.Error("it is attached")
	}
	q.expect(t, "an image that is refused", "blockdev-add disk-vol0")
	if n := freePorts(m); n != rootPorts || len(m.disks) != 0 {
		t.Errorf("%d ports are free, disks %v", n, m.disks)
	}
	q.set(q.refuse, "device_add", false)
	q.set(q.refuse, "blockdev-add", false)
	for i := range rootPorts {
		if err := m.AttachDisk(t.Context(), vmm.Disk{ID: fmt.Sprint("vol", i), Path: "/v"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.AttachDisk(t.Context(), vmm.Disk{ID: "more", Path: "/v"}); !errs.Is(err, errs.ResourceExhausted) {
		t.Errorf("without a port: %v", err)
	}
	q.heard()

	// A disk is the machine's until the guest has let go of it.
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	go func() {
		for word := range q.said {
			if strings.HasPrefix(word, "device_del") {
				cancel(enough)
				return
			}
		}
	}()
	if err := m.DetachDisk(ctx, "vol0"); !errors.Is(err, enough) || freePorts(m) != 0 {
		t.Errorf("got %v, with %d free ports", err, freePorts(m))
	}
	q.mu.Lock()
	q.after["device_del"] = `{"event": "DEVICE_DELETED", "data": {"device": "` + deviceName("vol0") + `"}}` + "\n"
	q.mu.Unlock()
	if err := m.DetachDisk(t.Context(), "vol0"); err != nil || freePorts(m) != 1 {
		t.Errorf("got %v, with %d free ports", err, freePorts(m))
	}
	q.expect(t, "the guest lets go", "device_del "+deviceName("vol0"), "blockdev-del disk-vol0")
}

// Another image in a drive is a node of its own; one that is refused goes again,
// and the drive keeps what it has.
func TestSwapDisk(t *testing.T) {
	m, q := monitored(t, &vmm.Config{Name: "m", Disks: []vmm.Disk{{ID: "root", Path: "/one", ReadOnly: true}}})
	next := vmm.Disk{ID: "root", Path: "/two", ReadOnly: true}
	q.set(q.refuse, "qom-set", true)
	if err := m.swapDisk(t.Context(), next, m.disks["root"]); err == nil || m.disks["root"].path != "/one" {
		t.Errorf("got %v, and the drive has %s", err, m.disks["root"].path)
	}
	q.expect(t, "a drive that keeps its image", "blockdev-add disk-root.1", "qom-set", "blockdev-del disk-root.1")
	q.set(q.refuse, "qom-set", false)
	if err := m.swapDisk(t.Context(), next, m.disks["root"]); err != nil || m.disks["root"].path != "/two" {
		t.Errorf("got %v, and the drive has %s", err, m.disks["root"].path)
	}
	q.expect(t, "a drive with another image", "blockdev-add disk-root.1", "qom-set", "blockdev-del disk-root")
}

// A card is plugged in in three steps, each of which is taken back where one after
// it fails.
func TestAddCards(t *testing.T) {
	m, q := monitored(t, &vmm.Config{Name: "m"})
	for refused, want := range map[string][]string{
		"getfd":      {"getfd net0"},
		"netdev_add": {"getfd net0", "netdev_add net0"},
		"device_add": {"getfd net0", "netdev_add net0", "device_add card0", "netdev_del net0"},
	} {
		q.set(q.refuse, refused, true)
		if err := m.addCards(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "plug in network card 0") {
			t.Errorf("%s: got %v", refused, err)
		}
		q.expect(t, refused, want...)
		if n := freePorts(m); n != rootPorts || len(m.cards) != 0 {
			t.Errorf("%s: %d ports are free, with %d cards", refused, n, len(m.cards))
		}
		q.set(q.refuse, refused, false)
	}
	if err := m.addCards(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	if err := m.addCards(t.Context(), 1); err != nil || len(m.cards) != 2 {
		t.Errorf("%v, with %d cards", err, len(m.cards))
	}
	for i, want := range map[int]errs.Class{-1: errs.NotFound, 2: errs.NotFound} {
		if _, err := m.Frames(i); !errs.Is(err, want) {
			t.Errorf("card %d: %v", i, err)
		}
	}
	if f, err := m.Frames(1); err != nil || f == nil {
		t.Errorf("card 1: %v", err)
	}
}

func TestPauseAndResume(t *testing.T) {
	m, q := monitored(t, &vmm.Config{Name: "m"})
	for _, do := range []func(context.Context) error{m.Pause, m.Resume, m.Proceed} {
		if err := do(t.Context()); err != nil {
			t.Error(err)
		}
	}
	q.expect(t, "pause, resume and proceed", "stop", "cont", "cont")
	q.set(q.silent, "stop", true)
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	go func() { <-q.said; cancel(enough) }()
	if err := m.Pause(ctx); !errors.Is(err, enough) {
		t.Errorf("of a monitor that does not answer: %v", err)
	}
	_ = q.c.Close()
	if err := m.Pause(t.Context()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("of a monitor that is gone: %v", err)
	}
	early := &machine{monitored: make(chan struct{}), gone: make(chan struct{})}
	if err := early.Pause(ctx); !errors.Is(err, enough) {
		t.Errorf("of a machine without a monitor yet: %v", err)
	}
	close(early.gone)
	if err := early.Pause(t.Context()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("of a machine that is gone: %v", err)
	}
}

// A monitor that greets with something else, or not at all, is an error that says
// so; so is one that talks nonsense later.
func TestMonitorThatTalksNonsense(t *testing.T) {
	for name, x := range map[string]struct {
		line string
		want errs.Class
		word string
	}{
		"no JSON":  {"nonsense\n", errs.DataLoss, "decode qmp line"},
		"a goodby": {"", errs.Unavailable, "closed its monitor"},
		"too long": {strings.Repeat(" ", maxQMPLine+1), errs.Unavailable, "token too long"},
	} {
		ours, theirs := monitorPair(t)
		go func() {
			_, _ = theirs.Write([]byte(x.line))
			_ = theirs.CloseWrite()
		}()
		_, err := dialQMP(t.Context(), ours, func(qmpEvent) {})
		if !errs.Is(err, x.want) || !strings.Contains(err.Error(), x.word) || !strings.Contains(err.Error(), "await qmp greeting") {
			t.Errorf("%s: %v", name, err)
		}
		_ = ours.Close()
		_ = theirs.Close()
	}
	ours, theirs := monitorPair(t)
	defer theirs.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := dialQMP(ctx, ours, func(qmpEvent) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("one that says nothing: %v", err)
	}
}

// Of a call that was given up the answer may come late; those after it have their
// own.
func TestLateAnswer(t *testing.T) {
	m, q := monitored(t, &vmm.Config{Name: "m"})
	q.set(q.silent, "slow", true)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-q.said; cancel() }()
	if err := m.qmp.call(ctx, "slow", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	_, _ = fmt.Fprintln(q.c, `{"return": {"late": true}, "id": 2}`)
	var got struct{ Late bool }
	if err := m.qmp.call(t.Context(), "next", nil, &got); err != nil || got.Late {
		t.Errorf("got %+v, %v", got, err)
	}
	if err := m.qmp.call(t.Context(), "odd", func() {}, nil); !errs.Is(err, errs.Internal) {
		t.Errorf("what cannot be encoded: %v", err)
	}
}

// What a prepared machine is made of is in the name of its template; what only one
// instance has is not.
func TestPreparedKey(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, size int) string {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil { // another file would be another kernel
			return path
		}
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	p := &plant{qemu: filepath.Join(dir, "qemu"), host: host{accel: TCG, arch: "amd64"}}
	if err := os.WriteFile(p.qemu, []byte("#!/bin/sh\necho QEMU emulator version 7.2.0\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	config := func(change func(*vmm.Config)) *vmm.Config {
		cfg := &vmm.Config{Name: "m", CPUs: 1, Memory: 64 << 20, Kernel: file("kernel", 1), Initramfs: file("initramfs", 1), Prepared: "what",
			Disks: []vmm.Disk{{ID: "root", Path: file("root", 1), ReadOnly: true}, {ID: "writable", Path: file("writable", 100)}}}
		change(cfg)
		return cfg
	}
	key := func(change func(*vmm.Config)) (string, error) { return p.preparedKey(t.Context(), config(change)) }
	base, err := key(func(*vmm.Config) {})
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		change func(*vmm.Config)
		same   bool
	}{
		"name":         {func(c *vmm.Config) { c.Name = "other" }, true},
		"console":      {func(c *vmm.Config) { c.Console = "/c" }, true},
		"its own disk": {func(c *vmm.Config) { c.Disks[1].Path = file("another", 100) }, true},
		"larger disk":  {func(c *vmm.Config) { c.Disks[1].Path = file("larger", 200) }, false},
		"image":        {func(c *vmm.Config) { c.Disks[0].Path = file("image", 1) }, false},
		"what":         {func(c *vmm.Config) { c.Prepared = "other" }, false},
		"memory":       {func(c *vmm.Config) { c.Memory *= 2 }, false},
	} {
		if k, err := key(x.change); err != nil || (k == base) != x.same {
			t.Errorf("%s: the same is %v, %v", name, k == base, err)
		}
	}
	if _, err := key(func(c *vmm.Config) { c.Disks[1].Path = filepath.Join(dir, "missing") }); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("a disk that is missing: %v", err)
	}
	for name, change := range map[string]func(*vmm.Config){
		"shares": func(c *vmm.Config) { c.Shares = []vmm.Share{{ID: "s"}} },
		"vsock":  func(c *vmm.Config) { c.Vsock = true },
		"cards":  func(c *vmm.Config) { c.Cards = 2 },
		"cold":   func(c *vmm.Config) { c.Cold = true },
		"nested": func(c *vmm.Config) { c.Nested = true },
	} {
		if err := preparable(config(change)); !errs.Is(err, errs.Unsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := preparable(config(func(c *vmm.Config) { c.Cards = 1 })); err != nil {
		t.Error(err)
	}
}
