//go:build linux

package guest

import (
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
)

// mountOrder is one mount of the container as the stage carries it out.
type mountOrder struct {
	Source string `json:"source,omitempty"`
	Target string `json:"target"` // absolute, clean, in the container
	Type   string `json:"type,omitempty"`
	Data   string `json:"data,omitempty"` // the filesystem's own options
	// Flags are those of mount(2), MS_BIND and MS_REC included.
	Flags uintptr `json:"flags,omitempty"`
	// Set and Clear are the attributes a bind mount gets (mount_setattr(2)),
	// SetRec and ClearRec those that the mounts below it get, too.
	Set      uint64 `json:"set,omitempty"`
	Clear    uint64 `json:"clear,omitempty"`
	SetRec   uint64 `json:"set_rec,omitempty"`
	ClearRec uint64 `json:"clear_rec,omitempty"`
	// Propagation is applied afterwards, in order.
	Propagation []uintptr `json:"propagation,omitempty"`
}

// attribute is an option that mount(2) knows as a flag and mount_setattr(2) as
// an attribute.
type attribute struct {
	flag  uintptr
	attr  uint64
	clear bool // the option takes it away
}

// attributes answers the options of mount(8) that concern one mount.
func attributes(name string) (attribute, bool) {
	switch name {
	case "ro":
		return attribute{unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY, false}, true
	case "rw":
		return attribute{unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY, true}, true
	case "nosuid":
		return attribute{unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID, false}, true
	case "suid":
		return attribute{unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID, true}, true
	case "nodev":
		return attribute{unix.MS_NODEV, unix.MOUNT_ATTR_NODEV, false}, true
	case "dev":
		return attribute{unix.MS_NODEV, unix.MOUNT_ATTR_NODEV, true}, true
	case "noexec":
		return attribute{unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC, false}, true
	case "exec":
		return attribute{unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC, true}, true
	case "nodiratime":
		return attribute{unix.MS_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME, false}, true
	case "diratime":
		return attribute{unix.MS_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME, true}, true
	case "nosymfollow":
		return attribute{unix.MS_NOSYMFOLLOW, unix.MOUNT_ATTR_NOSYMFOLLOW, false}, true
	case "symfollow":
		return attribute{unix.MS_NOSYMFOLLOW, unix.MOUNT_ATTR_NOSYMFOLLOW, true}, true
	}
	return attribute{}, false
}

// atime answers the options that choose one of the ways to keep access times.
func atime(name string) (flag uintptr, attr uint64, ok bool) {
	switch name {
	case "noatime":
		return unix.MS_NOATIME, unix.MOUNT_ATTR_NOATIME, true
	case "relatime", "norelatime", "atime", "nostrictatime":
		return unix.MS_RELATIME, unix.MOUNT_ATTR_RELATIME, true
	case "strictatime":
		return unix.MS_STRICTATIME, unix.MOUNT_ATTR_STRICTATIME, true
	}
	return 0, 0, false
}

// superblock answers the options that concern the whole filesystem.
func superblock(name string) (flag uintptr, clear, ok bool) {
	switch name {
	case "defaults":
		return 0, false, true
	case "sync":
		return unix.MS_SYNCHRONOUS, false, true
	case "async":
		return unix.MS_SYNCHRONOUS, true, true
	case "dirsync":
		return unix.MS_DIRSYNC, false, true
	case "mand":
		return unix.MS_MANDLOCK, false, true
	case "nomand":
		return unix.MS_MANDLOCK, true, true
	case "lazytime":
		return unix.MS_LAZYTIME, false, true
	case "nolazytime":
		return unix.MS_LAZYTIME, true, true
	case "iversion":
		return unix.MS_I_VERSION, false, true
	case "noiversion":
		return unix.MS_I_VERSION, true, true
	case "silent":
		return unix.MS_SILENT, false, true
	case "loud":
		return unix.MS_SILENT, true, true
	}
	return 0, false, false
}

func propagation(name string) (uintptr, bool) {
	rec := uintptr(0)
	if len(name) > 1 && name[0] == 'r' {
		rec, name = unix.MS_REC, name[1:]
	}
	switch name {
	case "private":
		return rec | unix.MS_PRIVATE, true
	case "shared":
		return rec | unix.MS_SHARED, true
	case "slave":
		return rec | unix.MS_SLAVE, true
	case "unbindable":
		return rec | unix.MS_UNBINDABLE, true
	}
	return 0, false
}

// Bounds of one mount. The kernel takes one page of data.
const (
	maxMountOptions = 256
	maxMountData    = 4000
	maxPath         = 4000
)

// parseMount makes the order of an OCI mount (runtime-spec, config.md, Mounts).
// places answers what a source like "volume:ID" is in the machine.
func parseMount(m specs.Mount, places func(source string) (string, error)) (mountOrder, error) {
	o := mountOrder{Source: m.Source, Target: path.Clean(m.Destination), Type: m.Type}
	switch {
	case !strings.HasPrefix(m.Destination, "/") || !sound(m.Destination):
		return o, errs.New(errs.InvalidArgument, "mount destination %.200q is not an absolute path", m.Destination)
	case o.Target == "/":
		return o, errs.New(errs.InvalidArgument, "mount on the container's root")
	case len(m.UIDMappings)+len(m.GIDMappings) > 0:
		return o, errs.New(errs.Unsupported, "mount on %s with id mappings", o.Target)
	case len(m.Options) > maxMountOptions:
		return o, errs.New(errs.InvalidArgument, "mount on %s with %d options", o.Target, len(m.Options))
	}
	if err := o.parseOptions(m.Options); err != nil {
		return o, err
	}
	if o.Type == "bind" || o.Type == "rbind" { // as a type it is common, too
		if o.Type == "rbind" {
			o.Flags |= unix.MS_REC
		}
		o.Flags |= unix.MS_BIND
	}
	if o.Flags&unix.MS_BIND != 0 {
		return o, o.finishBind(places)
	}
	return o, o.finishFilesystem()
}

func (o *mountOrder) parseOptions(options []string) error {
	var data []string
	for _, opt := range options {
		if !sound(opt) {
			return errs.New(errs.InvalidArgument, "mount on %s with the option %.200q", o.Target, opt)
		}
		if !o.parseOption(opt) {
			data = append(data, opt)
		}
	}
	o.Data = strings.Join(data, ",")
	if len(o.Data) > maxMountData {
		return errs.New(errs.InvalidArgument, "mount on %s with %d bytes of options", o.Target, len(o.Data))
	}
	return nil
}

// parseOption takes one option, or answers false: it is the filesystem's own.
func (o *mountOrder) parseOption(opt string) bool {
	switch opt {
	case "bind":
		o.Flags |= unix.MS_BIND
		return true
	case "rbind":
		o.Flags |= unix.MS_BIND | unix.MS_REC
		return true
	}
	if a, ok := attributes(opt); ok {
		o.Flags = assign(o.Flags, a.flag, a.clear)
		o.Set, o.Clear = assign(o.Set, a.attr, a.clear), assign(o.Clear, a.attr, !a.clear)
		return true
	}
	if flag, attr, ok := atime(opt); ok {
		o.Flags = o.Flags&^(unix.MS_NOATIME|unix.MS_RELATIME|unix.MS_STRICTATIME) | flag
		o.Set = o.Set&^unix.MOUNT_ATTR__ATIME | attr
		o.Clear |= unix.MOUNT_ATTR__ATIME
		return true
	}
	if flag, clear, ok := superblock(opt); ok {
		o.Flags = assign(o.Flags, flag, clear)
		return true
	}
	if p, ok := propagation(opt); ok {
		o.Propagation = append(o.Propagation, p)
		return true
	}
	return o.parseRecursive(opt)
}

// parseRecursive takes the options that the runtime-spec has for a bind mount
// with all below it: "rro", "rnosuid" and so on.
func (o *mountOrder) parseRecursive(opt string) bool {
	name, ok := strings.CutPrefix(opt, "r")
	if !ok {
		return false
	}
	if a, ok := attributes(name); ok {
		o.SetRec, o.ClearRec = assign(o.SetRec, a.attr, a.clear), assign(o.ClearRec, a.attr, !a.clear)
		return true
	}
	if _, attr, ok := atime(name); ok {
		o.SetRec = o.SetRec&^unix.MOUNT_ATTR__ATIME | attr
		o.ClearRec |= unix.MOUNT_ATTR__ATIME
		return true
	}
	return false
}

func assign[T uintptr | uint64](have, bits T, clear bool) T {
	if clear {
		return have &^ bits
	}
	return have | bits
}

func (o *mountOrder) finishBind(places func(string) (string, error)) error {
	if o.Data != "" {
		return errs.New(errs.InvalidArgument, "bind mount on %s with the option %q", o.Target, o.Data)
	}
	o.Type = ""
	o.Flags &= unix.MS_BIND | unix.MS_REC // the rest goes through Set and Clear
	for _, scheme := range []string{agentproto.VolumeScheme, agentproto.ShareScheme, agentproto.FileScheme} {
		if strings.HasPrefix(o.Source, scheme) {
			at, err := places(o.Source)
			if err != nil {
				return err
			}
			o.Source = at
			break
		}
	}
	if !strings.HasPrefix(o.Source, "/") || !sound(o.Source) {
		return errs.New(errs.InvalidArgument, "mount source %.200q is not an absolute path", o.Source)
	}
	return nil
}

func (o *mountOrder) finishFilesystem() error {
	if o.SetRec|o.ClearRec != 0 {
		return errs.New(errs.InvalidArgument, "mount on %s has a recursive option and is no bind mount", o.Target)
	}
	o.Set, o.Clear = 0, 0 // mount(2) has them as flags
	if o.Type == "cgroup" {
		o.Type = "cgroup2" // what every OCI configuration calls it; there is no other here
	}
	if o.Type == "" || !soundName(o.Type) {
		return errs.New(errs.InvalidArgument, "mount on %s of the type %.64q", o.Target, o.Type)
	}
	if o.Source == "" {
		o.Source = o.Type
	}
	if !sound(o.Source) {
		return errs.New(errs.InvalidArgument, "mount source %.200q", o.Source)
	}
	return nil
}

// sound says whether s may be handed to the kernel as a path or an option.
func sound(s string) bool {
	return len(s) <= maxPath && !strings.ContainsRune(s, 0)
}

// soundName says whether s is 1 to 64 of [A-Za-z0-9._-].
func soundName(s string) bool {
	if len(s) < 1 || len(s) > 64 {
		return false
	}
	for _, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !letter && (r < '0' || r > '9') && !strings.ContainsRune("._-", r) {
			return false
		}
	}
	return true
}
