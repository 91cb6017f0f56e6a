//go:build linux

package guest

import (
	"fmt"
	"strings"
	"syscall"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// capSets are a process's capability sets as bits (capabilities(7)).
type capSets struct {
	Bounding    uint64 `json:"bounding"`
	Effective   uint64 `json:"effective"`
	Permitted   uint64 `json:"permitted"`
	Inheritable uint64 `json:"inheritable"`
	Ambient     uint64 `json:"ambient"`
}

// capNames are the kernel's capabilities in the order of their numbers
// (include/uapi/linux/capability.h).
const capNames = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP " +
	"LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER " +
	"SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE " +
	"SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP " +
	"MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF " +
	"CHECKPOINT_RESTORE"

// parseCaps reads the sets of the runtime-spec. nil is no capability at all.
func parseCaps(c *specs.LinuxCapabilities) (capSets, error) {
	var s capSets
	if c == nil {
		return s, nil
	}
	numbers := map[string]int{}
	for i, n := range strings.Fields(capNames) {
		numbers["CAP_"+n] = i
	}
	for _, set := range []struct {
		names []string
		bits  *uint64
	}{
		{c.Bounding, &s.Bounding}, {c.Effective, &s.Effective}, {c.Permitted, &s.Permitted},
		{c.Inheritable, &s.Inheritable}, {c.Ambient, &s.Ambient},
	} {
		for _, n := range set.names {
			i, ok := numbers[strings.ToUpper(n)]
			if !ok {
				return capSets{}, errs.New(errs.InvalidArgument, "no capability %.64q", n)
			}
			*set.bits |= 1 << i
		}
	}
	return s, nil
}

// limitBounding drops what the bounding set lacks. It needs CAP_SETPCAP, so it
// comes before the user changes.
func (s capSets) limitBounding() error {
	for i := range uintptr(64) {
		held, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, i, 0, 0, 0)
		if err != nil {
			return nil // beyond the kernel's last
		}
		if held == 1 && s.Bounding&(1<<i) == 0 {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, i, 0, 0, 0); err != nil {
				return fmt.Errorf("drop capability %d: %w", i, err)
			}
		}
	}
	return nil
}

// known are the capabilities that this kernel has; newer ones are left out.
func known() (all uint64) {
	for i := range uintptr(64) {
		if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, i, 0, 0, 0); err != nil {
			break
		}
		all |= 1 << i
	}
	return all
}

// permitted are those that this process has.
func permitted() uint64 {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&hdr, &data[0]) != nil {
		return known() // to ask cannot fail; to have too much asked for tells
	}
	return uint64(data[1].Permitted)<<32 | uint64(data[0].Permitted)
}

// data are the sets as capset(2) takes them.
func (s capSets) data(known uint64) (data [2]unix.CapUserData) {
	for i := range data {
		shift := 32 * i
		data[i].Effective = uint32(s.Effective & known >> shift)
		data[i].Permitted = uint32(s.Permitted & known >> shift)
		data[i].Inheritable = uint32(s.Inheritable & known >> shift)
	}
	return data
}

// limitAll takes from every thread what this one must not have either.
func (s capSets) limitAll() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := s.data(known())
	_, _, e := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&data[0])), 0)
	if e != 0 {
		return fmt.Errorf("set capabilities of every thread: %w", e)
	}
	return nil
}

// apply sets the other sets of this thread, after the user has changed.
func (s capSets) apply() error {
	known := known()
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := s.data(known)
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	for i := range uintptr(64) {
		if s.Ambient&known&(1<<i) == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, i, 0, 0); err != nil {
			return fmt.Errorf("raise ambient capability %d: %w", i, err)
		}
	}
	return nil
}
