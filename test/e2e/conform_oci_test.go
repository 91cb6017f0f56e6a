package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/agentproto"
)

// importOCI takes in an image with crun and runc, and with a witness of each that
// notes with what words it is called: in the container's own root, where the
// container sees the notes.
func importOCI(t *testing.T) {
	t.Helper()
	if shared.cache == "" {
		t.Skip("VZCOMPOSE_E2E is not set: no machines")
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "rt"), 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string, mode os.FileMode) {
		if err := os.WriteFile(filepath.Join(dir, "rt", name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"crun", "runc"} {
		write(name, "#!/bin/sh\necho \"$@\" >>/witness\nexec /usr/bin/"+name+" \"$@\"\n", 0o755)
	}
	write("loud", "#!/bin/sh\n[ $1 = --version ] && exit; echo '{\"level\":\"error\",\"msg\":\"it is out of order\"}' >$4; exit 1\n", 0o755)
	write("halfway", "#!/bin/sh\ncase \"$*\" in *' start '*) echo broken down >&2; exit 4 ;; esac\nexec /usr/bin/crun \"$@\"\n", 0o755)
	write("flat", "text", 0o644)
	tar := filepath.Join(dir, "oci.tar")
	for _, args := range [][]string{{"cp", filepath.Join(shared.cache, "images", "oci.tar"), tar}, {"tar", "-rf", tar, "-C", dir, "rt"}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	if err := simple("image", "import", "--cmd", "sh", tar, "oci"); err != nil {
		t.Fatal(err)
	}
}

// Containers that an OCI runtime of their image runs: line 48.
func TestConformOCIRuntime(t *testing.T) {
	importOCI(t)
	for _, name := range []string{"crun", "runc"} {
		t.Run(name, func(t *testing.T) { testRuntime(t, name) })
	}
}

const runtimeStack = `
defaults: {image: oci, cpus: 1, memory: 64MiB, stop_grace_period: 0s, oci_runtime: /rt/RUNTIME}
containers:
  box:
    command: [sh, -c, "trap 'echo bye; exit 3' TERM; echo ready; while true; do sleep 0.1; done"]
    stop_grace_period: 20s
    group_add: ["77"]
    working_dir: /made/up
    environment: {WORD: "hello, all"}
    ulimits: {nofile: 100, core: 0}
    cap_drop: [MKNOD]
    cap_add: [NET_ADMIN]
    sysctls: {kernel.msgmax: "4096"}
    oom_score_adj: 300
    hostname: named
    devices: [/dev/fuse]
    masked_paths: [/rt/flat]
    mounts:
      - {type: volume, source: data, destination: /data}
      - {type: bind, source: ./shared, destination: /shared}
      - {type: tmpfs, destination: /scratch, options: [size=1m, mode=1777]}
    secrets: [token]
    healthcheck: {test: [CMD, test, -e, /data/well], interval: 5s}
  ends: {command: [sh, -c, "echo out; echo err >&2; exit 7"]}
  nobody: {user: "nobody:77", read_only: true, no_new_privileges: true, command: [sh, -c, "id; grep -E 'CapEff|NoNewPrivs' /proc/self/status; echo x >/f"]}
  hog: {command: [tail, /dev/zero]}
  again: {command: [sh, -c, "echo run; exit 9"], restart: "on-failure:1"}
  shell: {command: [sh], tty: true, stdin_open: true}
  pipe: {command: [head, "-n", "1"], stdin_open: true}
volumes: {data: {size: 64MiB}}
secrets: {token: {file: ./token}}
`

func testRuntime(t *testing.T, name string) {
	s := scenario(t, strings.ReplaceAll(runtimeStack, "RUNTIME", name))
	if err := os.Mkdir(filepath.Join(s.dir, "shared"), 0o755); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{"token": "secret text", "shared/f": "of the host"} {
		if err := os.WriteFile(filepath.Join(s.dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	all := name == "crun" // of the other, what runtimes do in different ways
	if all {
		s.must("up", "-d")
	} else {
		s.must("up", "-d", "box", "ends", "hog", "shell")
	}
	line := func(what string, fn func(t *testing.T)) { behave(t, 48, name+": "+what, fn) }
	line("it is what runs the process", func(t *testing.T) {
		notes := s.says(t, "box", "cat /witness")
		contains(t, "what it was asked", notes, "--version\n", " create --bundle ", " start init", " exec --process ")
	})
	line("status and output, exact and apart", func(t *testing.T) {
		if r := s.vz("wait", "ends"); r.code != 7 {
			t.Errorf("%s", r)
		}
		s.vz("logs", "--no-log-prefix", "--stream", "stdout", "ends").want(t, 0, "out\n")
		s.vz("logs", "--no-log-prefix", "--stream", "stderr", "ends").want(t, 0, "err\n")
	})
	line("the process is as declared", func(t *testing.T) { asDeclared(t, s) })
	if all {
		line("a user by name, a read-only root, no new privileges", func(t *testing.T) {
			s.vz("wait", "nobody")
			out := s.must("logs", "--no-log-prefix", "nobody").out
			contains(t, "it", out, "uid=65534(nobody) gid=77 groups=77", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Read-only file system")
		})
	}
	line("further processes: statuses, streams, users, the container's limits", func(t *testing.T) { furtherProcesses(t, s) })
	line("over the memory limit: killed, and said so", func(t *testing.T) {
		s.vz("wait", "hog")
		if e := s.instances()["hog-1"].Exit; e == nil || !e.OOM || e.Code != 137 {
			t.Errorf("it ended as %+v", e)
		}
	})
	if all {
		line("a process that ends comes again", func(t *testing.T) {
			if r := s.vz("wait", "again"); r.code != 9 {
				t.Errorf("%s", r)
			}
			if i := s.instances()["again-1"]; i.Restarts != 1 || i.Boots != 2 {
				t.Errorf("restarted %d times, %d boots", i.Restarts, i.Boots)
			}
			s.vz("logs", "--no-log-prefix", "again").want(t, 0, "run\nrun\n")
		})
	}
	line("terminals, and input", func(t *testing.T) { runtimeTerminals(t, s) })
	line("stats, top, pause, cp, health", func(t *testing.T) { lookAndCopy(t, s) })
	line("signals, a stop, and the container is deleted", func(t *testing.T) { signalsAndStop(t, s) })
}

func asDeclared(t *testing.T, s *stack) {
	var all []string
	wants := map[string]string{
		"tr '\\0' ' ' </proc/1/cmdline | head -c 6":                       "sh -c ",
		"cat /proc/1/cgroup":                                              "0::/",
		"readlink /proc/1/cwd":                                            "/made/up",
		"hostname || cat /proc/sys/kernel/hostname":                       "named",
		"tr '\\0' '\\n' </proc/1/environ | grep -E '^(WORD|HOME)' | sort": "HOME=/root\nWORD=hello, all",
		"cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max":            "67108864\n100000 100000",
		"grep -E 'open files|core' /proc/1/limits | tr -s ' '":            "Max core file size 0 0 bytes \nMax open files 100 100 files ",
		"grep CapBnd /proc/1/status | cut -f2":                            "00000000a00435fb",
		"cat /proc/sys/kernel/msgmax /proc/1/oom_score_adj":               "4096\n300",
		"stat -c %t:%T /dev/fuse && : </dev/fuse && echo opens":           "a:e5\nopens",
		"cat /rt/flat":                                "",
		"cat /shared/f /run/secrets/token":            "of the hostsecret text",
		"stat -f -c %T /data /scratch | tr '\\n' ' '": "ext2/ext3 tmpfs ",
		"grep Groups: /proc/1/status | tr -d '\\t '":  "Groups:77",
		"stat -c %N /dev/ptmx /dev/fd | tr '\\n' ' '": "'/dev/ptmx' -> 'pts/ptmx' '/dev/fd' -> '/proc/self/fd' ",
		"ls -d /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty >/dev/null && echo x >/dev/null": "",
		"echo x >/proc/sys/kernel/msgmax 2>/dev/null || echo denied":                                            "denied",
	}
	for script := range wants {
		all = append(all, script)
	}
	// One process for all: each is a run of the runtime.
	const mark = "--- that was it ---\n"
	got := strings.Split(s.says(t, "box", strings.Join(all, "\necho; echo '"+strings.TrimSpace(mark)+"'\n")+"\necho"), "\n"+mark)
	if len(got) != len(all) {
		t.Fatalf("%d answers to %d questions: %q", len(got), len(all), got)
	}
	for i, script := range all {
		if text := strings.TrimSuffix(strings.TrimSuffix(got[i], "\n"), "\n"); text != wants[script] {
			t.Errorf("%s: %q, want %q", script, text, wants[script])
		}
	}
}

func furtherProcesses(t *testing.T, s *stack) {
	for _, c := range []struct {
		stdin, out, err string
		code            int
		args            []string
	}{
		{args: []string{"box", "sh", "-c", "exit 42"}, code: 42},
		{args: []string{"box", "sh", "-c", "kill -9 $$"}, code: 137},
		{args: []string{"box", "sh", "-c", "echo out; echo err >&2"}, out: "out\n", err: "err\n"},
		{args: []string{"box", "cat"}, stdin: strings.Repeat("0123456789abcdef", 8<<10), out: strings.Repeat("0123456789abcdef", 8<<10)},
		{args: []string{"-u", "4711:12", "box", "sh", "-c", "id -u; id -g"}, out: "4711\n12\n"},
		{args: []string{"-e", "A=b c", "-w", "/made/too", "box", "sh", "-c", "echo $A $HOME; pwd"}, out: "b c /root\n/made/too\n"},
		{args: []string{"box", "sh", "-c", "ulimit -n; grep -c . /proc/1/comm; cat /proc/self/cgroup"}, out: "100\n1\n0::/\n"},
	} {
		r := s.feed(c.stdin, append([]string{"exec"}, c.args...)...)
		r.want(t, c.code, c.out)
		if r.err != c.err {
			t.Errorf("%q: err %q", c.args, r.err)
		}
	}
	if r := s.vz("exec", "box", "no-such-program"); r.code == 0 || !strings.Contains(r.err, "no-such-program") || !strings.Contains(r.err, "oci_runtime") {
		t.Errorf("%s", r)
	}
	const n = 8
	done := make(chan result, n)
	for i := range n {
		go func() { done <- s.vz("exec", "box", "sh", "-c", fmt.Sprintf("exit %d", i)) }()
	}
	seen := map[int]bool{}
	for range n {
		seen[(<-done).code] = true
	}
	if len(seen) != n {
		t.Errorf("statuses of %d at once: %v", n, seen)
	}
}

func runtimeTerminals(t *testing.T, s *stack) {
	p := s.sit(t, "attach", "shell")
	p.types("tty; stty size; echo $((40+2))\n")
	p.sees("24 80\r\n42\r\n")
	p.types("exit 5\n")
	if got := p.status(); got != 5 {
		t.Errorf("status %d", got)
	}
	q := s.sit(t, "exec", "box", "sh", "-c", "trap 'echo caught; exit 9' INT; stty size; echo ready; while :; do sleep 0.1; done")
	q.sees("24 80\r\nready")
	q.types("\x03")
	q.sees("caught")
	if got := q.status(); got != 9 {
		t.Errorf("status %d", got)
	}
	if _, there := s.instances()["pipe-1"]; there {
		s.feed("typed\n", "attach", "pipe").want(t, 0, "typed\n")
	}
}

func lookAndCopy(t *testing.T, s *stack) {
	s.must("exec", "box", "touch", "/data/well")
	s.eventually("it is healthy", func() bool { return s.instances()["box-1"].Health == "healthy" })
	var st agentproto.Stats
	r := s.must("stats", "--no-stream", "--format", "json", "box")
	if err := json.Unmarshal([]byte(r.out), &st); err != nil {
		t.Fatalf("%v: %s", err, r)
	}
	if st.Processes < 1 || st.Memory == 0 || st.MemoryLimit != 64<<20 || st.CPU <= 0 {
		t.Errorf("statistics %+v", st)
	}
	contains(t, "top", s.must("top", "box").out, "sh -c trap")
	s.must("pause", "box")
	s.must("unpause", "box")
	s.must("cp", filepath.Join(s.dir, "token"), "box:/scratch/copy")
	if got := s.says(t, "box", "cat /scratch/copy"); got != "secret text" {
		t.Errorf("copied in: %q", got)
	}
}

func signalsAndStop(t *testing.T, s *stack) {
	if got := s.instances()["box-1"].State; got != "running" {
		t.Errorf("it is %s", got)
	}
	s.must("stop", "box")
	if e := s.instances()["box-1"].Exit; e == nil || e.Code != 3 || !e.Requested {
		t.Errorf("it ended as %+v", e)
	}
	s.vz("logs", "--no-log-prefix", "box").want(t, 0, "ready\nbye\n")
	s.must("start", "box")
	contains(t, "what it was asked", s.says(t, "box", "cat /witness"), " delete --force init\n")
	s.must("kill", "box")
	s.vz("wait", "box")
	if e := s.instances()["box-1"].Exit; e == nil || e.Signal != "SIGKILL" {
		t.Errorf("it ended as %+v", e)
	}
}

// A runtime that is not there or fails: the start fails, and says which, in what
// and why.
func TestOCIRuntimeFails(t *testing.T) {
	importOCI(t)
	s := scenario(t, `
defaults: {image: oci, cpus: 1, memory: 64MiB, command: [sleep, "36000"], stop_grace_period: 0s}
containers:
  absent: {oci_runtime: /no/such/runtime}
  loud: {oci_runtime: /rt/loud}
  halfway: {oci_runtime: /rt/halfway, tty: true}
  ghost: {oci_runtime: /usr/bin/crun, command: [no-such-program]}
  ghost2: {oci_runtime: /usr/bin/runc, command: [no-such-program]}
`)
	for name, words := range map[string][]string{
		"absent":  {"oci_runtime /no/such/runtime", "no such file"},
		"loud":    {"oci_runtime /rt/loud: create: it is out of order"},
		"halfway": {"oci_runtime /rt/halfway: start: broken down"},
		"ghost":   {"oci_runtime /usr/bin/crun", "no-such-program"},
		"ghost2":  {"oci_runtime /usr/bin/runc", "no-such-program"},
	} {
		t.Run(name, func(t *testing.T) {
			r := s.vz("up", "-d", name)
			if r.code == 0 {
				t.Errorf("it started: %s", r)
			}
			contains(t, "up", r.err, words...)
			if i := s.instances()[name+"-1"]; i.State != "errored" {
				t.Errorf("it is %s", i.State)
			}
		})
	}
}
