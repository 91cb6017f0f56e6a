package e2e

import (
	"strings"
	"testing"
)

// What a container may: lines 14, 18, 21, 22, 25.
func TestConformRights(t *testing.T) {
	s := scenario(t, `
defaults: {image: busybox, cpus: 1, memory: 64MiB, stop_grace_period: 0s, command: [sleep, "36000"]}
containers:
  more: {cap_add: [net_admin, CAP_SYS_TIME], sysctls: {kernel.msgmax: "4096", kernel.shm_rmid_forced: "1"}, oom_score_adj: 300}
  less: {cap_drop: [ALL], no_new_privileges: true, read_only: true}
  all: {privileged: true}
  shell: {command: [sh], tty: true, stdin_open: true}
`)
	s.must("up", "-d")
	behave(t, 18, "capabilities: each allowed when added, denied when dropped", func(t *testing.T) {
		s.sh("more", "ip link set lo down && ip link set lo up").want(t, 0, "")
		if r := s.sh("more", "mount -t tmpfs none /tmp"); r.code == 0 {
			t.Errorf("not added, and allowed: %s", r)
		}
		if r := s.sh("less", "chown 12 /dev/shm"); r.code == 0 {
			t.Errorf("dropped, and allowed: %s", r)
		}
		s.sh("all", "mkdir -p /mnt && mount -t tmpfs none /mnt && umount /mnt").want(t, 0, "")
		s.vz("exec", "--privileged", "less", "chown", "12", "/dev/shm").want(t, 0, "")
	})
	behave(t, 21, "no new privileges, in a further process too", func(t *testing.T) {
		for c, want := range map[string]string{"less": "1", "more": "0"} {
			for _, pid := range []string{"1", "self"} {
				if got := s.says(t, c, "grep NoNewPrivs /proc/"+pid+"/status | tr -dc 01"); got != want {
					t.Errorf("%s, %s: %q", c, pid, got)
				}
			}
		}
	})
	behave(t, 22, "sysctls, several", func(t *testing.T) {
		if got := s.says(t, "more", "cat /proc/sys/kernel/msgmax /proc/sys/kernel/shm_rmid_forced /proc/1/oom_score_adj"); got != "4096\n1\n300" {
			t.Errorf("they are %q", got)
		}
	})
	behave(t, 25, "a read-only root: writes fail, tmpfs goes on", func(t *testing.T) {
		if r := s.sh("less", "echo x >/f"); r.code == 0 || !strings.Contains(r.err, "Read-only") {
			t.Errorf("%s", r)
		}
		s.sh("less", "echo x >/dev/shm/f").want(t, 0, "")
	})
	behave(t, 14, "a container with a terminal, attached to", func(t *testing.T) {
		p := s.sit(t, "attach", "shell")
		p.types("tty; stty size; echo $((40+2))\n")
		p.sees("/dev/pts/0\r\n24 80\r\n42\r\n")
		p.types("exit 5\n")
		if got := p.status(); got != 5 {
			t.Errorf("status %d", got)
		}
	})
}
