package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A container's machine boots the kernel that the container asks for, with what it
// adds to the command line; other machines boot what they did.
func TestKernelOfOneContainer(t *testing.T) {
	s := scenario(t, quick+"containers: {plain: {command: [sleep, '36000']}}\n")
	unpack := exec.Command("dpkg-deb", "-x", filepath.Join(shared.cache, "kernel.deb"), filepath.Join(s.dir, "tree"))
	if out, err := unpack.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	found, err := filepath.Glob(filepath.Join(s.dir, "tree/lib/modules/*/kernel/drivers/virtio/virtio_balloon.ko*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%v, %v", found, err)
	}
	if err := os.Remove(found[0]); err != nil { // so that it is another kernel
		t.Fatal(err)
	}
	s.write(quick + `
containers:
  plain: {command: [sleep, "36000"]}
  own: {command: [sleep, "36000"], replicas: 2, kernel: {path: ./tree, cmdline: panic_on_warn=0 vzcompose.word=1}}
  words: {command: [sleep, "36000"], kernel: {cmdline: [vzcompose.word=2]}}
`)
	before := s.must("kernel", "ls", "-q").out
	s.must("up", "-d")
	contains(t, "its command line", s.sh("own", "cat /proc/cmdline").out, "panic_on_warn=0 vzcompose.word=1")
	contains(t, "its command line", s.sh("words", "cat /proc/cmdline").out, "vzcompose.word=2")
	if r := s.sh("plain", "cat /proc/cmdline"); strings.Contains(r.out, "vzcompose.word") {
		t.Errorf("%s", r)
	}
	after := s.must("kernel", "ls", "-q").out
	if strings.Count(after, "\n") != strings.Count(before, "\n")+1 || !strings.Contains(after, before[:12]) {
		t.Errorf("kernels were\n%sand are\n%s", before, after)
	}
	id := ""
	for _, l := range strings.Fields(after) {
		if !strings.Contains(before, l) {
			id = l
		}
	}
	if r := s.must("kernel", "ls"); strings.Count(r.out, "of a stack file") != 1 || strings.Count(r.out, "yes") != 1 {
		t.Errorf("%s", r)
	}
	if r := s.must("up", "-d"); strings.Contains(r.err, "own-1") {
		t.Errorf("a second up does something: %s", r)
	}
	s.must("stop", "own")
	s.must("kernel", "rm", id)
	if r := s.vz("start", "own"); r.code != 1 || !strings.Contains(r.err, "up --force-recreate takes it in again") {
		t.Errorf("%s", r)
	}
	s.must("up", "-d", "--force-recreate", "own")
	s.must("down")
	s.must("kernel", "rm", id)
}
