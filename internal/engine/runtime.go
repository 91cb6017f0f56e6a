package engine

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/image"
	"github.com/vzcompose/vzcompose/spec"
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// cpuPeriod is that of cpu.max, in microseconds (cgroup-v2.rst).
const cpuPeriod = 100_000

// openFiles is the limit of a process, as container engines set it.
const openFiles = 1 << 20

// runtimeSpec answers the OCI runtime-spec of an instance: the declaration over
// what the image says. sources are those of its mounts of disks and
// shares, by sourceKey, given the mounts of its files.
func runtimeSpec(c spec.Container, img image.Config, hostname string, sources map[string]string, given []specs.Mount) (*specs.Spec, error) {
	args := commandLine(c, img)
	if len(args) == 0 {
		return nil, errs.WithHint(errs.New(errs.InvalidArgument, "there is no command to run"),
			"give it a command: neither the stack file nor the image has one")
	}
	quota, period := int64(math.Round(c.CPUs*cpuPeriod)), uint64(cpuPeriod)
	memory := int64(c.Memory)
	user := userOf(first(c.User, img.User), c.GroupAdd)
	spec := &specs.Spec{
		Version:  specs.Version,
		Hostname: hostname,
		Root:     &specs.Root{Path: agentproto.RootPath, Readonly: c.ReadOnly},
		Process: &specs.Process{
			Args: args,
			Env:  environment(c, img),
			Cwd:  first(c.WorkingDir, img.WorkingDir, "/"),
			User: user,

			Capabilities:    capabilitySets(c, user),
			Terminal:        c.TTY,
			NoNewPrivileges: c.NoNewPrivileges,
			Rlimits:         rlimits(c.Ulimits),
		},
		Mounts: mounts(c, sources, given),
		Linux: &specs.Linux{
			Sysctl:      c.Sysctls,
			CgroupsPath: "/container/init",
			Resources: &specs.LinuxResources{
				CPU:    &specs.LinuxCPU{Quota: &quota, Period: &period},
				Memory: &specs.LinuxMemory{Limit: &memory},
			},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.CgroupNamespace}, {Type: specs.IPCNamespace}, {Type: specs.MountNamespace},
				{Type: specs.PIDNamespace}, {Type: specs.UTSNamespace},
			},
			MaskedPaths:   maskedPaths(),
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	if c.MaskedPaths != nil {
		spec.Linux.MaskedPaths = c.MaskedPaths
	}
	if c.ReadonlyPaths != nil {
		spec.Linux.ReadonlyPaths = c.ReadonlyPaths
	}
	if c.OOMScoreAdj != 0 {
		spec.Process.OOMScoreAdj = &c.OOMScoreAdj
	}
	if c.Privileged {
		spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = nil, nil
	}
	if c.TTY && !slices.ContainsFunc(spec.Process.Env, func(kv string) bool { return strings.HasPrefix(kv, "TERM=") }) {
		spec.Process.Env = append(spec.Process.Env, "TERM=xterm")
	}
	return spec, nil
}

// userOf answers what is known of a user before its container's files are looked
// at: uid:gid, and groups that are numbers. The agent looks all of it up.
func userOf(text string, groups []string) (u specs.User) {
	number := func(s string) (uint32, bool) {
		n, err := strconv.ParseUint(s, 10, 32)
		return uint32(n), err == nil
	}
	uid, gid, _ := strings.Cut(text, ":")
	if n, ok := number(uid); ok {
		u.UID = n
	}
	if n, ok := number(gid); ok {
		u.GID = n
	}
	for _, g := range groups {
		if n, ok := number(g); ok && n != u.GID && !slices.Contains(u.AdditionalGids, n) {
			u.AdditionalGids = append(u.AdditionalGids, n)
		}
	}
	return u
}

// capabilitySets claims for a user who is not root what the kernel leaves at the
// execve: only what a program may get back (capabilities(7)).
func capabilitySets(c spec.Container, u specs.User) *specs.LinuxCapabilities {
	caps := capabilitiesOf(c)
	if u.UID != 0 {
		return &specs.LinuxCapabilities{Bounding: caps}
	}
	return &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
}

// capabilitiesOf answers what is left of the default ones, and what is added.
// What is added by name holds against dropping all.
func capabilitiesOf(c spec.Container) []string {
	all := agentproto.Capabilities()
	if c.Privileged {
		return all
	}
	have := map[string]bool{}
	set := func(names []string, to bool) {
		for _, n := range names {
			have[n] = to
		}
	}
	set(defaultCapabilities(), true)
	if slices.Contains(c.CapAdd, "ALL") {
		set(all, true)
	}
	if slices.Contains(c.CapDrop, "ALL") {
		set(all, false)
	}
	set(c.CapAdd, true)
	set(c.CapDrop, false)
	return slices.DeleteFunc(all, func(n string) bool { return !have[n] })
}

// commandLine follows the image-spec: a declared entrypoint drops the image's
// command, a declared command replaces it.
func commandLine(c spec.Container, img image.Config) []string {
	entry, cmd := img.Entrypoint, img.Cmd
	if c.Entrypoint != nil {
		entry, cmd = c.Entrypoint, nil
	}
	if c.Command != nil {
		cmd = c.Command
	}
	return slices.Concat(entry, cmd)
}

// environment answers KEY=VALUE lines: the image's, then the declared ones
// sorted; the last of a name wins. An entry of the image without "=" takes the
// variable away, as engines have it.
func environment(c spec.Container, img image.Config) []string {
	env := []string{defaultPath}
	put := func(kv string) {
		name, _, set := strings.Cut(kv, "=")
		env = slices.DeleteFunc(env, func(old string) bool { return strings.HasPrefix(old, name+"=") })
		if set && name != "" {
			env = append(env, kv)
		}
	}
	for _, kv := range img.Env {
		put(kv)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Environment)) {
		put(name + "=" + c.Environment[name])
	}
	return env
}

// mounts answers the default mounts and the declared ones, parents first. A
// declared mount takes a default's place.
func mounts(c spec.Container, sources map[string]string, given []specs.Mount) []specs.Mount {
	var own []specs.Mount
	taken := map[string]bool{}
	for _, m := range c.Mounts {
		taken[m.Destination] = true
		own = append(own, mount(m, sources))
	}
	all := slices.DeleteFunc(defaultMounts(), func(m specs.Mount) bool { return taken[m.Destination] })
	for i, m := range all {
		if m.Destination == "/dev/shm" && c.ShmSize > 0 {
			all[i].Options = append(all[i].Options, "size="+strconv.FormatUint(c.ShmSize, 10)) // the last holds
		}
	}
	all = slices.Concat(all, own, given)
	slices.SortStableFunc(all, func(a, b specs.Mount) int { return depth(a.Destination) - depth(b.Destination) })
	return all
}

func depth(path string) int { return strings.Count(strings.Trim(path, "/"), "/") }

func mount(m spec.Mount, sources map[string]string) specs.Mount {
	out := specs.Mount{Type: m.Type, Source: m.Source, Destination: m.Destination, Options: m.Options}
	switch m.Type {
	case "volume":
		out.Type, out.Source = "bind", sources[sourceKey(m)]
		out.Options = append([]string{"rbind"}, slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "nocopy" })...)
	case "block":
		out.Type, out.Source = "bind", sources[sourceKey(m)]
		out.Options = append([]string{"rbind"}, m.Options...)
	case "bind":
		out.Source = sources[sourceKey(m)]
		out.Options = append([]string{"rbind"}, m.Options...)
	case "tmpfs":
		out.Source = "tmpfs"
		out.Options = append([]string{"nosuid", "nodev"}, m.Options...)
	}
	if out.Source == "" {
		out.Source = out.Type
	}
	return out
}

// defaultMounts are LinuxContainer's.
func defaultMounts() []specs.Mount {
	safe := []string{"nosuid", "noexec", "nodev"}
	with := func(more ...string) []string { return slices.Concat(safe, more) }
	return []specs.Mount{
		{Type: "proc", Source: "proc", Destination: "/proc"},
		{Type: "sysfs", Source: "sysfs", Destination: "/sys", Options: safe},
		{Type: "devtmpfs", Source: "none", Destination: "/dev", Options: []string{"nosuid", "mode=755"}},
		{Type: "mqueue", Source: "mqueue", Destination: "/dev/mqueue", Options: safe},
		{Type: "tmpfs", Source: "tmpfs", Destination: "/dev/shm", Options: with("mode=1777", "size=65536k")},
		{Type: "cgroup2", Source: "none", Destination: "/sys/fs/cgroup", Options: safe},
		{Type: "devpts", Source: "devpts", Destination: "/dev/pts",
			Options: []string{"nosuid", "noexec", "newinstance", "gid=5", "mode=0620", "ptmxmode=0666"}},
	}
}

// defaultCapabilities are the 14 that OCI runtimes leave to a container.
func defaultCapabilities() []string {
	return []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"}
}

func maskedPaths() []string {
	return []string{"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"}
}

func first(all ...string) string {
	for _, s := range all {
		if s != "" {
			return s
		}
	}
	return ""
}

// diskID names the disk of the nth volume.
func diskID(n int) string { return "vol" + strconv.Itoa(n) }
