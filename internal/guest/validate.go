//go:build linux

package guest

import (
	"maps"
	"math"
	"os"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/users"
)

// Bounds of a runtime-spec beyond those of a message.
const (
	maxMounts  = 1024
	maxPaths   = 1024 // masked, read-only, devices, sysctls: each
	maxArgs    = 64 << 10
	maxRlimits = 32
)

// refuse answers an error for the first of what is asked for and not done: a
// request is never ignored silently. Device rules of the cgroup are: the
// machine is the boundary, and it holds no device but the instance's own.
func refuse(things []refusal) error {
	for _, t := range things {
		if t.asked {
			return errs.New(errs.Unsupported, "%s in the runtime-spec", t.what)
		}
	}
	return nil
}

type refusal struct {
	asked bool
	what  string
}

// parseSpec makes orders of the container's runtime-spec. places answers what
// a source like "volume:ID" is in the machine.
func parseSpec(s *specs.Spec, root string, places func(string) (string, error)) (*orders, error) {
	if s.Process == nil || s.Linux == nil || s.Root == nil {
		return nil, errs.New(errs.InvalidArgument, "runtime-spec without process, linux or root")
	}
	if s.Root.Path != agentproto.RootPath {
		return nil, errs.New(errs.InvalidArgument, "root path %.200q is not %s", s.Root.Path, agentproto.RootPath)
	}
	if err := refuse([]refusal{
		{s.Hooks != nil, "hooks"},
		{s.Solaris != nil || s.Windows != nil || s.VM != nil || s.ZOS != nil || s.FreeBSD != nil, "another platform"},
	}); err != nil {
		return nil, err
	}
	c := &containerOrders{Root: root, ReadOnly: s.Root.Readonly, Hostname: s.Hostname, Domainname: s.Domainname}
	if len(c.Hostname) > 64 || len(c.Domainname) > 64 || !sound(c.Hostname+c.Domainname) {
		return nil, errs.New(errs.InvalidArgument, "host or domain name is over 64 bytes")
	}
	if err := c.parseMounts(s.Mounts, places); err != nil {
		return nil, err
	}
	if err := c.parseLinux(s.Linux); err != nil {
		return nil, err
	}
	p, err := parseProcess(s.Process)
	if err != nil {
		return nil, err
	}
	return &orders{Container: c, Process: p}, nil
}

func (c *containerOrders) parseMounts(ms []specs.Mount, places func(string) (string, error)) error {
	if len(ms) > maxMounts {
		return errs.New(errs.InvalidArgument, "runtime-spec with %d mounts", len(ms))
	}
	for _, m := range ms {
		o, err := parseMount(m, places)
		if err != nil {
			return err
		}
		c.Mounts = append(c.Mounts, o)
	}
	return nil
}

func (c *containerOrders) parseLinux(l *specs.Linux) error {
	if err := refuse([]refusal{
		{len(l.UIDMappings)+len(l.GIDMappings) > 0, "id mappings"},
		{len(l.NetDevices) > 0, "network devices"},
		{l.Seccomp != nil, "seccomp"},
		{l.MountLabel != "", "a mount label"},
		{l.IntelRdt != nil, "Intel RDT"},
		{l.MemoryPolicy != nil, "a memory policy"},
		{l.Personality != nil, "a personality"},
		{len(l.TimeOffsets) > 0, "time offsets"},
	}); err != nil {
		return err
	}
	if max(len(l.MaskedPaths), len(l.ReadonlyPaths), len(l.Devices), len(l.Sysctl)) > maxPaths {
		return errs.New(errs.InvalidArgument, "runtime-spec with more than %d paths of a kind", maxPaths)
	}
	for _, p := range slices.Concat(l.MaskedPaths, l.ReadonlyPaths) {
		if !absolute(p) {
			return errs.New(errs.InvalidArgument, "masked or read-only path %.200q is not absolute", p)
		}
	}
	c.Masked, c.ReadOnlyPaths, c.resources = l.MaskedPaths, l.ReadonlyPaths, l.Resources
	if err := checkResources(l.Resources); err != nil {
		return err
	}
	if err := c.parseNamespaces(l.Namespaces); err != nil {
		return err
	}
	if err := c.parseDevices(l.Devices); err != nil {
		return err
	}
	if err := c.parseSysctls(l.Sysctl); err != nil {
		return err
	}
	c.Propagation = unix.MS_REC | unix.MS_PRIVATE
	if l.RootfsPropagation != "" {
		p, ok := propagation(l.RootfsPropagation)
		if !ok || p&unix.MS_SHARED != 0 {
			return errs.New(errs.Unsupported, "root propagation %.64q", l.RootfsPropagation)
		}
		c.Propagation = p | unix.MS_REC
	}
	return nil
}

func (c *containerOrders) parseNamespaces(ns []specs.LinuxNamespace) error {
	var all uintptr
	for _, n := range ns {
		if n.Path != "" {
			return errs.New(errs.Unsupported, "%.64s namespace by path", n.Type)
		}
		switch n.Type {
		case specs.PIDNamespace:
			all |= unix.CLONE_NEWPID
		case specs.MountNamespace:
			all |= unix.CLONE_NEWNS
		case specs.IPCNamespace:
			all |= unix.CLONE_NEWIPC
		case specs.UTSNamespace:
			all |= unix.CLONE_NEWUTS
		case specs.CgroupNamespace:
			all |= unix.CLONE_NEWCGROUP
		default: // network and user, too: the machine is the boundary
			return errs.New(errs.Unsupported, "%.64q namespace", n.Type)
		}
	}
	const needed = unix.CLONE_NEWPID | unix.CLONE_NEWNS
	if all&needed != needed {
		return errs.New(errs.Unsupported, "container without a pid or mount namespace of its own")
	}
	if all&unix.CLONE_NEWUTS == 0 && (c.Hostname != "" || c.Domainname != "") {
		return errs.New(errs.InvalidArgument, "host name without a uts namespace")
	}
	c.Namespaces = all &^ unix.CLONE_NEWPID
	return nil
}

func (c *containerOrders) parseDevices(ds []specs.LinuxDevice) error {
	for _, d := range ds {
		o := deviceOrder{Path: d.Path, Mode: 0o666, Dev: unix.Mkdev(uint32(d.Major), uint32(d.Minor))}
		switch d.Type {
		case "c", "u":
			o.Mode |= unix.S_IFCHR
		case "b":
			o.Mode |= unix.S_IFBLK
		case "p":
			o.Mode |= unix.S_IFIFO
		default:
			return errs.New(errs.InvalidArgument, "device %.200q of the type %.64q", d.Path, d.Type)
		}
		if !absolute(d.Path) {
			return errs.New(errs.InvalidArgument, "device path %.200q is not absolute", d.Path)
		}
		if d.FileMode != nil {
			o.Mode = o.Mode&^0o7777 | uint32(*d.FileMode&os.ModePerm)
		}
		if d.UID != nil {
			o.UID = *d.UID
		}
		if d.GID != nil {
			o.GID = *d.GID
		}
		c.Devices = append(c.Devices, o)
	}
	return nil
}

func (c *containerOrders) parseSysctls(m map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(m)) {
		// sysctl(8): a name with slashes is a path, one with dots has them for slashes.
		p := key
		if !strings.Contains(p, "/") {
			p = strings.ReplaceAll(p, ".", "/")
		}
		if p == "" || path.IsAbs(p) || path.Clean(p) != p || strings.HasPrefix(p, "..") || !sound(p) || len(m[key]) > 4096 {
			return errs.New(errs.InvalidArgument, "sysctl %.200q", key)
		}
		c.Sysctls = append(c.Sysctls, sysctl{Path: p, Value: m[key]})
	}
	return nil
}

// parseProcess makes orders of a process of the runtime-spec.
func parseProcess(p *specs.Process) (processOrders, error) {
	o := processOrders{
		Args: p.Args, Env: p.Env, Cwd: p.Cwd, Umask: 0o022,
		Identity:        users.Identity{UID: p.User.UID, GID: p.User.GID, Groups: p.User.AdditionalGids},
		NoNewPrivileges: p.NoNewPrivileges,
		OOMScoreAdj:     p.OOMScoreAdj,
	}
	if err := refuse([]refusal{
		{p.ApparmorProfile != "" || p.SelinuxLabel != "", "a security label"},
		{p.Scheduler != nil || p.IOPriority != nil || p.ExecCPUAffinity != nil, "a scheduler or an affinity"},
		{p.User.Username != "", "a user name in process.user"},
	}); err != nil {
		return o, err
	}
	if p.Terminal {
		o.Terminal = &terminalOrder{}
		if b := p.ConsoleSize; b != nil {
			if b.Height > math.MaxUint16 || b.Width > math.MaxUint16 {
				return o, errs.New(errs.InvalidArgument, "terminal of %d by %d", b.Height, b.Width)
			}
			o.Terminal.Rows, o.Terminal.Cols = uint16(b.Height), uint16(b.Width)
		}
	}
	if p.User.Umask != nil {
		o.Umask = int(*p.User.Umask & 0o777)
	}
	if o.Cwd == "" {
		o.Cwd = "/"
	}
	if err := o.check(); err != nil {
		return o, err
	}
	var err error
	if o.Caps, err = parseCaps(p.Capabilities); err != nil {
		return o, err
	}
	o.Rlimits, err = parseRlimits(p.Rlimits)
	return o, err
}

func (o *processOrders) check() error {
	switch {
	case len(o.Args) == 0 || o.Args[0] == "":
		return errs.New(errs.InvalidArgument, "process without a command")
	case len(o.Args)+len(o.Env) > maxArgs:
		return errs.New(errs.InvalidArgument, "process with %d arguments and variables", len(o.Args)+len(o.Env))
	case !absolute(o.Cwd):
		return errs.New(errs.InvalidArgument, "working directory %.200q is not absolute", o.Cwd)
	case len(o.Identity.Groups) > users.MaxGroups:
		return errs.New(errs.InvalidArgument, "process with %d groups", len(o.Identity.Groups))
	case o.OOMScoreAdj != nil && (*o.OOMScoreAdj < -1000 || *o.OOMScoreAdj > 1000):
		return errs.New(errs.InvalidArgument, "oom score adjustment of %d", *o.OOMScoreAdj)
	}
	for _, a := range o.Args {
		if strings.ContainsRune(a, 0) {
			return errs.New(errs.InvalidArgument, "argument with a zero byte")
		}
	}
	for _, e := range o.Env {
		if i := strings.IndexByte(e, '='); i < 1 || strings.ContainsRune(e, 0) {
			return errs.New(errs.InvalidArgument, "environment variable without a name, a value or with a zero byte")
		}
	}
	return nil
}

func parseRlimits(rs []specs.POSIXRlimit) ([]rlimit, error) {
	if len(rs) > maxRlimits {
		return nil, errs.New(errs.InvalidArgument, "process with %d limits", len(rs))
	}
	names := strings.Fields(rlimitNames)
	var out []rlimit
	for _, r := range rs {
		i := slices.Index(names, strings.TrimPrefix(r.Type, "RLIMIT_"))
		if i < 0 || !strings.HasPrefix(r.Type, "RLIMIT_") {
			return nil, errs.New(errs.InvalidArgument, "no limit %.64q", r.Type)
		}
		if r.Soft > r.Hard {
			return nil, errs.New(errs.InvalidArgument, "%s: soft limit %d is over the hard limit %d", r.Type, r.Soft, r.Hard)
		}
		out = append(out, rlimit{Resource: i, Soft: r.Soft, Hard: r.Hard})
	}
	return out, nil
}

func absolute(p string) bool { return strings.HasPrefix(p, "/") && sound(p) }
