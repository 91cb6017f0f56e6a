//go:build linux

package guest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
)

// maxTop is how many processes are listed.
const maxTop = 4096

// Clock sets the machine's wall clock.
func (a *agent) Clock(_ context.Context, c agentproto.Clock) (agentproto.Empty, error) {
	if y := c.Time.Year(); y < 2000 || y > 2200 {
		return agentproto.Empty{}, errs.New(errs.InvalidArgument, "clock set to %v", c.Time)
	}
	ts := unix.NsecToTimespec(c.Time.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return agentproto.Empty{}, fmt.Errorf("set the clock: %w", err)
	}
	return agentproto.Empty{}, nil
}

// Stats measures the container. What the kernel does not count is 0.
func (a *agent) Stats(context.Context, agentproto.Empty) (agentproto.Stats, error) {
	c, err := a.running()
	if err != nil {
		return agentproto.Stats{}, err
	}
	g := c.cgroup
	mem, cpu, io := g.fields("memory.stat"), g.fields("cpu.stat"), g.ioTotals()
	s := agentproto.Stats{
		Processes: int(g.number("pids.current")), ProcessesLimit: g.number("pids.max"),
		Memory: g.number("memory.current"), MemoryCache: mem["file"], MemoryPeak: g.number("memory.peak"),
		MemoryLimit: g.number("memory.max"),
		CPU:         micros(cpu["usage_usec"]), CPUUser: micros(cpu["user_usec"]), CPUSystem: micros(cpu["system_usec"]),
		CPUThrottled: micros(cpu["throttled_usec"]), OOMKills: g.oomKills(),
		BlockRead: io["rbytes"], BlockWritten: io["wbytes"],
		Networks: netStats("/proc/net/dev"), At: time.Now(),
	}
	s.Memory -= min(s.Memory, mem["inactive_file"])
	if used, size, ok := writableSpace(); ok {
		s.WritableUsed, s.WritableSize = used, size
	}
	return s, nil
}

func micros(n uint64) time.Duration { return time.Duration(n) * time.Microsecond }

// number is a file of one number; 0 where it is not there, or says max.
func (g *cgroup) number(file string) uint64 {
	b, err := os.ReadFile(filepath.Join(g.dir, file))
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(string(bytes.TrimSpace(b)), 10, 64)
	return n
}

// fields are those of a flat keyed file (cgroup-v2.rst, "Interface Files").
func (g *cgroup) fields(file string) map[string]uint64 {
	b, err := os.ReadFile(filepath.Join(g.dir, file))
	if err != nil {
		return nil
	}
	all := map[string]uint64{}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			all[key], _ = strconv.ParseUint(value, 10, 64)
		}
	}
	return all
}

// ioTotals sums io.stat over the devices. Its disks are the machine's, so that
// what overlayfs and ext4 write is among it.
func (g *cgroup) ioTotals() map[string]uint64 {
	b, err := os.ReadFile(filepath.Join(g.dir, "io.stat"))
	if err != nil {
		return nil
	}
	sum := map[string]uint64{}
	for _, word := range strings.Fields(string(b)) {
		if key, value, ok := strings.Cut(word, "="); ok {
			n, _ := strconv.ParseUint(value, 10, 64)
			sum[key] += n
		}
	}
	return sum
}

// netStats reads proc(5)'s net/dev.
func netStats(file string) []agentproto.NetStats {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var all []agentproto.NetStats
	for line := range strings.Lines(string(b)) {
		name, rest, ok := strings.Cut(line, ":")
		f := strings.Fields(rest)
		if name = strings.TrimSpace(name); !ok || name == "lo" || len(f) < 10 {
			continue
		}
		n := func(i int) uint64 { v, _ := strconv.ParseUint(f[i], 10, 64); return v }
		all = append(all, agentproto.NetStats{Name: name, Received: n(0), ReceivedPackets: n(1), Sent: n(8), SentPackets: n(9)})
	}
	return all
}

// writableSpace answers the bytes of the writable layer that are used, and all.
func writableSpace() (used, size uint64, ok bool) {
	var st unix.Statfs_t
	if unix.Statfs(upperDir, &st) != nil {
		return 0, 0, false
	}
	block := uint64(st.Bsize)
	return (st.Blocks - st.Bfree) * block, st.Blocks * block, true
}

// writableFull says whether the writable layer has no space or no inode left.
func writableFull() bool {
	var st unix.Statfs_t
	return unix.Statfs(upperDir, &st) == nil && st.Blocks > 0 && (st.Bavail == 0 || st.Files > 0 && st.Ffree == 0)
}

// Top lists the container's processes.
func (a *agent) Top(context.Context, agentproto.Empty) (agentproto.Top, error) {
	c, err := a.running()
	if err != nil {
		return agentproto.Top{}, err
	}
	var top agentproto.Top
	boot := bootTime()
	_ = filepath.WalkDir(c.cgroup.dir, func(dir string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return nil // it may have gone meanwhile
		}
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			return nil
		}
		for _, pid := range strings.Fields(string(b)) {
			if p, ok := topProcess(pid, boot); ok && len(top.Processes) < maxTop {
				top.Processes = append(top.Processes, p)
			}
		}
		return nil
	})
	return top, nil
}

// topProcess reads /proc of one process, which may end at any moment.
func topProcess(pid string, boot time.Time) (p agentproto.TopProcess, ok bool) {
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return p, false
	}
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return p, false
	}
	name := ""
	for s := bufio.NewScanner(bytes.NewReader(status)); s.Scan(); {
		key, value, _ := strings.Cut(s.Text(), ":")
		f := strings.Fields(value)
		if len(f) == 0 {
			continue
		}
		last := func() int { n, _ := strconv.Atoi(f[len(f)-1]); return n }
		switch key {
		case "Name":
			name = f[0]
		case "NSpid":
			p.PID = last()
		case "PPid":
			p.PPID = inContainer(f[0])
		case "State":
			p.State = f[0]
		case "Uid":
			n, _ := strconv.ParseUint(f[0], 10, 32)
			p.UID = uint32(n)
		case "VmRSS":
			n, _ := strconv.ParseUint(f[0], 10, 64)
			p.RSS = n << 10
		}
	}
	// Its name may have anything in it: the fields begin after the last ")".
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(f) < 20 {
		return p, false
	}
	ticks := func(i int) time.Duration {
		n, _ := strconv.ParseUint(f[i], 10, 64)
		return time.Duration(n) * (time.Second / userHZ)
	}
	p.CPU = ticks(11) + ticks(12)
	p.Started = boot.Add(ticks(19))
	p.Command = commandOf(pid, name)
	return p, true
}

// userHZ is what the kernel counts times to user space in, on every
// architecture that is of concern here (USER_HZ).
const userHZ = 100

// inContainer is the number by which the container knows a process.
func inContainer(pid string) int {
	b, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "NSpid:"); ok {
			if f := strings.Fields(rest); len(f) > 1 {
				n, _ := strconv.Atoi(f[len(f)-1])
				return n
			}
		}
	}
	return 0
}

// maxCommand bounds a command line, in bytes.
const maxCommand = 4 << 10

func commandOf(pid, name string) string {
	f, err := os.Open("/proc/" + pid + "/cmdline")
	if err != nil {
		return "[" + name + "]"
	}
	defer func() { _ = f.Close() }() // only read
	b := make([]byte, maxCommand)
	n, _ := f.Read(b)
	if n == 0 {
		return "[" + name + "]"
	}
	return strings.ToValidUTF8(strings.TrimSpace(strings.ReplaceAll(string(b[:n]), "\x00", " ")), "?")
}

// bootTime is when the machine's clock of processes was 0.
func bootTime() time.Time {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(ts.Nano()))
}
