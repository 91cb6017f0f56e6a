package e2e

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// runtimetest of opencontainers/runtime-tools passes within containers, against
// the runtime-spec that inspect shows of them. docs/runtime-spec.md says which
// parts that is.
func TestConformRuntimeSpec(t *testing.T) {
	s := scenario(t, `
defaults:
  image: busybox
  cpus: 1
  memory: 64MiB
  command: [/conform/runtimetest, --path, /conform, --compliance-level, may]
  interfaces: []
containers:
  plain:
    mounts: [{type: bind, source: ./plain, destination: /conform, options: [ro]}]
    readonly_paths: [/proc/bus, /proc/fs, /proc/irq, /proc/sys] # where root may read sysrq-trigger, and gets EIO, runtimetest ends
  strict:
    mounts:
      - {type: bind, source: ./strict, destination: /conform, options: [ro]}
      - {type: tmpfs, destination: /tmp, options: [size=1m, mode=1777]}
      - {type: volume, source: data, destination: /data}
    user: "1000:44"
    group_add: ["77"]
    working_dir: /tmp
    hostname: named
    environment: {WORD: hello}
    read_only: true
    no_new_privileges: true
    oom_score_adj: 300
    cap_drop: [NET_RAW, MKNOD]
    ulimits: {nofile: 100, core: 0, stack: {soft: 1048576, hard: 2097152}, nproc: 50}
    sysctls: {kernel.msgmax: "4096", kernel.shm_rmid_forced: "1"}
  able:
    mounts: [{type: bind, source: ./able, destination: /conform, options: [ro]}]
    tty: true
    cap_add: [NET_ADMIN, SYS_TIME]
    masked_paths: [/etc/passwd, /var/www]
    readonly_paths: [/etc, /bin]
  all:
    mounts: [{type: bind, source: ./all, destination: /conform, options: [ro]}]
    privileged: true
volumes: {data: {size: 64MiB}}
`)
	names := []string{"plain", "strict", "able", "all"}
	program := must(os.ReadFile(filepath.Join(shared.cache, "bin", "runtimetest")))
	for _, n := range names {
		if err := os.Mkdir(filepath.Join(s.dir, n), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.dir, n, "runtimetest"), program, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.must("create")
	for _, n := range names {
		var shown struct {
			Runtime json.RawMessage `json:"runtime"`
		}
		if err := json.Unmarshal([]byte(s.must("inspect", n).out), &shown); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.dir, n, "config.json"), shown.Runtime, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.must("start")
	for _, n := range names {
		t.Run(n, func(t *testing.T) {
			r := s.vz("wait", n)
			out := strings.ReplaceAll(s.must("logs", "--no-log-prefix", n).out, "\r\n", "\n")
			checkTAP(t, out)
			if r.code != 0 {
				t.Errorf("%s", r)
			}
		})
	}
}

// TAP lines are "ok 1 - what", "ok 2 # SKIP why" and "not ok 3 # TODO what".
var tapLine = regexp.MustCompile(`^(ok|not ok) ([0-9]+) (-|# SKIP|# TODO) (.*)$`)

// skips are what runtimetest may leave out or not know, each with why that is
// right. They are patterns of what it says.
var skips = map[string]string{
	`we need an \(r\)bind spec to test against`:                                                  "it cannot check binds; TestConformShares, TestConformDeclared and TestConformLife do",
	`/dev/.* has (unconfigured permissions|an unconfigured (user|group) ID)`:                     "the runtime-spec asks for no mode and owner of default devices",
	`linux.(devices|uidMappings|gidMappings|mountlabel|seccomp|rootfsPropagation) (is )?not set`: "not claimed",
	`process.ApparmorProfile not set`:                                                            "not claimed",
	`(process.oomScoreAdj|linux.sysctl|linux.maskedPaths|linux.readonlyPaths) not set`:           "not declared of this container",
	`"/proc/sysrq-trigger" \(linux.readonlyPaths\[4\]\) is not readable`:                         "nobody can read it: it is for writing, and that is checked",
	`/dev/console \(default device\) has the expected major ID`:                                  "runtimetest v0.9.0 asks for the number 0:0 (a FIXME in it); a terminal of devpts has another",
	`we need the major/minor from the controlling TTY`:                                           "as before",
}

// checkTAP reads what runtimetest has said. Each check passes, or is one that
// does not apply.
func checkTAP(t *testing.T, out string) {
	t.Helper()
	passed, skipped := 0, map[string]int{}
	plan := ""
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "1..") {
			plan = line
		}
		m := tapLine.FindStringSubmatch(line)
		switch {
		case m == nil:
			continue // details of the check before
		case m[1] == "ok" && m[3] == "-":
			passed++
			continue
		}
		known := false
		for pattern := range skips {
			if regexp.MustCompile(`^(?:` + pattern + `)$`).MatchString(m[4]) {
				skipped[pattern]++
				known = true
			}
		}
		if !known {
			t.Errorf("there is no reason for: %s", line)
		}
	}
	total := passed
	for _, p := range slices.Sorted(maps.Keys(skipped)) {
		total += skipped[p]
		t.Logf("%d without: %s: %s", skipped[p], p, skips[p])
	}
	t.Logf("%d passed", passed)
	if plan != "1.."+strconv.Itoa(total) || passed == 0 {
		t.Errorf("the plan is %q, and %d checks passed or do not apply:\n%s", plan, total, out)
	}
}
