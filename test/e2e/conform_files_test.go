package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Files in and out: line 30.
func TestConformCopy(t *testing.T) {
	s := scenario(t, `
defaults: {image: busybox, cpus: 1, memory: 64MiB, stop_grace_period: 0s, command: [sleep, "36000"]}
containers:
  one: {mounts: [{type: tmpfs, destination: /memory}]}
`)
	s.must("up", "-d")
	host := t.TempDir()
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(host, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(host, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	path := func(name string) string { return filepath.Join(host, name) }
	list := func(dir string) string {
		out, err := exec.Command("sh", "-c", `cd "$1" && find . | sort | xargs stat -c '%n %A %s %N'`, "sh", dir).Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	write("tree/script", "#!/bin/sh\necho ran\n", 0o755)
	write("tree/sub/empty", "", 0o600)
	write("large", strings.Repeat("0123456789", 1<<20), 0o644)
	for _, l := range [][2]string{{"script", "tree/link"}, {"/nowhere", "tree/dangling"}} {
		if err := os.Symlink(l[0], path(l[1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(path("tree/hollow"), 0o750); err != nil {
		t.Fatal(err)
	}
	behave(t, 30, "cp in and out: files, trees, links, modes, and the rules for destinations", func(t *testing.T) {
		s.must("cp", path("tree"), "one:/new")
		s.sh("one", "/new/script; stat -c '%A %U' /new/script /new/hollow; readlink /new/dangling").want(t, 0,
			"ran\n-rwxr-xr-x root\ndrwxr-x--- root\n/nowhere\n")
		s.must("cp", path("tree"), "one:/new") // it is there now
		s.sh("one", "ls /new/tree").want(t, 0, "dangling\nhollow\nlink\nscript\nsub\n")
		s.must("cp", path("tree")+"/.", "one:/memory")
		s.sh("one", "ls /memory").want(t, 0, "dangling\nhollow\nlink\nscript\nsub\n")
		s.must("cp", "one:/memory", path("back"))
		if got, want := strings.ReplaceAll(list(path("back")), "drwxrwxrwt", "drwxr-xr-x"), list(path("tree")); tail(got) != tail(want) {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
		s.must("cp", path("large"), "one:/memory/")
		s.must("cp", "one:/memory/large", path("again"))
		if a, _ := os.ReadFile(path("again")); len(a) != 10<<20 || !bytes.HasPrefix(a, []byte("0123456789")) {
			t.Errorf("%d bytes came back", len(a))
		}
		for _, bad := range []struct{ from, to, says string }{
			{path("none"), "one:/x", "no such file"},
			{"one:/none", path("x"), "no such file"},
			{path("large"), "one:/none/", "no directory /none/"},
			{path("large"), "one:/none/x", "no such file"},
			{path("tree"), "one:/memory/large", "is a file"},
			{"one:/memory", path("large"), "is a file"},
			{path("large"), "one:/proc/x", ""},
			{"a", "b", "NAME:PATH"},
		} {
			if r := s.vz("cp", bad.from, bad.to); r.code == 0 || !strings.Contains(r.err, bad.says) {
				t.Errorf("%s", r)
			}
		}
		s.sh("one", "ln -s /etc/passwd /memory/to; ln -s /memory /away").want(t, 0, "")
		s.must("cp", "-L", "one:/memory/to", path("passwd"))
		if b, _ := os.ReadFile(path("passwd")); !bytes.Contains(b, []byte("root:")) {
			t.Errorf("%q", b)
		}
		s.must("cp", path("large"), "one:/away/") // through a link, in the container
		r := s.must("cp", "one:/new", "-")
		in := exec.Command("tar", "-tf", "-")
		in.Stdin = strings.NewReader(r.out)
		if out, err := in.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("new/script\n")) {
			t.Errorf("%v %s", err, out)
		}
		if r := s.feed(r.out, "cp", "-", "one:/memory/sub"); r.code != 0 {
			t.Errorf("%s", r)
		}
		s.sh("one", "/memory/sub/new/script").want(t, 0, "ran\n")
		if r := s.vz("cp", "one:/proc", path("proc")); r.code != 0 { // it holds no files
			t.Errorf("%s", r)
		}
	})
}

// tail is a listing without its first line, the folder itself.
func tail(list string) string {
	_, rest, _ := strings.Cut(list, "\n")
	return rest
}
