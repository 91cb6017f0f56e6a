package seccomp

import (
	"slices"
	"strconv"
	"strings"
)

// arch is one that calls can come from. A machine's kernel takes calls of its own
// and, if it was built so, those of 32-bit programs.
type arch struct {
	name   string // as Go has it
	scmp   string // as profiles have it
	audit  uint32 // as the kernel says it (include/uapi/linux/audit.h)
	column int    // in numbers
	compat string // the name of the one for 32-bit programs
}

func arches() []arch {
	return []arch{
		{"amd64", "SCMP_ARCH_X86_64", 0xc000003e, 0, "386"},
		{"arm64", "SCMP_ARCH_AARCH64", 0xc00000b7, 1, "arm"},
		{"386", "SCMP_ARCH_X86", 0x40000003, 2, ""},
		{"arm", "SCMP_ARCH_ARM", 0x40000028, 3, ""},
	}
}

func archOf(name string) (arch, bool) {
	all := arches()
	i := slices.IndexFunc(all, func(a arch) bool { return a.name == name })
	if i < 0 {
		return arch{}, false
	}
	return all[i], true
}

// otherArches are architectures that profiles name and machines have not. X32 is
// among them: its calls are refused, since its numbers are not those of the
// others and few kernels have it.
const otherArches = "X32 MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE S390 S390X " +
	"PARISC PARISC64 RISCV64 LOONGARCH64 M68K SH SHEB"

func knownArch(scmp string) bool {
	return slices.ContainsFunc(arches(), func(a arch) bool { return a.scmp == scmp }) ||
		slices.Contains(strings.Fields(otherArches), strings.TrimPrefix(scmp, "SCMP_ARCH_"))
}

// x32Bit marks calls of x32 among those of amd64 (__X32_SYSCALL_BIT).
const x32Bit = 0x40000000

// privateCalls is where those begin that a 32-bit ARM kernel has for itself.
const privateCalls = 0xf0000

// table has the numbers of one architecture's calls.
func (a arch) table() map[string]uint32 {
	calls := make(map[string]uint32, 512)
	for line := range strings.Lines(numbers) {
		f := strings.Fields(line)
		if len(f) == 0 || f[a.column+1] == "-" {
			continue
		}
		n, err := strconv.ParseUint(f[a.column+1], 10, 32)
		if err == nil { // it is our own table
			calls[f[0]] = uint32(n)
		}
	}
	return calls
}

// Known reports whether some architecture has a call of the name.
func Known(call string) bool {
	return call != "" && !strings.ContainsAny(call, " \n") &&
		strings.Contains("\n"+numbers, "\n"+call+" ")
}
