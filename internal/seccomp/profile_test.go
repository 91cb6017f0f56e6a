package seccomp

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// usual is a profile as container engines ship it, cut short.
const usual = `{
	"defaultAction": "SCMP_ACT_ERRNO",
	"defaultErrnoRet": 38,
	"defaultErrno": "ENOSYS",
	"archMap": [
		{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
		{"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
		{"architecture": "SCMP_ARCH_S390X", "subArchitectures": ["SCMP_ARCH_S390"]}
	],
	"syscalls": [
		{"names": ["bdflush", "io_pgetevents"], "action": "SCMP_ACT_ERRNO", "args": [], "comment": "", "includes": {}, "excludes": {}, "errnoRet": 1, "errno": "EPERM"},
		{"names": ["read", "execve", "s390_pci_mmio_read", "mmap2"], "action": "SCMP_ACT_ALLOW", "args": null},
		{"name": "socket", "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 40, "valueTwo": 0, "op": "SCMP_CMP_NE"}]},
		{"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
		{"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
		{"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
		{"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 2114060288, "op": "SCMP_CMP_MASKED_EQ"}], "excludes": {"caps": ["CAP_SYS_ADMIN"], "arches": ["s390", "s390x"]}}
	]
}`

func TestDecode(t *testing.T) {
	p, err := Decode([]byte(usual))
	if err != nil || len(p.Unknown()) > 0 {
		t.Fatal(err, p.Unknown())
	}
	of := compiled(t, p, Target{Arch: "amd64", Kernel: "6.1.0", Caps: capsOf(usualCaps)})
	for _, c := range []struct {
		call call
		want Action
	}{
		{made(t, "amd64", "read"), allow}, {made(t, "amd64", "io_pgetevents"), refuse | 1}, {made(t, "amd64", "getpid"), refuse | 38},
		{made(t, "amd64", "mount"), refuse | 38}, {made(t, "amd64", "arch_prctl"), allow}, {made(t, "amd64", "ptrace"), allow},
		{made(t, "amd64", "socket", 40), refuse | 38}, {made(t, "amd64", "socket", 2), allow},
		{made(t, "amd64", "clone", 0x10000000), refuse | 38}, {made(t, "amd64", "clone", 17), allow},
		{made(t, "386", "read"), allow}, {made(t, "386", "mmap2"), allow}, {made(t, "386", "bdflush"), refuse | 1},
		{call{audit: 0xc000003e, number: x32Bit}, refuse | 38}, {call{audit: 0x40000028, number: 3}, killProcess},
	} {
		if got := of(c.call); got != c.want {
			t.Errorf("%+v is %#x, want %#x", c.call, got, c.want)
		}
	}
	of = compiled(t, p, Target{Arch: "arm64", Caps: []string{"CAP_SYS_ADMIN"}})
	for name, want := range map[string]Action{"mount": allow, "clone": refuse | 38, "read": allow} {
		if got := of(made(t, "arm64", name, 17)); got != want {
			t.Errorf("%s is %#x", name, got)
		}
	}
}

func TestDecodeSaysWhatIsWrong(t *testing.T) {
	rule := func(r string) string { return `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [` + r + `]}` }
	many := func(n int, one string) string { return strings.TrimSuffix(strings.Repeat(one+",", n), ",") }
	for text, want := range map[string]string{
		``:                                       "ends before",
		`{`:                                      "ends before",
		`[]`:                                     "line 1: ",
		"{\n\n x":                                "line 3: invalid character",
		`{}`:                                     "defaultAction: there is no action",
		`{"defaultAction": "SCMP_ACT_ALLOW"} {}`: "more behind",
		`{"defaultAction": "SCMP_ACT_ALLOW"} x`:  "more behind",
		`{"defaultAction": "ALLOW"}`:             `"ALLOW" is not an action`,
		`{"defaultAction": "SCMP_ACT_NOTIFY"}`:   "SCMP_ACT_NOTIFY asks",
		`{"defaultAction": 7}`:                   "defaultAction is number",
		`{"defaultActoin": "SCMP_ACT_ALLOW"}`:    `unknown field "defaultActoin"`,
		`{"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}`:                                                            "has no errno",
		`{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096}`:                                                         "errno 4096 is above 4095",
		`{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": -1}`:                                                           "defaultErrnoRet is number -1",
		`{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "ENOSYS"}`:                                                        "defaultErrnoRet",
		`{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/s"}`:                                                        "listenerPath",
		`{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_VAX"]}`:                                              `"SCMP_ARCH_VAX" is not an architecture`,
		`{"defaultAction": "SCMP_ACT_ALLOW", "archMap": [{"architecture": "x"}]}`:                                              `"x" is not an architecture`,
		`{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}`:                             "flags",
		rule(`{"action": "SCMP_ACT_ERRNO"}`):                                                                                   "syscalls[0]: it names no system call",
		rule(`{"names": [""], "action": "SCMP_ACT_ERRNO"}`):                                                                    "not a name",
		rule(`{"names": ["mkdir"]}`):                                                                                           "there is no action",
		rule(`{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}`):                                                              "syscalls[0]: SCMP_ACT_NOTIFY asks",
		rule(`{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 70000}`):                                            "above 4095",
		rule(`{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errno": "EIO"}`):                                               "write its number as errnoRet",
		rule(`{"names": ["mkdir"], "action": "SCMP_ACT_TRACE", "errnoRet": 65536}`):                                            "above 65535",
		rule(`{"names": ["a"], "action": "SCMP_ACT_TRAP", "args": [{"index": 6, "op": "SCMP_CMP_EQ"}]}`):                       "args[0]: index 6 is above 5",
		rule(`{"names": ["a"], "action": "SCMP_ACT_TRAP", "args": [{"op": "=="}]}`):                                            `"==" is not an operator`,
		rule(`{"names": ["a"], "action": "SCMP_ACT_TRAP", "args": [{"value": 1, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ"}]}`): "never fits",
		rule(`{"names": ["a"], "action": "SCMP_ACT_TRAP", "includes": {"caps": ["SYS_ADMIN"]}}`):                               "not a capability",
		rule(`{"names": ["a"], "action": "SCMP_ACT_TRAP", "excludes": {"minKernel": "four"}}`):                                 "not a version",
		rule(many(maxRules+1, `{"names": ["a"], "action": "SCMP_ACT_TRAP"}`)):                                                  "at most 2048",
		rule(`{"names": [` + many(maxNames+1, `"a"`) + `], "action": "SCMP_ACT_TRAP"}`):                                        "at most 8192 names",
		rule(`{"names": ["` + strings.Repeat("a", 65) + `"], "action": "SCMP_ACT_TRAP"}`):                                      "not a name",
		rule(`{"names": ["a"], "action": "SCMP_ACT_TRAP", "args": [` + many(33, `{"op": "SCMP_CMP_EQ"}`) + `]}`):               "at most 32",
		strings.Repeat(" ", MaxProfile) + "{}":                                                                                 "at most 524288",
		strings.Repeat("[", 20000):                                                                                             "",
	} {
		_, err := Decode([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 300 {
			t.Errorf("%.200s: got %v, want %s", text, err, want)
		}
	}
}

func TestUnknownCalls(t *testing.T) {
	p, err := Decode([]byte(`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
		{"names": ["mkdri", "mkdir", "riscv_flush_icache", "mkdri", "a b"], "action": "SCMP_ACT_ERRNO"}]}`))
	if err != nil || fmt.Sprintf("%q", p.Unknown()) != `["mkdri" "a b"]` {
		t.Errorf("%q, %v", p.Unknown(), err)
	}
}

func TestActions(t *testing.T) {
	one := uint32(1)
	for name, want := range map[string]Action{
		"SCMP_ACT_ALLOW": allow, "SCMP_ACT_LOG": logged, "SCMP_ACT_KILL": killThread, "SCMP_ACT_KILL_THREAD": killThread,
		"SCMP_ACT_KILL_PROCESS": killProcess, "SCMP_ACT_TRAP": trap, "SCMP_ACT_ERRNO": refuse | eperm, "SCMP_ACT_TRACE": trace | eperm,
	} {
		if got, err := parseAction(name, nil); got != want || err != nil {
			t.Errorf("%s is %#x, %v", name, got, err)
		}
		if _, err := parseAction(name, &one); (err == nil) != (want.kind() == refuse || want.kind() == trace) {
			t.Errorf("%s with an errno: %v", name, err)
		}
	}
	zero := uint32(0)
	if got, err := parseAction("SCMP_ACT_ERRNO", &zero); got != refuse || err != nil {
		t.Errorf("no errno is %#x, %v", got, err)
	}
}

func TestVersions(t *testing.T) {
	for s, want := range map[string]version{"4.8": {4, 8}, "6.1.0-13-cloud-amd64": {6, 1}, "6.12-rc3": {6, 12}, "5.10.": {5, 10}} {
		if got, err := parseVersion(s); got != want || err != nil {
			t.Errorf("%s is %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "6", "6.", ".1", "x.1", "6.x", "99999999.1", "-1.2"} {
		if v, err := parseVersion(s); err == nil {
			t.Errorf("%q is %v", s, v)
		}
	}
}

// Whatever is read is bounded, makes a program that the kernel takes or none, and
// lets execve through.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(usual))
	f.Add([]byte(`{"defaultAction": "SCMP_ACT_KILL", "syscalls": [{"name": "execve", "action": "SCMP_ACT_LOG", "args": [{"op": "SCMP_CMP_LT", "value": 18446744073709551615, "index": 5}]}]}`))
	examples, err := filepath.Glob("../../examples/*/*.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, e := range examples {
		if b, err := os.ReadFile(e); err == nil {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Decode(b)
		if err != nil {
			if len(err.Error()) > 1000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		for _, arch := range []string{"amd64", "arm64"} {
			filter, err := Compile(p, Target{Arch: arch, Kernel: "6.1.0", Caps: capsOf(usualCaps)})
			if err == nil {
				filter.run(t)(made(t, arch, "execve"))
			}
		}
	})
}
