//go:build linux

package guest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// cgroup is a directory of the unified hierarchy
// (Documentation/admin-guide/cgroup-v2.rst).
type cgroup struct{ dir string }

// setting is one write to a file of a cgroup.
type setting struct{ file, value string }

// checkResources refuses what is not done.
func checkResources(r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	mem, cpu := r.Memory, r.CPU
	if err := refuse([]refusal{
		{r.BlockIO != nil, "blockIO"},
		{len(r.HugepageLimits) > 0, "hugepage limits"},
		{r.Network != nil, "network classes"},
		{len(r.Rdma) > 0, "rdma"},
		{mem != nil && (mem.KernelTCP != nil || mem.Swappiness != nil), "memory of tcp or swappiness"},
		{mem != nil && mem.DisableOOMKiller != nil && *mem.DisableOOMKiller, "a disabled OOM killer"},
		{cpu != nil && (cpu.RealtimePeriod != nil || cpu.RealtimeRuntime != nil), "realtime scheduling"},
	}); err != nil {
		return err
	}
	for file, v := range r.Unified {
		if !soundName(file) || !strings.Contains(file, ".") || strings.HasPrefix(file, "cgroup.") || len(v) > 4096 {
			return errs.New(errs.InvalidArgument, "unified resource %.64q", file)
		}
	}
	return nil
}

// settings makes writes of resources. pids is apart: it must not hold for the
// stage, which has threads.
func settings(r *specs.LinuxResources) (now []setting, pids string) {
	// One death in the container would leave it half alive.
	now = []setting{{"memory.oom.group", "1"}, {"memory.swap.max", "0"}}
	if r == nil {
		return now, ""
	}
	if m := r.Memory; m != nil {
		now = appendLimit(now, "memory.max", m.Limit)
		now = appendLimit(now, "memory.low", m.Reservation)
	}
	if c := r.CPU; c != nil {
		now = append(now, cpuSettings(c)...)
	}
	for _, file := range slices.Sorted(maps.Keys(r.Unified)) {
		now = append(now, setting{file, r.Unified[file]})
	}
	if p := r.Pids; p != nil && p.Limit != nil && *p.Limit > 0 {
		pids = strconv.FormatInt(*p.Limit, 10)
	}
	return now, pids
}

func appendLimit(to []setting, file string, limit *int64) []setting {
	switch {
	case limit == nil || *limit == 0:
		return to
	case *limit < 0:
		return append(to, setting{file, "max"})
	}
	return append(to, setting{file, strconv.FormatInt(*limit, 10)})
}

func cpuSettings(c *specs.LinuxCPU) (s []setting) {
	if c.Shares != nil && *c.Shares > 0 {
		// 2..262144 onto 1..10000, as every runtime does.
		w := 1 + (min(max(*c.Shares, 2), 262144)-2)*9999/262142
		s = append(s, setting{"cpu.weight", strconv.FormatUint(w, 10)})
	}
	if c.Quota != nil || c.Period != nil {
		quota, period := "max", uint64(100_000)
		if c.Quota != nil && *c.Quota > 0 {
			quota = strconv.FormatInt(*c.Quota, 10)
		}
		if c.Period != nil && *c.Period > 0 {
			period = *c.Period
		}
		s = append(s, setting{"cpu.max", fmt.Sprintf("%s %d", quota, period)})
	}
	if c.Burst != nil {
		s = append(s, setting{"cpu.max.burst", strconv.FormatUint(*c.Burst, 10)})
	}
	if c.Idle != nil {
		s = append(s, setting{"cpu.idle", strconv.FormatInt(*c.Idle, 10)})
	}
	if c.Cpus != "" {
		s = append(s, setting{"cpuset.cpus", c.Cpus})
	}
	if c.Mems != "" {
		s = append(s, setting{"cpuset.mems", c.Mems})
	}
	return s
}

// makeCgroup makes the cgroup name below root, in place of an empty one that is
// there, with every controller that the kernel has.
func makeCgroup(ctx context.Context, root, name string) (*cgroup, error) {
	if err := enableControllers(root); err != nil {
		return nil, err
	}
	g := &cgroup{dir: filepath.Join(root, name)}
	if err := g.remove(ctx); err != nil {
		return nil, err
	}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	return g, nil
}

// apply makes settings, or removes the cgroup, in which nothing is yet.
func (g *cgroup) apply(now []setting) error {
	for _, s := range now {
		err := g.write(s)
		if errors.Is(err, fs.ErrNotExist) && (s.file == "memory.oom.group" || s.file == "memory.swap.max") {
			continue // asked for by us; a kernel without swap has none to limit
		}
		if err != nil {
			_ = os.Remove(g.dir) // the write's error is the one to tell
			return err
		}
	}
	return nil
}

// enableControllers hands those of root's controllers down that limits need.
// It is done ahead of the first container: it is slow.
func enableControllers(root string) error {
	have, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return errs.New(errs.Unsupported, "read the cgroup controllers: %w", err)
	}
	control := filepath.Join(root, "cgroup.subtree_control")
	done, err := os.ReadFile(control)
	if err != nil {
		return fmt.Errorf("read the enabled cgroup controllers: %w", err)
	}
	for _, c := range strings.Fields("cpu cpuset io memory pids") {
		if slices.Contains(strings.Fields(string(have)), c) && !slices.Contains(strings.Fields(string(done)), c) {
			// One that cannot be handed down has no files below: setting one tells.
			_ = os.WriteFile(control, []byte("+"+c), 0)
		}
	}
	return nil
}

func (g *cgroup) write(s setting) error {
	f, err := os.OpenFile(filepath.Join(g.dir, s.file), os.O_WRONLY, 0) // never creates
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return errs.New(errs.Unsupported, "this kernel has no %s: %w", s.file, err)
		}
		return fmt.Errorf("set %s: %w", s.file, err)
	}
	defer func() { _ = f.Close() }() // the write told already
	if _, err := f.WriteString(s.value); err != nil {
		return errs.New(errs.InvalidArgument, "set %s to %q: %w", s.file, s.value, err)
	}
	return nil
}

// oomKills counts the processes that the memory limit has killed.
func (g *cgroup) oomKills() uint64 {
	b, err := os.ReadFile(filepath.Join(g.dir, "memory.events"))
	if err != nil {
		return 0 // no memory controller, no limit
	}
	n, _ := field(b, "oom_kill")
	return n
}

// populated says whether a process is in g or below.
func (g *cgroup) populated() bool {
	b, err := os.ReadFile(filepath.Join(g.dir, "cgroup.events"))
	if err != nil {
		return false
	}
	n, _ := field(b, "populated")
	return n != 0
}

// field finds "name number" in a flat-keyed file.
func field(b []byte, name string) (uint64, bool) {
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		if k, v, ok := strings.Cut(s.Text(), " "); ok && k == name {
			n, err := strconv.ParseUint(v, 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// kill sends sig to every process in g and below.
func (g *cgroup) kill(sig unix.Signal) error {
	if sig == unix.SIGKILL {
		err := g.write(setting{"cgroup.kill", "1"})
		if !errs.Is(err, errs.Unsupported) { // before Linux 5.14
			return err
		}
	}
	return filepath.WalkDir(g.dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil // it went away meanwhile
		}
		b, err := os.ReadFile(filepath.Join(p, "cgroup.procs"))
		if err != nil {
			return nil
		}
		for _, f := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 1 {
				_ = unix.Kill(pid, sig) // it may have ended meanwhile
			}
		}
		return nil
	})
}

// ofProcess answers the cgroup in g that pid is in now: the container may have
// moved its first process below g, and then g itself takes no process
// (cgroup-v2.rst, No Internal Process Constraint).
func (g *cgroup) ofProcess(pid int) *cgroup {
	b, err := readBounded(fmt.Sprintf("/proc/%d/cgroup", pid), 64<<10)
	if err != nil {
		return g // it has ended; joining says so
	}
	for line := range strings.Lines(string(b)) {
		if p, ok := strings.CutPrefix(line, "0::"); ok {
			_, sub, _ := strings.Cut(strings.TrimSpace(p)+"/", "/"+filepath.Base(g.dir)+"/")
			return &cgroup{dir: filepath.Join(g.dir, sub)}
		}
	}
	return g
}

// holds says whether pid is in g or below.
func (g *cgroup) holds(pid int) bool {
	b, err := readBounded(fmt.Sprintf("/proc/%d/cgroup", pid), 64<<10)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if p, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.Contains(strings.TrimSpace(p)+"/", "/"+filepath.Base(g.dir)+"/")
		}
	}
	return false
}

// remove removes g and what the container has made below it, once the dead are
// out. It kills nothing: one that is alive makes it fail.
func (g *cgroup) remove(ctx context.Context) error {
	for {
		err := removeTree(g.dir)
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		if err := g.awaitEmpty(ctx); err != nil {
			return fmt.Errorf("remove cgroup: %w", err)
		}
	}
}

// removeTree removes dir and the directories below it, deepest first.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

// awaitEmpty waits for the notice that g has no process. The kernel may lag
// behind it with a dead cgroup's references, hence the short pause.
func (g *cgroup) awaitEmpty(ctx context.Context) error {
	f, err := os.Open(filepath.Join(g.dir, "cgroup.events"))
	if err != nil {
		return nil // gone
	}
	defer func() { _ = f.Close() }()
	for g.populated() {
		if ctx.Err() != nil {
			return errs.New(errs.DeadlineExceeded, "processes are left in %s: %w", g.dir, context.Cause(ctx))
		}
		var b [128]byte
		_, _ = f.ReadAt(b[:], 0) // arms the poll
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}, 20)
	}
	select {
	case <-time.After(time.Millisecond):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
