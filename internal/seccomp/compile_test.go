package seccomp

import (
	"encoding/binary"
	"math/rand"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/bpf"
)

// call is one that a process makes.
type call struct {
	audit  uint32
	number uint32
	args   [arguments]uint64
}

// run answers what a filter does with calls, as the kernel would.
func (f *Filter) run(t testing.TB) func(call) Action {
	t.Helper()
	var raw []bpf.RawInstruction
	for p := f.Program; len(p) > 0; p = p[instructionSize:] {
		raw = append(raw, bpf.RawInstruction{Op: binary.LittleEndian.Uint16(p), Jt: p[2], Jf: p[3], K: binary.LittleEndian.Uint32(p[4:])})
	}
	accepted(t, raw)
	program, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("the program has instructions that are none")
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	return func(c call) Action {
		// The machine of the test reads words as networks have them.
		b := binary.BigEndian.AppendUint32(nil, c.number)
		b = binary.BigEndian.AppendUint32(b, c.audit)
		b = append(b, make([]byte, 8)...) // instruction_pointer
		for _, a := range c.args {
			high, low := half(a)
			b = binary.BigEndian.AppendUint32(b, low)
			b = binary.BigEndian.AppendUint32(b, high)
		}
		n, err := vm.Run(b)
		if err != nil {
			t.Fatal(err)
		}
		return Action(uint32(n))
	}
}

// accepted checks what the kernel does before it takes a program
// (kernel/seccomp.c, seccomp_check_filter; net/core/filter.c, bpf_check_classic).
func accepted(t testing.TB, raw []bpf.RawInstruction) {
	t.Helper()
	if len(raw) == 0 || len(raw) > MaxInstructions {
		t.Fatalf("%d instructions", len(raw))
	}
	for i, in := range raw {
		left := len(raw) - i - 1
		switch in.Op {
		case 0x20: // ld [k]
			if in.K >= 64 || in.K%4 != 0 {
				t.Fatalf("%d: load of %d", i, in.K)
			}
		case 0x05: // ja
			if int(in.K) >= left {
				t.Fatalf("%d: jump over %d of %d", i, in.K, left)
			}
		case 0x15, 0x25, 0x35: // jeq, jgt, jge
			if int(max(in.Jt, in.Jf)) >= left {
				t.Fatalf("%d: jump over %d and %d of %d", i, in.Jt, in.Jf, left)
			}
		case 0x54, 0x06: // and, ret
		default:
			t.Fatalf("%d: instruction %#x", i, in.Op)
		}
	}
	if raw[len(raw)-1].Op != 0x06 {
		t.Fatal("the program does not end with a return")
	}
}

func compiled(t testing.TB, p *Profile, to Target) func(call) Action {
	t.Helper()
	f, err := Compile(p, to)
	if err != nil {
		t.Fatal(err)
	}
	return f.run(t)
}

// made is a call by its name.
func made(t testing.TB, archName, name string, args ...uint64) call {
	t.Helper()
	a, _ := archOf(archName)
	n, ok := a.table()[name]
	if !ok {
		t.Fatalf("%s has no %s", archName, name)
	}
	c := call{audit: a.audit, number: n}
	copy(c.args[:], args)
	return c
}

const usualCaps = "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE"

func capsOf(names string) (all []string) {
	for n := range strings.FieldsSeq(names) {
		all = append(all, "CAP_"+n)
	}
	return all
}

func TestDefault(t *testing.T) {
	const denied, absent = refuse | eperm, refuse | enosys
	const garbage = 0xdead << 32 // which the kernel does not look at
	for _, c := range []struct {
		name string
		args []uint64
		want Action
		caps string // beside the usual
	}{
		{name: "read", want: allow}, {name: "execve", want: allow}, {name: "openat2", want: allow}, {name: "futex", want: allow},
		{name: "rt_sigreturn", want: allow}, {name: "mseal", want: allow}, {name: "seccomp", want: allow}, {name: "chroot", want: allow},
		{name: "ptrace", want: allow}, {name: "rseq", want: allow}, {name: "memfd_create", want: allow}, {name: "execveat", want: allow},

		{name: "mount", want: denied}, {name: "mount", want: allow, caps: "SYS_ADMIN"},
		{name: "umount2", want: denied}, {name: "fsopen", want: denied}, {name: "move_mount", want: denied}, {name: "pivot_root", want: denied},
		{name: "unshare", want: denied}, {name: "unshare", want: allow, caps: "SYS_ADMIN"}, {name: "setns", want: denied},
		{name: "sethostname", want: denied}, {name: "swapon", want: denied}, {name: "quotactl", want: denied},
		{name: "keyctl", want: denied}, {name: "keyctl", want: denied, caps: "SYS_ADMIN"}, {name: "add_key", want: denied}, {name: "request_key", want: denied},
		{name: "io_uring_setup", want: denied}, {name: "userfaultfd", want: denied},
		{name: "bpf", want: denied}, {name: "bpf", want: allow, caps: "BPF"}, {name: "bpf", want: allow, caps: "SYS_ADMIN"},
		{name: "perf_event_open", want: denied}, {name: "perf_event_open", want: allow, caps: "PERFMON"},
		{name: "reboot", want: denied}, {name: "reboot", want: allow, caps: "SYS_BOOT"}, {name: "kexec_load", want: denied},
		{name: "init_module", want: denied}, {name: "finit_module", want: allow, caps: "SYS_MODULE"},
		{name: "settimeofday", want: denied}, {name: "clock_settime", want: allow, caps: "SYS_TIME"}, {name: "adjtimex", want: allow},
		{name: "process_vm_readv", want: denied}, {name: "process_vm_readv", want: allow, caps: "SYS_PTRACE"},
		{name: "mbind", want: denied}, {name: "mbind", want: allow, caps: "SYS_NICE"},
		{name: "syslog", want: denied}, {name: "syslog", want: allow, caps: "SYSLOG"},
		{name: "acct", want: denied}, {name: "vhangup", want: denied}, {name: "open_by_handle_at", want: denied},

		{name: "clone", args: []uint64{0x3d0f00}, want: allow}, {name: "clone", args: []uint64{17}, want: allow},
		{name: "clone", args: []uint64{0x10000000}, want: denied}, {name: "clone", args: []uint64{0x20011}, want: denied},
		{name: "clone", args: []uint64{0x02000000}, want: denied}, {name: "clone", args: []uint64{0x20011}, want: allow, caps: "SYS_ADMIN"},
		{name: "clone3", want: absent}, {name: "clone3", want: allow, caps: "SYS_ADMIN"},

		{name: "personality", args: []uint64{0}, want: allow}, {name: "personality", args: []uint64{0xffffffff}, want: allow},
		{name: "personality", args: []uint64{8}, want: allow}, {name: "personality", args: []uint64{0x20008}, want: allow},
		{name: "personality", args: []uint64{0x40000}, want: denied}, {name: "personality", args: []uint64{garbage}, want: denied},

		{name: "socket", args: []uint64{1}, want: allow}, {name: "socket", args: []uint64{2}, want: allow}, {name: "socket", args: []uint64{16}, want: allow},
		{name: "socket", args: []uint64{40}, want: denied}, {name: "socket", args: []uint64{garbage | 40}, want: denied},
		{name: "socket", args: []uint64{40}, want: denied, caps: "SYS_ADMIN"}, {name: "socketpair", args: []uint64{40}, want: denied},
		{name: "socket", args: []uint64{garbage | 41}, want: allow}, {name: "socketpair", args: []uint64{1}, want: allow},
	} {
		for _, arch := range []string{"amd64", "arm64"} {
			of := compiled(t, Default(), Target{Arch: arch, Kernel: "6.1.0-13-cloud-" + arch, Caps: capsOf(usualCaps + " " + c.caps)})
			if got := of(made(t, arch, c.name, c.args...)); got != c.want {
				t.Errorf("%s: %s%#x with %q is %#x, want %#x", arch, c.name, c.args, c.caps, got, c.want)
			}
		}
	}
}

// Virtual sockets are for containers that have them. A profile of the user's says
// itself what it lets through.
func TestVsock(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		own, _ := archOf(arch)
		for _, with := range []bool{false, true} {
			want := refuse | eperm
			if with {
				want = allow
			}
			of := compiled(t, Default(), Target{Arch: arch, Vsock: with})
			for _, a := range []string{arch, own.compat} {
				if got := of(made(t, a, "socket", 40)); got != want {
					t.Errorf("%s on %s: %#x, want %#x", a, arch, got, want)
				}
				if got := of(made(t, a, "socket", 17)); got != allow {
					t.Errorf("%s on %s: another family is %#x", a, arch, got)
				}
			}
		}
		p, err := Decode([]byte(`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["socket"], "action": "SCMP_ACT_ERRNO"}]}`))
		if err != nil {
			t.Fatal(err)
		}
		if got := compiled(t, p, Target{Arch: arch, Vsock: true})(made(t, arch, "socket", 40)); got != refuse|eperm {
			t.Errorf("%s: a profile that refuses: %#x", arch, got)
		}
	}
}

func TestDefaultOfOtherNumbers(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		of := compiled(t, Default(), Target{Arch: arch})
		own, _ := archOf(arch)
		for name, c := range map[string]struct {
			call
			want Action
		}{
			"exit":       {made(t, own.compat, "exit"), allow},
			"mount":      {made(t, own.compat, "mount"), refuse | eperm},
			"vsock":      {made(t, own.compat, "socket", 40), refuse | eperm},
			"inet":       {made(t, own.compat, "socket", 2), allow},
			"clone3":     {made(t, own.compat, "clone3"), refuse | enosys},
			"what comes": {call{audit: made(t, own.compat, "exit").audit, number: 2000}, refuse | enosys},
		} {
			if got := of(c.call); got != c.want {
				t.Errorf("%s beside %s: %s is %#x, want %#x", own.compat, arch, name, got, c.want)
			}
		}
		for name, c := range map[string]call{
			"nonsense":                 {number: 1},
			"the other, by its number": {audit: map[string]uint32{"amd64": 0xc00000b7, "arm64": 0xc000003e}[arch], number: 1},
		} {
			if got := of(c); got != killProcess {
				t.Errorf("%s: %s is %#x", arch, name, got)
			}
		}
		for _, n := range []uint32{500, 2000, x32Bit, x32Bit | 1, 0xffffffff} {
			if got := of(call{audit: own.audit, number: n}); got != refuse|enosys {
				t.Errorf("%s: number %#x is %#x", arch, n, got)
			}
		}
	}
	of := compiled(t, Default(), Target{Arch: "amd64"})
	if got := of(made(t, "386", "socketcall")); got != refuse|eperm {
		t.Errorf("socketcall, whose arguments nobody sees, is %#x", got)
	}
	of = compiled(t, Default(), Target{Arch: "amd64", Kernel: "4.4.0"})
	if got := of(made(t, "amd64", "ptrace")); got != refuse|eperm {
		t.Errorf("ptrace on an old kernel is %#x", got)
	}
}

// The default names only calls that there are, and says something about all but
// those that nobody is to have.
func TestDefaultKnowsEveryCall(t *testing.T) {
	const nobodys = `_sysctl add_key afs_syscall bdflush break create_module ftime get_kernel_syms getpmsg gtty idle
		io_uring_enter io_uring_register io_uring_setup keyctl lock mpx nfsservctl pciconfig_iobase pciconfig_read
		pciconfig_write prof profil putpmsg query_module request_key security socketcall stty sysfs tuxcall ulimit uselib
		userfaultfd ustat vm86 vm86old vserver`
	named := strings.Fields(nobodys)
	for _, r := range Default().rules {
		for _, n := range r.calls {
			if !Known(n) {
				t.Errorf("no call %q", n)
			}
		}
		named = append(named, r.calls...)
	}
	for _, a := range arches() {
		for n := range a.table() {
			if !slices.Contains(named, n) {
				t.Errorf("%s has %s, about which nothing is decided", a.name, n)
			}
		}
	}
}

func TestDefaultIsShort(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		f, err := Compile(Default(), Target{Arch: arch})
		if err != nil || len(f.Program) > 600*instructionSize {
			t.Errorf("%s: %d instructions, %v", arch, len(f.Program)/instructionSize, err)
		}
	}
}

// meaning is what a profile says about a call, read from its rules one by one.
func (p *Profile) meaning(table map[string]uint32, to Target, kernel version, arch string, name string, number uint32, args [arguments]uint64) Action {
	if arch == "amd64" && number >= x32Bit {
		return refuse | enosys
	}
	newest, decided := uint32(0), false
	for _, r := range p.rules {
		for _, n := range r.calls {
			if table[n] < privateCalls {
				newest = max(newest, table[n])
			}
		}
	}
	for _, r := range p.rules {
		if len(r.args) == 0 && r.action == p.otherwise || name == "" || !slices.Contains(r.calls, name) ||
			!r.includes.all(to, kernel) || r.excludes.any(to, kernel) {
			continue
		}
		decided = true
		fits, either := 0, false
		for i, c := range r.args {
			v := args[c.index]
			if map[operator]bool{equal: v == c.value, notEqual: v != c.value, less: v < c.value, lessEqual: v <= c.value,
				greater: v > c.value, greaterEqual: v >= c.value, maskedEqual: v&c.value == c.two}[c.op] {
				fits++
			}
			either = either || slices.ContainsFunc(r.args[:i], func(o comparison) bool { return o.index == c.index })
		}
		if fits == len(r.args) || either && fits > 0 {
			return r.action
		}
	}
	if number > newest && !decided && !p.otherwise.lets() {
		return refuse | enosys
	}
	return p.otherwise
}

// Any profile's program means what its rules say, for both architectures and the
// 32-bit ones beside them.
func TestProgramsMeanWhatTheirRulesSay(t *testing.T) {
	rnd := rand.New(rand.NewSource(1))
	values := []uint64{0, 1, 2, 40, 0xff, 1 << 31, 1<<32 - 1, 1 << 32, 1<<32 + 1, 1<<63 - 1, 1 << 63, ^uint64(0), ^uint64(0) - 1, 0x28 << 32}
	actions := []Action{allow, allow, refuse | eperm, refuse | 7, logged, trap, killProcess, killThread, trace | 3}
	ops := []operator{equal, notEqual, less, lessEqual, greater, greaterEqual, maskedEqual}
	pick := func() uint64 { return values[rnd.Intn(len(values))] }
	checked := 0
	for range 150 {
		arch := []string{"amd64", "arm64"}[rnd.Intn(2)]
		own, _ := archOf(arch)
		tables := map[string]map[string]uint32{own.name: own.table()}
		p := &Profile{otherwise: actions[rnd.Intn(len(actions))], rules: []rule{{calls: []string{"execve"}, action: allow}}}
		if rnd.Intn(2) == 0 {
			compat, _ := archOf(own.compat)
			p.arches = []string{compat.name}
			tables[compat.name] = compat.table()
		}
		names := strings.Fields("read write mkdirat socket clone openat cacheflush set_tls mkdir personality stat mmap2 listns bogus")
		for range rnd.Intn(40) {
			r := rule{action: actions[rnd.Intn(len(actions))]}
			for range 1 + rnd.Intn(4) {
				r.calls = append(r.calls, names[rnd.Intn(len(names))])
			}
			for range rnd.Intn(4) {
				c := comparison{rnd.Intn(arguments), ops[rnd.Intn(len(ops))], pick(), 0}
				if c.op == maskedEqual {
					c.two = c.value & pick()
				}
				r.args = append(r.args, c)
			}
			if rnd.Intn(4) == 0 {
				r.includes.caps = []string{"CAP_A"}
			}
			if rnd.Intn(4) == 0 {
				r.excludes.caps = []string{"CAP_B"}
			}
			p.rules = append(p.rules, r)
		}
		to := Target{Arch: arch, Kernel: "6.1.0", Caps: [][]string{nil, {"CAP_A"}, {"CAP_A", "CAP_B"}}[rnd.Intn(3)]}
		of := compiled(t, p, to)
		for archName, table := range tables {
			a, _ := archOf(archName)
			for range 200 {
				name := names[rnd.Intn(len(names))]
				number, ok := table[name]
				if !ok || rnd.Intn(8) == 0 {
					name, number = "", []uint32{471, 472, 999, 0xf0000, x32Bit, x32Bit + 5, ^uint32(0)}[rnd.Intn(7)]
					if number == 471 {
						name = "rseq_slice_yield"
					}
				}
				var args [arguments]uint64
				for i := range args {
					args[i] = pick()
				}
				got, want := of(call{a.audit, number, args}), p.meaning(table, to, version{6, 1}, archName, name, number, args)
				if got != want {
					t.Fatalf("%s %s %s(%#x) is %#x, want %#x, of %+v", arch, archName, name, args, got, want, p)
				}
				checked++
			}
		}
	}
	if checked < 30_000 {
		t.Errorf("%d calls", checked)
	}
}

// A program whose halves are further apart than a condition can jump.
func TestLongPrograms(t *testing.T) {
	p := Default()
	own, _ := archOf("amd64")
	table := own.table()
	var names []string
	for n := range table {
		names = append(names, n)
	}
	slices.Sort(names)
	many := func(n int) *Profile {
		p := &Profile{otherwise: refuse | eperm, rules: slices.Clone(p.rules[:0])}
		p.rules = append(p.rules, rule{calls: []string{"execve"}, action: allow})
		for i, name := range names[:n] {
			r := rule{calls: []string{name}, action: allow}
			for j := range arguments {
				r.args = append(r.args, comparison{j, maskedEqual, 0xff, uint64(i+j) & 0xff})
			}
			p.rules = append(p.rules, r)
		}
		return p
	}
	const n = 90
	of := compiled(t, many(n), Target{Arch: "amd64"})
	for i, name := range names[:n] {
		c := call{audit: own.audit, number: table[name]}
		for j := range c.args {
			c.args[j] = uint64(i+j)&0xff | 0x100
		}
		if got := of(c); got != allow {
			t.Errorf("%s is %#x", name, got)
		}
		c.args[5]++
		if got := of(c); got != refuse|eperm && name != "execve" {
			t.Errorf("%s with another argument is %#x", name, got)
		}
	}
	if _, err := Compile(many(300), Target{Arch: "amd64"}); err == nil || !strings.Contains(err.Error(), "4096") {
		t.Errorf("a program that is too long: %v", err)
	}
}

func TestProfilesThatStartNothing(t *testing.T) {
	for _, text := range []string{
		`{"defaultAction": "SCMP_ACT_ERRNO"}`,
		`{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read", "execveat"], "action": "SCMP_ACT_ALLOW"}]}`,
		`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["execve"], "action": "SCMP_ACT_KILL"}]}`,
		`{"defaultAction": "SCMP_ACT_TRACE"}`,
		`{"defaultAction": "SCMP_ACT_KILL", "syscalls": [{"names": ["execve"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}}]}`,
		`{"defaultAction": "SCMP_ACT_KILL", "syscalls": [{"names": ["execve"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "7.0"}}]}`,
		`{"defaultAction": "SCMP_ACT_KILL", "syscalls": [{"names": ["execve"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}}]}`,
		`{"defaultAction": "SCMP_ACT_KILL", "syscalls": [{"names": ["execve"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["amd64"]}}]}`,
	} {
		p, err := Decode([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if _, err := Compile(p, Target{Arch: "amd64", Kernel: "6.1"}); err == nil || !strings.Contains(err.Error(), "execve") {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, to := range []Target{{}, {Arch: "386"}, {Arch: "riscv64"}} {
		if _, err := Compile(Default(), to); err == nil {
			t.Errorf("compiled for %+v", to)
		}
	}
}

func BenchmarkDefault(b *testing.B) {
	for b.Loop() {
		if _, err := Compile(Default(), Target{Arch: "amd64", Kernel: "6.1.0"}); err != nil {
			b.Fatal(err)
		}
	}
}
