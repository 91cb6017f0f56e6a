package e2e

import (
	"strings"
	"testing"
)

// A container has the devices of its machine that it asks for, and what the kernel
// has for them is loaded.
func TestDevices(t *testing.T) {
	s := scenario(t, quick+`
containers:
  one: {command: [sleep, "36000"], devices: [/dev/fuse, "/dev/net/tun:/dev/net/tun:rwm", "/dev/zero:/srv/noughts"], cap_add: [NET_ADMIN]}
  two: {command: [sleep, "36000"]}
`)
	s.must("up", "-d")
	s.sh("one", "test -c /dev/fuse && test -w /dev/fuse && head -c 3 /srv/noughts | tr '\\0' 0; exec 3<>/dev/net/tun && stat -c ' %t:%T %a' /dev/net/tun").want(t, 0, "000 a:c8 666\n")
	s.sh("two", "ls /dev/fuse /dev/net /srv 2>/dev/null; true").want(t, 0, "")
	s.write(quick + `
containers:
  one: {command: [sleep, "36000"], devices: [/dev/nowhere]}
`)
	if r := s.vz("up", "-d"); r.code != 1 || !strings.Contains(r.err, "device /dev/nowhere: no such file or directory") {
		t.Errorf("%s", r)
	}
	for devices, want := range map[string]string{"[/etc/passwd]": "is not a device", "[/dev/fuse, /dev/fuse]": "already a device's", `["/dev/fuse:/dev/fuse:r"]`: "has it whole"} {
		s.write(quick + "containers: {one: {devices: " + devices + "}}\n")
		if r := s.vz("config", "-q"); r.code != 2 || !strings.Contains(r.err, want) {
			t.Errorf("%s: %s", devices, r)
		}
	}
	s.write(quick + "containers: {one: {command: [sleep, '36000']}}\n")
}
