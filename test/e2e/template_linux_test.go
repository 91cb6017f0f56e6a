package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/agents"
	"github.com/vzcompose/vzcompose/internal/image"
	"github.com/vzcompose/vzcompose/internal/kernel"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/vmm"
	"github.com/vzcompose/vzcompose/vmm/qemu"
)

// mill is a driver, and a machine with busybox as its root to ask it for.
type mill struct {
	o   qemu.Options
	cfg vmm.Config
}

// newMill makes one whose templates are in dir.
func newMill(t *testing.T, dir string) mill {
	t.Helper()
	if shared.cache == "" {
		t.Skip("VZCOMPOSE_E2E is not set: no machines")
	}
	warmOnly(t)
	ctx := t.Context()
	home := store.Home{Dir: shared.home}
	images := must(image.Open(home.Images()))
	kernels := must(kernel.Open(home.Kernels()))
	k := must(kernels.Default(ctx, runtime.GOARCH))
	busybox := must(images.Find(ctx, "busybox", "linux/"+runtime.GOARCH))
	root := must(images.RootFS(ctx, busybox.Digest, func(image.Progress) {}))
	return mill{
		qemu.Options{Program: os.Getenv("VZCOMPOSE_QEMU"), Templates: dir},
		vmm.Config{Name: "suite-template", CPUs: 1, Memory: 256 << 20, Kernel: k.Image,
			Initramfs: must(kernels.Initramfs(ctx, k, must(agents.Binary(runtime.GOARCH)))),
			Disks:     []vmm.Disk{{ID: "root", Path: root, ReadOnly: true}}},
	}
}

// boot makes a machine that has to be of that origin, and ends it with the test.
// It answers what was noted.
func (m mill) boot(t *testing.T, want vmm.Origin) (vmm.Machine, []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	machine, err := qemu.New(m.o).Boot(ctx, &m.cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, machine) })
	tr := machine.(vmm.Tracer).Trace()
	if tr.Origin != want {
		t.Errorf("the machine was %s, want %s; notes: %q", tr.Origin, want, tr.Notes)
	}
	return machine, tr.Notes
}

// stop ends a machine; twice is fine.
func stop(t *testing.T, m vmm.Machine) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
	defer cancel()
	if err := m.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// sound boots another machine, which has to be restored without a word, and
// expects nothing but templates and their locks in the folder: so many.
func (m mill) sound(t *testing.T, templates int) {
	t.Helper()
	machine, notes := m.boot(t, vmm.Restored)
	stop(t, machine)
	if len(notes) > 0 {
		t.Errorf("notes: %q", notes)
	}
	all, err := qemu.New(m.o).Templates()
	if err != nil || len(all) != templates {
		t.Errorf("templates: %+v, %v; want %d", all, err, templates)
	}
	for _, d := range all {
		if d.Problem != "" {
			t.Errorf("template %s: %s", d.ID, d.Problem)
		}
	}
	for _, e := range must(os.ReadDir(m.o.Templates)) {
		if ext := filepath.Ext(e.Name()); ext != ".template" && ext != ".lock" {
			t.Errorf("left behind: %s", e.Name())
		}
	}
}

// starts is how often QEMU was started so far.
func starts() int {
	b, _ := os.ReadFile(shared.boots) // none: not at all
	return bytes.Count(b, []byte("\n"))
}

// templateParts are those of a template's file that the tests damage.
type templateParts struct {
	header        map[string]json.RawMessage
	ram, state    int64 // where there is data
	head, footer  int64 // where these begin
	stateLength   int64
	footerVersion int64 // its last byte
}

// number reads a field of the header.
func (p templateParts) number(field string) (n int64) {
	if err := json.Unmarshal(p.header[field], &n); err != nil {
		panic(err)
	}
	return n
}

// dissect reads a template as docs/template.md describes it.
func dissect(f *os.File) (p templateParts) {
	size := must(f.Stat()).Size()
	p.footer, p.footerVersion = size-16, size-1
	footer := make([]byte, 16)
	must(f.ReadAt(footer, p.footer))
	head := make([]byte, binary.LittleEndian.Uint32(footer))
	p.head = p.footer - int64(len(head))
	must(f.ReadAt(head, p.head))
	if err := json.Unmarshal(head, &p.header); err != nil {
		panic(err)
	}
	p.stateLength = p.number("state")
	p.state = p.head - p.stateLength
	first := make([]byte, 8)
	must(f.ReadAt(first, p.number("memory")))
	p.ram = int64(binary.LittleEndian.Uint64(first))
	return p
}

// flip changes a bit.
func flip(f *os.File, at int64) {
	b := make([]byte, 1)
	must(f.ReadAt(b, at))
	b[0] ^= 4
	must(f.WriteAt(b, at))
}

// forgeState puts noise in the place of the state, and makes the checksums right.
func forgeState(f *os.File, p templateParts) {
	table := crc32.MakeTable(crc32.Castagnoli)
	state := make([]byte, p.stateLength)
	must(rand.Read(state))
	must(f.WriteAt(state, p.state))
	p.header["stateCRC"] = fmt.Append(nil, crc32.Checksum(state, table))
	head := must(json.Marshal(p.header))
	end := binary.LittleEndian.AppendUint32(slices.Clone(head), uint32(len(head)))
	end = binary.LittleEndian.AppendUint32(end, crc32.Checksum(head, table))
	version := make([]byte, 8)
	must(f.ReadAt(version, p.footer+8))
	end = append(end, version...)
	must(f.WriteAt(end, p.head))
	if err := f.Truncate(p.head + int64(len(end))); err != nil {
		panic(err)
	}
}

// What is wrong with a template is told once, and mended by a new one.
func TestDamagedTemplatesAreMadeAnew(t *testing.T) {
	m := newMill(t, t.TempDir())
	d, err := qemu.New(m.o).Prewarm(t.Context(), &m.cfg)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(m.o.Templates, d.ID+".template")
	for _, c := range []struct {
		name, says string
		damage     func(f *os.File, p templateParts) error
	}{
		{"cut off", "template made anew: ", func(f *os.File, p templateParts) error { return f.Truncate(p.footer + 5) }},
		{"cut off in the RAM", "template made anew: ", func(f *os.File, p templateParts) error { return f.Truncate(p.state / 2) }},
		{"empty", "template made anew: ", func(f *os.File, _ templateParts) error { return f.Truncate(0) }},
		{"of another version", "template made anew: ", func(f *os.File, p templateParts) error { flip(f, p.footerVersion); return nil }},
		{"a bit of the RAM", "template thrown away: the checksum of the RAM", func(f *os.File, p templateParts) error { flip(f, p.ram+1234); return nil }},
		{"a bit of the state", "template thrown away: the state's checksum", func(f *os.File, p templateParts) error {
			flip(f, p.state+p.stateLength/2)
			return nil
		}},
		{"a state that is none", "template thrown away: qemu did not take the saved state", func(f *os.File, p templateParts) error { forgeState(f, p); return nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := must(os.OpenFile(path, os.O_RDWR, 0))
			defer f.Close()
			if err := c.damage(f, dissect(f)); err != nil {
				t.Fatal(err)
			}
			machine, notes := m.boot(t, vmm.Restored)
			stop(t, machine)
			t.Logf("%q", notes)
			if len(notes) != 1 || !strings.Contains(notes[0], c.says) || strings.Contains(notes[0], "\n") {
				t.Errorf("notes: %q, want one line with %q", notes, c.says)
			}
			m.sound(t, 1)
		})
	}
}

// Where no template can be kept, machines boot, and say so.
func TestWithoutAFolderMachinesBoot(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m := newMill(t, file)
	_, notes := m.boot(t, vmm.Booted)
	t.Logf("%q", notes)
	contains(t, "the notes", strings.Join(notes, "\n"), "no template: ", "not a directory", "booted, not restored")
}

// makerVar tells TestTheMakerThatIsKilled what it is to make.
const makerVar = "VZCOMPOSE_TEST_MAKER"

// The process that TestKilledMaker kills.
func TestTheMakerThatIsKilled(t *testing.T) {
	order := os.Getenv(makerVar)
	if order == "" {
		t.Skip("not the process that is to be killed")
	}
	var m mill
	m.o.Program = os.Getenv("VZCOMPOSE_QEMU")
	if err := json.Unmarshal([]byte(order), &[]any{&m.o.Templates, &m.cfg.CPUs, &m.cfg.Memory, &m.cfg.Kernel, &m.cfg.Initramfs}); err != nil {
		t.Fatal(err)
	}
	m.boot(t, vmm.Restored)
}

// maker starts a process that makes the mill's template.
func (m mill) maker(t *testing.T) *exec.Cmd {
	t.Helper()
	order := must(json.Marshal([]any{m.o.Templates, m.cfg.CPUs, m.cfg.Memory, m.cfg.Kernel, m.cfg.Initramfs}))
	cmd := exec.Command(os.Args[0], "-test.run", "^TestTheMakerThatIsKilled$", "-test.v")
	cmd.Env = slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "VZCOMPOSE_E2E=") })
	cmd.Env = append(cmd.Env, makerVar+"="+string(order))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = cmd.Process.Kill(), cmd.Wait() // it is over, one way or the other
		if t.Failed() {
			t.Logf("the maker says: %s", &out)
		}
	})
	return cmd
}

// Who makes a template may die at any time: its machine dies with it, who waits
// for the template makes it, and nothing is left.
func TestKilledMaker(t *testing.T) {
	t.Run("while the machine boots", func(t *testing.T) {
		m := newMill(t, t.TempDir())
		maker := m.maker(t)
		machine := machineOf(t, maker.Process.Pid)
		kill9(t, maker.Process.Pid)
		awaitEnd(t, machine)
		m.sound(t, 1)
	})
	t.Run("while another waits", func(t *testing.T) {
		m := newMill(t, t.TempDir())
		maker := m.maker(t)
		machine := machineOf(t, maker.Process.Pid)
		m.cfg.Progress = func(string) { kill9(t, maker.Process.Pid) } // it is told that it has to wait
		if _, notes := m.boot(t, vmm.Restored); len(notes) > 0 {
			t.Errorf("notes: %q", notes)
		}
		awaitEnd(t, machine)
		m.sound(t, 1)
	})
	t.Run("while the file is written", func(t *testing.T) {
		m := newMill(t, t.TempDir())
		draft := watch(t, m.o.Templates, ".new-")
		maker := m.maker(t)
		draft()
		kill9(t, maker.Process.Pid)
		_ = maker.Wait() // it was killed
		t.Logf("it leaves %v", must(os.ReadDir(m.o.Templates)))
		m.sound(t, 1)
	})
}

// machineOf waits until the process pid runs a QEMU for a template, and answers
// a descriptor of that.
func machineOf(t *testing.T, pid int) (pidfd int) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(patience)
	for {
		for _, path := range must(filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))) {
			b, _ := os.ReadFile(path) // none: the thread has ended
			for _, child := range strings.Fields(string(b)) {
				words, _ := os.ReadFile("/proc/" + child + "/cmdline") // likewise
				if bytes.Contains(words, []byte("vzcompose-template-")) {
					fd := must(unix.PidfdOpen(must(strconv.Atoi(child)), 0))
					t.Cleanup(func() { _ = unix.Close(fd) })
					return fd
				}
			}
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("no machine of process %d within %s", pid, patience)
		}
	}
}

// awaitEnd waits for the end of a process.
func awaitEnd(t *testing.T, pidfd int) {
	t.Helper()
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 30_000)
	for err == unix.EINTR {
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 30_000)
	}
	if n != 1 || err != nil {
		t.Errorf("the machine goes on without who made it (%v)", err)
	}
}

// watch answers what waits until a file is made in dir whose name has that in
// it, from now on.
func watch(t *testing.T, dir, name string) func() {
	t.Helper()
	fd := must(unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK))
	f := os.NewFile(uintptr(fd), "inotify")
	t.Cleanup(func() { _ = f.Close() })
	must(unix.InotifyAddWatch(fd, dir, unix.IN_CREATE))
	return func() {
		t.Helper()
		if err := f.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 4<<10)
		for !bytes.Contains(b, []byte(name)) {
			if _, err := f.Read(b); err != nil {
				t.Fatalf("await %s in %s: %v", name, dir, err)
			}
		}
	}
}

// Several who want the same template make it once.
func TestOneTemplateForAll(t *testing.T) {
	m := newMill(t, t.TempDir())
	const machines = 4
	before := starts()
	var all sync.WaitGroup
	for i := range machines {
		m := m
		m.cfg.Name = fmt.Sprintf("suite-template-%d", i)
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			machine, err := qemu.New(m.o).Boot(ctx, &m.cfg)
			if err != nil {
				t.Error(err)
				return
			}
			defer stop(t, machine)
			if tr := machine.(vmm.Tracer).Trace(); tr.Origin != vmm.Restored || len(tr.Notes) > 0 {
				t.Errorf("the machine was %s; notes: %q", tr.Origin, tr.Notes)
			}
		})
	}
	all.Wait()
	if got := starts() - before; got != machines+1 {
		t.Errorf("QEMU was started %d times, want %d", got, machines+1)
	}
	m.sound(t, 1)
}

// Another kernel, initramfs or QEMU is another machine: it has a template of its
// own, and the first one stays.
func TestAnotherMakeHasItsOwnTemplate(t *testing.T) {
	m := newMill(t, t.TempDir())
	first, err := qemu.New(m.o).Prewarm(t.Context(), &m.cfg)
	if err != nil {
		t.Fatal(err)
	}
	copied := func(path string) string {
		to := filepath.Join(t.TempDir(), filepath.Base(path))
		if err := os.WriteFile(to, must(os.ReadFile(path)), 0o700); err != nil {
			t.Fatal(err)
		}
		return to
	}
	for i, other := range []func(*mill){
		func(m *mill) { m.cfg.Initramfs = copied(m.cfg.Initramfs) },
		func(m *mill) { m.cfg.Kernel = copied(m.cfg.Kernel) },
		func(m *mill) {
			script := fmt.Sprintf("#!/bin/sh\nexec %q \"$@\" # another\n", m.o.Program)
			m.o.Program = filepath.Join(t.TempDir(), "qemu")
			if err := os.WriteFile(m.o.Program, []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
		},
	} {
		o := m
		other(&o)
		before := starts()
		o.sound(t, i+2)
		if got := starts() - before; got != 2 {
			t.Errorf("QEMU was started %d times, want 2", got)
		}
	}
	before := starts()
	m.sound(t, 4)
	again, err := qemu.New(m.o).Prewarm(t.Context(), &m.cfg)
	if err != nil || again.ID != first.ID || !again.Made.Equal(first.Made) || starts() != before+1 {
		t.Errorf("the first is %+v now, was %+v (%v)", again, first, err)
	}
}
