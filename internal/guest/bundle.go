//go:build linux

package guest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// bundleVersion is the version of the runtime-spec that bundles are of: nothing
// in them is newer, and older runtimes take it.
const bundleVersion = "1.0.2"

// rlimitNames are the kernel's limits in the order of their numbers
// (include/uapi/asm-generic/resource.h).
const rlimitNames = "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME"

// bundleSpec is the config.json of a container for an OCI runtime, made new from
// what the host asked for and what came of its validation: sources are where the
// machine has them, the user is one of numbers. root and cgroup are as the
// runtime sees them.
func bundleSpec(asked *specs.Spec, o *orders, root, cgroup string) *specs.Spec {
	l, devices := asked.Linux, bundleDevices(o.Container.Devices)
	s := &specs.Spec{
		Version:    bundleVersion,
		Root:       &specs.Root{Path: root, Readonly: o.Container.ReadOnly},
		Hostname:   o.Container.Hostname,
		Domainname: o.Container.Domainname,
		Process:    bundleProcess(o.Process),
		Linux: &specs.Linux{
			CgroupsPath:       cgroup,
			Resources:         bundleResources(l.Resources, devices),
			Namespaces:        l.Namespaces,
			Devices:           devices,
			Sysctl:            l.Sysctl,
			MaskedPaths:       o.Container.Masked,
			ReadonlyPaths:     o.Container.ReadOnlyPaths,
			RootfsPropagation: l.RootfsPropagation,
		},
	}
	for i, m := range asked.Mounts {
		to := o.Container.Mounts[i]
		m := specs.Mount{Destination: to.Target, Type: m.Type, Source: to.Source, Options: m.Options}
		switch {
		case m.Type == "cgroup2":
			m.Type = "cgroup" // what the runtime-spec calls it, of either version
		case m.Type == "devtmpfs" && m.Destination == "/dev":
			// A runtime makes the default devices itself, and has the cgroup refuse
			// others: runc then cannot make its console where the machine's is.
			m.Type, m.Source, m.Options = "tmpfs", "tmpfs", []string{"nosuid", "strictatime", "mode=755", "size=65536k"}
		}
		s.Mounts = append(s.Mounts, m)
	}
	return s
}

// bundleDevices are the devices that the container has beside the default ones.
func bundleDevices(all []deviceOrder) (out []specs.LinuxDevice) {
	types := map[uint32]string{unix.S_IFCHR: "c", unix.S_IFBLK: "b", unix.S_IFIFO: "p"}
	for _, d := range all {
		mode := os.FileMode(d.Mode & 0o7777)
		out = append(out, specs.LinuxDevice{Path: d.Path, Type: types[d.Mode&unix.S_IFMT], Major: int64(unix.Major(d.Dev)), Minor: int64(unix.Minor(d.Dev)),
			FileMode: &mode, UID: &d.UID, GID: &d.GID})
	}
	return out
}

// bundleResources lets the container use its devices: what no rule allows a
// runtime's cgroup refuses.
func bundleResources(asked *specs.LinuxResources, devices []specs.LinuxDevice) *specs.LinuxResources {
	var r specs.LinuxResources
	if asked != nil {
		r = *asked
	}
	r.Devices = slices.Clone(r.Devices)
	for _, d := range devices {
		if d.Type != "p" {
			r.Devices = append(r.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: d.Type, Major: &d.Major, Minor: &d.Minor, Access: "rwm"})
		}
	}
	return &r
}

// bundleProcess is a process of the runtime-spec, whose user has been looked up.
func bundleProcess(o processOrders) *specs.Process {
	umask := uint32(o.Umask)
	p := &specs.Process{
		Args: o.Args, Env: o.Env, Cwd: o.Cwd,
		User:            specs.User{UID: o.Identity.UID, GID: o.Identity.GID, Umask: &umask, AdditionalGids: o.Identity.Groups},
		Capabilities:    o.Caps.spec(),
		NoNewPrivileges: o.NoNewPrivileges,
		OOMScoreAdj:     o.OOMScoreAdj,
	}
	names := strings.Fields(rlimitNames)
	for _, r := range o.Rlimits {
		p.Rlimits = append(p.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_" + names[r.Resource], Soft: r.Soft, Hard: r.Hard})
	}
	if t := o.Terminal; t != nil {
		p.Terminal = true
		p.ConsoleSize = &specs.Box{Height: uint(cmp.Or(t.Rows, 24)), Width: uint(cmp.Or(t.Cols, 80))}
	}
	return p
}

// spec names the capabilities, those that this kernel does not have left out.
func (s capSets) spec() *specs.LinuxCapabilities {
	known := known()
	names := func(bits uint64) (all []string) {
		for i, n := range strings.Fields(capNames) {
			if bits&known&(1<<i) != 0 {
				all = append(all, "CAP_"+n)
			}
		}
		return all
	}
	return &specs.LinuxCapabilities{Bounding: names(s.Bounding), Effective: names(s.Effective), Permitted: names(s.Permitted),
		Inheritable: names(s.Inheritable), Ambient: names(s.Ambient)}
}

// writeJSON writes v to a file that nobody has read yet.
func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return errs.New(errs.Internal, "encode %s: %w", filepath.Base(path), err)
	}
	return os.WriteFile(path, b, 0o600)
}

// viewOf are the mounts of the runtime's own view: the container's root is its
// root, with the machine's /proc, /sys and /dev, the folder dir of bundles, and
// the folders from which the container mounts.
func viewOf(root, dir string, sources []string) []mountOrder {
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	view := []mountOrder{
		{Source: "proc", Target: "/proc", Type: "proc", Flags: safe},
		{Source: "sysfs", Target: "/sys", Type: "sysfs", Flags: safe},
		{Source: "cgroup2", Target: cgroupDir, Type: "cgroup2", Flags: safe},
		{Source: "/dev", Target: "/dev", Flags: unix.MS_BIND | unix.MS_REC},
		{Source: "tmpfs", Target: "/run", Type: "tmpfs", Flags: unix.MS_NOSUID | unix.MS_NODEV, Data: "mode=0755"},
	}
	for _, s := range append([]string{dir}, sources...) {
		view = append(view, mountOrder{Source: s, Target: s, Flags: unix.MS_BIND | unix.MS_REC})
	}
	return append(view, mountOrder{Source: root, Target: filepath.Join(dir, bundleRoot), Flags: unix.MS_BIND})
}

// bundleRoot is the name of the root in a bundle.
const bundleRoot = "rootfs"

// parsePID reads what a runtime has written into its pid file.
func parsePID(b []byte) (int, error) {
	var pid int
	text := strings.TrimSpace(string(b))
	if _, err := fmt.Sscanf(text, "%d", &pid); err != nil || fmt.Sprint(pid) != text || pid < 2 {
		return 0, errs.New(errs.Internal, "the pid file says %.64q", text)
	}
	return pid, nil
}

// said makes one line of what a runtime has to say of its failure: the errors of
// its log, lines of JSON with level and msg, or else what it printed.
func said(log, printed []byte) string {
	var all []string
	for line := range strings.Lines(string(log)) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal([]byte(line), &entry) == nil && slices.Contains([]string{"error", "fatal", "panic"}, entry.Level) && entry.Msg != "" {
			all = append(all, entry.Msg)
		}
	}
	if len(all) == 0 {
		all = strings.Split(strings.TrimSpace(string(printed)), "\n")
	}
	text := strings.Join(slices.Compact(all), "; ")
	if len(text) > maxShown {
		text = "…" + text[len(text)-maxShown:]
	}
	return strings.TrimSpace(strings.ToValidUTF8(text, "?"))
}

// maxShown is how much of it is shown, in bytes: the end.
const maxShown = 1 << 10
