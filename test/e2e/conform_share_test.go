package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Folders and files of the host: line 24.
func TestConformShares(t *testing.T) {
	s := scenario(t, `
defaults: {image: busybox, cpus: 1, memory: 64MiB, stop_grace_period: 0s, command: [sleep, "36000"]}
containers:
  one:
    mounts:
      - ./site/deep:/site/deep
      - {type: bind, source: ./site, destination: /site}
      - {type: bind, source: ./site, destination: /again}
      - ./site:/fixed:ro
      - ./conf/file:/etc/file
      - ./conf/file:/etc/fixed:ro
      - ./link:/link
      - {type: tmpfs, destination: /again/deep}
  two: {mounts: ["./site:/site", "./made/here:/made"]}
  none: {}
`)
	for path, text := range map[string]string{"site/index": "hello", "site/deep/x": "deep", "conf/file": "a = 1", "conf/sibling": "not for you"} {
		at := filepath.Join(s.dir, path)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("site", filepath.Join(s.dir, "link")); err != nil {
		t.Fatal(err)
	}
	on := func(path string) string {
		b, err := os.ReadFile(filepath.Join(s.dir, path))
		if err != nil {
			return err.Error()
		}
		return strings.TrimSuffix(string(b), "\n")
	}
	s.must("up", "-d")
	behave(t, 24, "bind of a folder: each side sees what the other writes", func(t *testing.T) {
		s.sh("one", "cat /site/index && echo from one >/site/new && mkdir /site/d && mv /site/new /site/d/ && ln -s ../index /site/d/l && rm -f /site/gone").want(t, 0, "hello\n")
		if on("site/d/new") != "from one" || on("site/d/l") != "hello" {
			t.Errorf("the host sees %q and %q", on("site/d/new"), on("site/d/l"))
		}
		if err := os.WriteFile(filepath.Join(s.dir, "site/index"), []byte("changed\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		s.eventually("the container sees it", func() bool { return s.sh("one", "cat /site/index").out == "changed\n" })
		s.eventually("and the other container too", func() bool { return s.sh("two", "cat /site/index /site/d/new").out == "changed\nfrom one\n" })
		s.says(t, "one", "head -c 8000000 /dev/urandom >/site/big && sync && chmod 4711 /site/big && chown 12:34 /site/big; test $(wc -c </site/big) = 8000000")
		if fi, err := os.Stat(filepath.Join(s.dir, "site/big")); err != nil || fi.Size() != 8000000 || fi.Mode() != 0o711 {
			t.Errorf("%v %v", fi, err) // and nobody's identity is lent
		}
	})
	behave(t, 24, "bind of one file: its siblings are not visible, writes reach the host", func(t *testing.T) {
		s.sh("one", "cat /etc/file; echo b = 2 >/etc/file; cat /etc/fixed; echo x >/etc/fixed").want(t, 1, "a = 1\nb = 2\n")
		if on("conf/file") != "b = 2" {
			t.Errorf("the host sees %q", on("conf/file"))
		}
		if got := s.says(t, "one", "grep -c sibling /proc/mounts; find / -xdev -name sibling 2>/dev/null | head -n 1"); got != "0" {
			t.Errorf("%q", got)
		}
	})
	behave(t, 24, "bind of one file: an editor that writes a new one and renames it is followed", func(t *testing.T) {
		path := filepath.Join(s.dir, "conf/file")
		for _, text := range []string{"edited once, and longer\n", "b = 2\n"} {
			if err := os.WriteFile(path+"~", []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(path+"~", path); err != nil {
				t.Fatal(err)
			}
			s.eventually("the container sees it", func() bool { return s.sh("one", "cat /etc/file").out == text })
			s.sh("one", "echo appended >>/etc/file").want(t, 0, "")
			if got := on("conf/file"); got != text+"appended" {
				t.Errorf("the host sees %q", got)
			}
			s.sh("one", "sed -n 1p /etc/file >/tmp/1; cat /tmp/1 >/etc/file").want(t, 0, "")
		}
	})
	behave(t, 24, "read-only: writes fail, in the container and on the host", func(t *testing.T) {
		for _, script := range []string{"echo x >/fixed/index", "rm /fixed/index", "mkdir /fixed/e", "mv /fixed/index /fixed/j", "chmod 600 /fixed/index", "ln /fixed/index /fixed/k"} {
			if r := s.sh("one", script); r.code == 0 || !strings.Contains(r.err, "Read-only file system") {
				t.Errorf("%s: %s", script, r)
			}
		}
		if r := s.vz("exec", "--privileged", "one", "sh", "-c", "mount -o remount,rw /fixed; echo x >/fixed/index"); r.code == 0 || on("site/index") != "changed" {
			t.Errorf("root in the container writes: %s", r)
		}
	})
	behave(t, 24, "a symbolic link as the source, one source twice, parents before what is in them", func(t *testing.T) {
		s.sh("one", "cat /link/index /again/index /site/deep/x; ls /again/deep | wc -l; echo y >/again/y; cat /site/y").want(t, 0, "changed\nchanged\ndeep\n0\ny\n")
	})
	behave(t, 24, "a source that is not there is found before anything starts", func(t *testing.T) {
		other := &stack{t: s.t, name: s.name + "-other", dir: filepath.Join(s.dir, "other")}
		if err := os.Mkdir(other.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		other.write("containers: {web: {image: busybox, mounts: [{type: bind, source: ./nowhere, destination: /a, create_host_path: false}]}}\n")
		r := other.vz("up", "-d")
		if r.code != 2 || !strings.Contains(r.err, `"./nowhere" does not exist`) {
			t.Errorf("%s", r)
		}
	})
	behave(t, 24, "a source that is not there is made as a folder of the user who starts the instance", func(t *testing.T) {
		s.sh("two", "echo mine >/made/file").want(t, 0, "")
		info, err := os.Stat(filepath.Join(s.dir, "made", "here"))
		if err != nil || info.Sys().(*syscall.Stat_t).Uid != uint32(os.Getuid()) || on("made/here/file") != "mine" {
			t.Errorf("%v, %+v; the file says %q", err, info, on("made/here/file"))
		}
	})
	behave(t, 24, "it is there again after a restart", func(t *testing.T) {
		s.must("restart", "one")
		s.sh("one", "cat /site/index /etc/file").want(t, 0, "changed\nb = 2\n")
	})
}
