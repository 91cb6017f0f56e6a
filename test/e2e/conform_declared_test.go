package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// What a stack file declares of a container, beside its process: lines 4, 15,
// 20, 23, 27, 31, 32, 33, 38, 39, 47, 49, 50.
func TestConformDeclared(t *testing.T) {
	t.Setenv("VZ_TEST_KEY", "from the environment")
	s := scenario(t, `
defaults: {image: busybox, cpus: 1, memory: 64MiB, stop_grace_period: 0s, command: [sleep, "36000"]}
containers:
  one:
    ulimits: {nofile: 100, core: 0, stack: {soft: 1048576, hard: 2097152}}
    group_add: [root, 77]
    user: "1000:44"
    shm_size: 1m
    secrets: [token, {source: key, target: sub/key, uid: 1000, gid: 44, mode: "0400"}]
    configs: [{source: site, target: /etc/site.conf}, {source: script, target: /run/script, mode: "0755"}]
    hosts: {"10.9.8.7": [legacy, legacy.shop.internal], "10.1.1.1": [first]}
    dns: {nameservers: [10.0.0.1], domain: shop.internal, search: [shop.internal, internal], options: ["ndots:1"]}
    read_only: true
    hostname: named
    interfaces: []
    writable_layer: {size: 64MiB}
    logging: {max_size: 64k, max_files: 2}
  two:
    overhead: {memory: 192MiB}
    init: true
    stop_grace_period: 20s
    mounts: [{type: volume, source: filled, destination: /etc}, {type: volume, source: bare, destination: /etc2}]
    boot_log: ./console.log
    masked_paths: [/etc/passwd]
    readonly_paths: []
    hooks: {post_start: [{command: [sh, -c, "echo $$WORD >/hooked"], environment: {WORD: hello}}], pre_stop: [{command: [sh, -c, "echo bye >/proc/1/fd/1"]}]}
    sockets:
      - {direction: out_of, source: /run/in.sock, destination: ./out.sock, mode: "0660"}
      - {direction: into, source: ./in.sock, destination: /run/in.sock}
volumes: {filled: {size: 64MiB}, bare: {size: 64MiB}}
secrets: {token: {file: ./token}, key: {environment: VZ_TEST_KEY}}
configs: {site: {content: "a = 1\n"}, script: {content: "#!/bin/sh\necho it runs\n"}}
`)
	if err := os.WriteFile(filepath.Join(s.dir, "token"), []byte("secret text"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.must("up", "-d")
	behave(t, 4, "groups beside those of the user", func(t *testing.T) {
		for _, got := range []string{s.says(t, "one", "id -G"), s.says(t, "one", "grep Groups: /proc/1/status | cut -f2-")} {
			if strings.TrimSpace(got) != "44 0 77" && strings.TrimSpace(got) != "0 77" {
				t.Errorf("they are %q", got)
			}
		}
	})
	behave(t, 20, "limits of processes, of a further one too", func(t *testing.T) {
		const of = "grep -E 'Max (open|core|stack)' /proc/PID/limits | awk '{print $(NF-2), $(NF-1)}'"
		for _, pid := range []string{"1", "self"} {
			if got := s.says(t, "one", strings.Replace(of, "PID", pid, 1)); got != "1048576 2097152\n0 0\n100 100" {
				t.Errorf("%s: %q", pid, got)
			}
		}
	})
	behave(t, 28, "/dev/shm as large as is said", func(t *testing.T) {
		if got := s.says(t, "one", "df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2"); got != "1024" {
			t.Errorf("it has %s KiB", got)
		}
	})
	behave(t, 31, "secrets: owner and mode, in memory, nowhere else", func(t *testing.T) {
		s.sh("one", "cat /run/secrets/token /run/secrets/sub/key; echo; stat -c '%a %u:%g' /run/secrets/token /run/secrets/sub/key").want(t, 0,
			"secret textfrom the environment\n444 0:0\n400 1000:44\n")
		if got := s.says(t, "one", "stat -f -c %T /run/secrets/token; cat /proc/1/environ /proc/1/cmdline | grep -c 'secret text\\|from the env' || true"); !strings.HasPrefix(got, "tmpfs") || !strings.HasSuffix(got, "0") {
			t.Errorf("%q", got)
		}
		if r := s.sh("one", "echo x >>/run/secrets/sub/key"); r.code == 0 {
			t.Errorf("it can be written to: %s", r)
		}
		s.sh("one", "cat /etc/site.conf; /run/script; sh -c 'cp /bin/busybox /run/secrets/x' 2>&1").want(t, 1, "a = 1\nit runs\ncp: can't create '/run/secrets/x': Read-only file system\n")
		for _, text := range []string{"secret text", "from the environment"} {
			if where := grep(t, filepath.Join(shared.home, "stacks", s.name), text); where != "" {
				t.Errorf("%q is in %s", text, where)
			}
		}
	})
	behave(t, 32, "the host name: as said, or the instance's", func(t *testing.T) {
		s.sh("one", "hostname").want(t, 0, "named\n")
		s.sh("two", "hostname").want(t, 0, "two-1\n")
	})
	behave(t, 33, "hosts and resolv.conf are what is said, on a read-only root too", func(t *testing.T) {
		s.sh("one", "cat /etc/hosts").want(t, 0, "127.0.0.1\tlocalhost\n10.1.1.1\tfirst\n10.9.8.7\tlegacy legacy.shop.internal\n")
		s.sh("one", "cat /etc/resolv.conf").want(t, 0, "nameserver 10.0.0.1\ndomain shop.internal\nsearch shop.internal internal\noptions ndots:1\n")
	})
	behave(t, 25, "a read-only root with files of its own", func(t *testing.T) {
		if r := s.sh("one", "echo x >/f"); r.code == 0 {
			t.Errorf("%s", r)
		}
	})
	behave(t, 23, "a machine has the container's memory, and an overhead", func(t *testing.T) {
		total := func(c string) int {
			return must(strconv.Atoi(s.says(t, c, "awk '/MemTotal/{print $2}' /proc/meminfo")))
		}
		one, two := total("one"), total("two")
		if one < 150<<10 || one > 194<<10 || two < 210<<10 || two > 256<<10 {
			t.Errorf("they have %d and %d KiB", one, two)
		}
		if got := s.says(t, "two", "cat /sys/fs/cgroup/memory.max"); got != "67108864" {
			t.Errorf("it may use %s", got)
		}
	})
	behave(t, 27, "a new volume is filled from the image, once", func(t *testing.T) {
		s.sh("two", "test -s /etc/group && rm /etc/group && ls /etc2").want(t, 0, "")
		s.must("down")
		s.must("up", "-d")
		if r := s.sh("two", "ls /etc/group"); r.code == 0 {
			t.Errorf("it was filled again: %s", r)
		}
	})
	behave(t, 19, "masked paths as said, none read-only", func(t *testing.T) {
		s.sh("two", "cat /etc/passwd").want(t, 0, "")
		s.sh("two", "grep -c ' /proc/sys ' /proc/mounts").want(t, 1, "0\n")
	})
	behave(t, 47, "boot_log receives the console", func(t *testing.T) {
		b, err := os.ReadFile(filepath.Join(s.dir, "console.log"))
		if err != nil || len(b) == 0 {
			t.Errorf("%d bytes: %v", len(b), err)
		}
	})
	behave(t, 39, "sockets of the stack file, both ways", func(t *testing.T) { s.declaredSockets(t) })
	behave(t, 43, "hooks run at their turn", func(t *testing.T) {
		s.sh("two", "cat /hooked").want(t, 0, "hello\n")
		s.must("stop", "two")
		contains(t, "log", s.must("logs", "two").out, "bye")
	})
}

func TestConformStop(t *testing.T) {
	s := scenario(t, `
containers:
  one:
    image: busybox
    cpus: 1
    memory: 64MiB
    command: [sh, -c, "trap 'echo asked; echo told >/told; exit 5' TERM; echo ready; while :; do sleep 0.1; done"]
    stop_grace_period: 60s
    hooks:
      pre_stop:
        - {command: [sh, -c, "echo not today >&2; exit 3"]}
        - {command: [touch, /mark]}
        - {command: [no-such-program]}
`)
	behave(t, 43, "a stop runs every step even when one fails, and reports the first with the rest", func(t *testing.T) {
		s.must("up", "-d")
		s.eventually("it is ready", func() bool { return strings.Contains(s.must("logs").out, "ready") })
		r := s.vz("stop")
		first, rest := strings.Index(r.err, "hook pre_stop[0]: it ended with 3: not today"), strings.Index(r.err, "hook pre_stop[2]:")
		if r.code != 1 || first < 0 || rest < first || !strings.Contains(r.err[rest:], "no-such-program") {
			t.Errorf("%s", r)
		}
		if e := s.instances()["one-1"].Exit; s.states() != "one-1=exited" || e == nil || e.Code != 5 || !strings.Contains(s.must("logs").out, "asked") {
			t.Errorf("it is %s, and ended as %+v", s.states(), e)
		}
		s.must("start")
		s.sh("one", "cat /told && test -e /mark").want(t, 0, "told\n")
	})
}

func TestConformInit(t *testing.T) {
	s := scenario(t, `
defaults: {image: busybox, cpus: 1, memory: 64MiB, init: true}
containers:
  ends: {command: [sh, -c, "exit 7"]}
  polite: {command: [sh, -c, "trap 'exit 143' TERM; while :; do sleep 0.1; done"], stop_grace_period: 30s}
  plain: {command: [sleep, "36000"], stop_grace_period: 30s}
  shell: {command: [sh], tty: true, stdin_open: true, stop_grace_period: 0s}
`)
	behave(t, 15, "an init: statuses, signals, orphans, a terminal", func(t *testing.T) {
		s.must("up", "-d")
		if r := s.vz("wait", "ends"); r.code != 7 {
			t.Errorf("%s", r)
		}
		s.sh("plain", "for i in 1 2 3; do (sleep 0.1 &); done; sleep 1; cat /proc/[0-9]*/status 2>/dev/null | grep -c '^State:.Z'").want(t, 1, "0\n")
		// No thread of it has more than the container, so that it may be looked at.
		s.sh("plain", "cat /proc/1/task/*/status | grep ^CapEff | sort -u; echo said >/proc/1/fd/1").want(t, 0, "CapEff:\t00000000a80425fb\n")
		p := s.sit(t, "attach", "shell")
		p.types("tty; ps -o pid,comm | head -2 | tail -1; sh -c 'echo $((6*6)); exec sleep 100'\n")
		p.sees("/dev/pts/0\r\n")
		p.sees("vz")
		p.sees("36\r\n") // from here on the terminal is that process's
		p.types("\x03")
		p.types("echo $((6*7))\n")
		p.sees("42\r\n")
		p.types("exit 5\n")
		if got := p.status(); got != 5 {
			t.Errorf("status %d", got)
		}
		s.must("stop", "polite", "plain")
		for name, want := range map[string]int{"polite-1": 143, "plain-1": 143} {
			if e := s.instances()[name].Exit; e == nil || e.Code != want {
				t.Errorf("%s ended as %+v", name, e)
			}
		}
	})
}

func TestConformDependencies(t *testing.T) {
	s := scenario(t, `
defaults: {image: busybox, cpus: 1, memory: 64MiB, stop_grace_period: 0s, command: [sleep, "36000"]}
containers:
  slow: {command: [sh, -c, "sleep 1; touch /ready; exec sleep 36000"], healthcheck: {test: "test -e /ready", interval: 100ms, timeout: 10s, retries: 100}}
  job: {command: [sh, -c, "sleep 1; exit 0"]}
  after: {depends_on: {slow: {condition: healthy}, job: {condition: completed}}}
`)
	behave(t, 49, "depends_on: healthy and completed hold the dependent back, a failure skips it", func(t *testing.T) {
		s.must("up", "-d")
		all := s.instances()
		if all["slow-1"].Health != "healthy" || all["after-1"].State != "running" {
			t.Errorf("%+v", all)
		}
		if b, f := all["after-1"].Started, all["job-1"].Finished; b.Before(f) {
			t.Errorf("started at %s, before the job had ended at %s", b, f)
		}
		contains(t, "ps", s.must("ps").out, "healthy")
		s.must("down")
		s.write(`
defaults: {image: busybox, cpus: 1, memory: 64MiB, stop_grace_period: 0s, command: [sleep, "36000"]}
containers:
  sick: {healthcheck: {test: "echo no >&2; false", interval: 100ms, timeout: 10s, retries: 2}}
  job: {command: [sh, -c, "exit 9"]}
  one: {depends_on: {sick: {condition: healthy}}}
  two: {depends_on: {job: {condition: completed}}}
`)
		r := s.vz("up", "-d")
		if r.code != 1 || !strings.Contains(r.err, "unhealthy: ") || !strings.Contains(r.err, ": no") || !strings.Contains(r.err, "2 skipped") {
			t.Errorf("%s", r)
		}
	})
}

func TestConformNested(t *testing.T) {
	s := scenario(t, `
containers:
  one: {image: busybox, cpus: 1, memory: 64MiB, command: ["true"], virtualization: true}
`)
	behave(t, 53, "machines in the machine: refused with a reason where the host cannot", func(t *testing.T) {
		r := s.vz("up", "-d")
		if _, err := os.Stat("/sys/module/kvm"); err == nil && r.code == 0 {
			return // this host can
		}
		if r.code != 1 || !strings.Contains(r.err, "cannot run machines in a machine") {
			t.Errorf("%s", r)
		}
	})
}

// grep answers the first file below dir that has the text, disks excepted.
func grep(t *testing.T, dir, text string) (found string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || found != "" {
			return err
		}
		if info, err := d.Info(); err != nil || info.Size() > 8<<20 {
			return err // a disk
		}
		b, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(b), text) {
			found = path
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// declaredSockets talks to a server of the host through the container: in by one
// socket and out by another.
func (s *stack) declaredSockets(t *testing.T) {
	echoServer(t, filepath.Join(s.dir, "in.sock"))
	if err := echoes(filepath.Join(s.dir, "out.sock"), []byte("there and back")); err != nil {
		t.Error(err)
	}
	st, err := os.Stat(filepath.Join(s.dir, "out.sock"))
	if err != nil || st.Mode().Perm() != 0o660 {
		t.Errorf("%v %v", st, err)
	}
	s.must("restart", "two") // with the socket of before in the way
	if err := echoes(filepath.Join(s.dir, "out.sock"), []byte("again")); err != nil {
		t.Error(err)
	}
}
