package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// buildProgram builds a program of ours for the machines: "calls".
func buildProgram(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	build := exec.Command("go", "build", "-o", path, "./"+name)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// Which system calls a container may make: the key seccomp.
func TestConformSeccomp(t *testing.T) {
	s := scenario(t, `
defaults: {image: busybox, cpus: 1, memory: 64MiB, stop_grace_period: 0s, command: [sleep, "36000"], interfaces: []}
containers:
  plain: {}
  mild: {user: "1000", no_new_privileges: true, cap_drop: [ALL], init: true}
  trusted: {cap_add: [SYS_ADMIN]}
  own: {seccomp: ./own.json}
  free: {seccomp: unconfined}
  all: {privileged: true}
`)
	profile := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const refusing = `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": NUMBER}]}`
	profile("own.json", strings.Replace(refusing, "NUMBER", "28", 1))
	s.must("up", "-d")

	t.Run("a filter holds for every container and what is run in it", func(t *testing.T) {
		for c, want := range map[string]string{"plain": "2", "mild": "2", "trusted": "2", "own": "2", "free": "0", "all": "0"} {
			for _, pid := range []string{"1", "self"} {
				if got := s.says(t, c, "grep ^Seccomp: /proc/"+pid+"/status | tr -dc 0-9"); got != want {
					t.Errorf("%s, %s: %q", c, pid, got)
				}
			}
		}
		if got := s.says(t, "mild", "cat /proc/1/task/*/status | grep -c '^Seccomp:.0'; true"); got != "0" {
			t.Errorf("threads of the init without a filter: %s", got)
		}
		s.vz("exec", "-T", "--privileged", "plain", "grep", "-c", "^Seccomp:.0", "/proc/self/status").want(t, 0, "1\n")
	})
	t.Run("the default refuses what is for who runs the machine", func(t *testing.T) {
		for _, c := range []string{"plain", "mild"} {
			for _, script := range []string{"unshare -m true", "unshare -U true", "mkdir -p /dev/shm/m && mount -t tmpfs none /dev/shm/m", "hostname other"} {
				if r := s.sh(c, script); r.code == 0 {
					t.Errorf("%s: %s: %s", c, script, r)
				}
			}
		}
		for _, script := range []string{"unshare -m true", "mkdir -p /m && mount -t tmpfs none /m && umount /m"} {
			s.sh("trusted", script).want(t, 0, "")
			s.sh("all", script).want(t, 0, "")
		}
		// The calls that no program of busybox makes: the numbers themselves.
		program := buildProgram(t, "calls")
		for c, want := range map[string]string{
			"plain": "keyctl EPERM, vsock EPERM, clone3 ENOSYS, newest ENOSYS, unix 0, inet 0, thread 0",
			"free":  "keyctl 0, vsock 0, clone3 other, newest ENOSYS, unix 0, inet 0, thread 0",
		} {
			s.must("cp", program, c+":/calls")
			if got := s.says(t, c, "/calls"); got != want {
				t.Errorf("%s: %s, want %s", c, got, want)
			}
		}
	})
	t.Run("a given profile, with its errno", func(t *testing.T) {
		if r := s.sh("own", "mkdir /d"); r.code == 0 || !strings.Contains(r.err, "No space left") {
			t.Errorf("%s", r)
		}
		s.sh("own", "unshare -m true; touch /f").want(t, 0, "")
		if out := s.must("config").out; !strings.Contains(out, "seccomp: "+filepath.Join(s.dir, "own.json")) {
			t.Errorf("%s", out)
		}
	})
	t.Run("a profile that was edited is a change", func(t *testing.T) {
		if out := s.must("plan").out; strings.Contains(out, "own") {
			t.Errorf("nothing has changed: %s", out)
		}
		profile("own.json", strings.Replace(refusing, "NUMBER", "13", 1))
		if out := s.must("plan").out; !strings.Contains(out, "seccomp "+filepath.Join(s.dir, "own.json")) || strings.Contains(out, "plain") {
			t.Errorf("%s", out)
		}
		s.must("up", "-d")
		if r := s.sh("own", "mkdir /d"); r.code == 0 || !strings.Contains(r.err, "Permission denied") {
			t.Errorf("%s", r)
		}
		s.sh("own", "test -e /f").want(t, 0, "") // the writable layer stayed
	})
	t.Run("profiles that cannot be", func(t *testing.T) {
		for text, want := range map[string]string{
			`{"defaultAction": "SCMP_ACT_NOTIFY"}`: "SCMP_ACT_NOTIFY",
			`{"defaultAction": "SCMP_ACT_ERRNO"}`:  "refuses execve",
			`{`:                                    "own.json",
		} {
			profile("own.json", text)
			if r := s.vz("up", "-d", "own"); r.code == 0 || !strings.Contains(r.err, want) || !strings.Contains(r.err, "seccomp") {
				t.Errorf("%s: %s", text, r)
			}
		}
	})
}
