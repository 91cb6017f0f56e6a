package seccomp

import (
	"fmt"
	"strings"
)

// Action is what becomes of a system call, as the kernel wants it said: the kind
// above, its data in the low 16 bits (include/uapi/linux/seccomp.h).
type Action uint32

// The kinds.
const (
	killProcess Action = 0x80000000
	killThread  Action = 0x00000000
	trap        Action = 0x00030000
	refuse      Action = 0x00050000 // the data is the errno
	trace       Action = 0x7ff00000
	logged      Action = 0x7ffc0000
	allow       Action = 0x7fff0000

	dataMask Action = 0xffff
)

// Errors that filters answer with; the numbers are those of both architectures
// (include/uapi/asm-generic/errno-base.h, errno.h).
const (
	eperm  = 1
	enosys = 38
)

// maxErrno is the highest that the kernel hands on (MAX_ERRNO).
const maxErrno = 4095

func (a Action) kind() Action { return a &^ dataMask }

// lets says whether the call is carried out, with nobody else asked.
func (a Action) lets() bool { return a.kind() == allow || a.kind() == logged }

// parseAction reads an action and the errno beside it; nil is the usual one.
func parseAction(name string, errno *uint32) (Action, error) {
	kind, highest := allow, uint32(0)
	switch name {
	case "SCMP_ACT_ALLOW":
	case "SCMP_ACT_LOG":
		kind = logged
	case "SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD":
		kind = killThread
	case "SCMP_ACT_KILL_PROCESS":
		kind = killProcess
	case "SCMP_ACT_TRAP":
		kind = trap
	case "SCMP_ACT_ERRNO":
		kind, highest = refuse|eperm, maxErrno
	case "SCMP_ACT_TRACE":
		kind, highest = trace|eperm, uint32(dataMask)
	case "SCMP_ACT_NOTIFY":
		return 0, fmt.Errorf("SCMP_ACT_NOTIFY asks a program on the host, which a machine has no way to")
	case "":
		return 0, fmt.Errorf("there is no action")
	default:
		return 0, fmt.Errorf("%s is not an action", quoted(name))
	}
	switch {
	case errno == nil:
		return kind, nil
	case highest == 0:
		return 0, fmt.Errorf("%s has no errno", name)
	case *errno > highest:
		return 0, fmt.Errorf("errno %d is above %d", *errno, highest)
	}
	return kind.kind() | Action(*errno), nil
}

// quoted is a text of a profile, cut.
func quoted(s string) string { return fmt.Sprintf("%q", cut(s)) }

func cut(s string) string {
	const longest = 80
	if len(s) > longest {
		s = strings.ToValidUTF8(s[:longest], "") + "…"
	}
	return s
}
