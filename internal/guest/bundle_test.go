//go:build linux

package guest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
)

// bundleOf makes the bundle of a start.
func bundleOf(t *testing.T, s agentproto.Start) *specs.Spec {
	t.Helper()
	a := newAgent(time.Now())
	a.places["volume:v"] = "/run/vz/volumes/v/data"
	s.ID, s.Runtime = agentproto.InitID, "/usr/bin/crun"
	o, err := a.order(s)
	if err != nil {
		t.Fatal(err)
	}
	return bundleSpec(o.Container.asked, o, "/run/vz/oci/rootfs", "/container/init")
}

func TestBundleSpec(t *testing.T) {
	limit := int64(64 << 20)
	got := bundleOf(t, agentproto.Start{Spec: containerSpec([]string{"run", "x"}, withCaps("CAP_CHOWN", "CAP_KILL"), func(s *specs.Spec) {
		s.Hostname, s.Root.Readonly = "named", true
		s.Annotations = map[string]string{"not": "asked for"}
		s.Mounts = []specs.Mount{
			{Destination: "/dev", Type: "devtmpfs", Source: "none", Options: []string{"nosuid"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup2", Source: "none", Options: []string{"nosuid"}},
			{Destination: "/data//", Type: "bind", Source: "volume:v", Options: []string{"rbind", "ro"}},
		}
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 10, Hard: 20}, {Type: "RLIMIT_RTTIME", Soft: 1, Hard: 1}}
		s.Process.User = specs.User{UID: 7, GID: 8, AdditionalGids: []uint32{9}}
		s.Process.Terminal, s.Process.NoNewPrivileges = true, true
		s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
		s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "u", Major: 1, Minor: 2}, {Path: "/dev/p", Type: "p"}}
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = []string{"/m"}, []string{"/r"}
		s.Linux.Sysctl = map[string]string{"a.b": "1"}
	})})
	if got.Version != "1.0.2" || got.Root.Path != "/run/vz/oci/rootfs" || !got.Root.Readonly || got.Hostname != "named" || got.Annotations != nil {
		t.Errorf("%+v, root %+v", got, got.Root)
	}
	want := []specs.Mount{
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "none", Options: []string{"nosuid"}},
		{Destination: "/data", Type: "bind", Source: "/run/vz/volumes/v/data", Options: []string{"rbind", "ro"}},
	}
	if !reflect.DeepEqual(got.Mounts, want) {
		t.Errorf("mounts %+v", got.Mounts)
	}
	l := got.Linux
	if l.CgroupsPath != "/container/init" || *l.Resources.Memory.Limit != limit || l.MaskedPaths[0] != "/m" || l.ReadonlyPaths[0] != "/r" ||
		l.Sysctl["a.b"] != "1" || len(l.Namespaces) != 5 {
		t.Errorf("linux %+v", l)
	}
	if d := l.Resources.Devices; len(d) != 1 || !d[0].Allow || d[0].Type != "c" || *d[0].Major != 1 || *d[0].Minor != 2 || d[0].Access != "rwm" {
		t.Errorf("device rules %+v", d)
	}
	if d := l.Devices; len(d) != 2 || d[0].Path != "/dev/x" || d[0].Type != "c" || d[0].Major != 1 || d[0].Minor != 2 || *d[0].FileMode != 0o666 || d[1].Type != "p" {
		t.Errorf("devices %+v", d)
	}
	p := got.Process
	if p.User.UID != 7 || p.User.GID != 8 || p.User.AdditionalGids[0] != 9 || *p.User.Umask != 0o022 || !p.Terminal || !p.NoNewPrivileges ||
		*p.ConsoleSize != (specs.Box{Height: 24, Width: 80}) {
		t.Errorf("process %+v", p)
	}
	if !reflect.DeepEqual(p.Rlimits, []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 10, Hard: 20}, {Type: "RLIMIT_RTTIME", Soft: 1, Hard: 1}}) {
		t.Errorf("limits %+v", p.Rlimits)
	}
	if c := p.Capabilities; !reflect.DeepEqual(c.Bounding, []string{"CAP_CHOWN", "CAP_KILL"}) || c.Ambient != nil {
		t.Errorf("capabilities %+v", c)
	}
}

func TestRuntimeIsChecked(t *testing.T) {
	a := newAgent(time.Now())
	spec := containerSpec([]string{"run"})
	for _, c := range []struct {
		start agentproto.Start
		class errs.Class
	}{
		{agentproto.Start{ID: "init", Spec: spec, Runtime: "crun"}, errs.InvalidArgument},
		{agentproto.Start{ID: "init", Spec: spec, Runtime: "/a\x00"}, errs.InvalidArgument},
		{agentproto.Start{ID: "init", Spec: spec, Runtime: "/" + strings.Repeat("a", 5000)}, errs.InvalidArgument},
		{agentproto.Start{ID: "init", Spec: spec, Runtime: "/crun", Init: true}, errs.InvalidArgument},
	} {
		_, err := a.order(c.start)
		wantClass(t, err, c.class, "")
	}
	if err := checkRuntime("/crun", nil, false); err == nil {
		t.Error("a process has a runtime")
	}
}

func TestParsePID(t *testing.T) {
	for text, want := range map[string]int{"2": 2, "4711\n": 4711, " 12 ": 12, "1": 0, "0": 0, "-5": 0, "": 0, "x": 0, "12x": 0, "1 2": 0, "99999999999999999999": 0} {
		got, err := parsePID([]byte(text))
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
}

func TestSaid(t *testing.T) {
	for _, c := range []struct{ log, printed, want string }{
		{"", "", ""},
		{"", "line one\nline two\n", "line one; line two"},
		{`{"level":"warning","msg":"w"}` + "\n" + `{"level":"error","msg":"e"}` + "\n" + `{"level":"error","msg":"e"}` + "\nnot json\n", "printed", "e"},
		{`{"level":"warning","msg":"w"}`, "printed", "printed"},
		{`{"msg":7}`, "\xff", "?"},
		{"", strings.Repeat("a", maxShown) + "the end", "…" + strings.Repeat("a", maxShown-7) + "the end"},
	} {
		if got := said([]byte(c.log), []byte(c.printed)); got != c.want {
			t.Errorf("%q, %q: %q", c.log, c.printed, got)
		}
	}
}

func FuzzSaid(f *testing.F) {
	f.Add([]byte(`{"level":"error","msg":"e"}`), []byte("x"))
	f.Fuzz(func(t *testing.T, log, printed []byte) {
		if got := said(log, printed); len(got) > maxShown+8 {
			t.Errorf("%d bytes are shown", len(got))
		}
		if pid, err := parsePID(log); err == nil && pid < 2 {
			t.Errorf("pid %d", pid)
		}
	})
}

func TestWriteJSON(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := writeJSON(path, &specs.Process{Args: []string{"a"}}); err != nil {
		t.Fatal(err)
	}
	var p specs.Process
	b, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(b, &p) != nil || p.Args[0] != "a" {
		t.Errorf("%s, %v", b, err)
	}
}
