//go:build linux

package guest

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"reflect"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
)

func volumeAt(id string) (string, error) {
	if id == "volume:v" {
		return "/run/v", nil
	}
	return "", errs.New(errs.NotFound, "no volume")
}

func TestParseMount(t *testing.T) {
	for _, c := range []struct {
		in   specs.Mount
		want mountOrder
	}{
		{specs.Mount{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			mountOrder{Source: "proc", Target: "/proc", Type: "proc", Flags: unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV}},
		{specs.Mount{Destination: "/dev/shm/", Type: "tmpfs", Options: []string{"ro", "rw", "strictatime", "mode=1777", "size=1k"}},
			mountOrder{Source: "tmpfs", Target: "/dev/shm", Type: "tmpfs", Flags: unix.MS_STRICTATIME, Data: "mode=1777,size=1k"}},
		{specs.Mount{Destination: "/c", Type: "cgroup", Options: []string{"relatime", "ro"}},
			mountOrder{Source: "cgroup2", Target: "/c", Type: "cgroup2", Flags: unix.MS_RELATIME | unix.MS_RDONLY}},
		{specs.Mount{Destination: "/v", Type: "bind", Source: "volume:v", Options: []string{"rbind", "ro", "nosuid", "noatime", "rprivate"}},
			mountOrder{Source: "/run/v", Target: "/v", Flags: unix.MS_BIND | unix.MS_REC,
				Set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOATIME, Clear: unix.MOUNT_ATTR__ATIME,
				Propagation: []uintptr{unix.MS_PRIVATE | unix.MS_REC}}},
		{specs.Mount{Destination: "/b", Source: "/src", Options: []string{"bind", "rro", "rnodev", "rw", "exec"}},
			mountOrder{Source: "/src", Target: "/b", Flags: unix.MS_BIND, Clear: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOEXEC,
				SetRec: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV}},
	} {
		got, err := parseMount(c.in, volumeAt)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%+v:\n got %+v %v\nwant %+v", c.in, got, err, c.want)
		}
	}
}

func TestParseMountErrors(t *testing.T) {
	for _, c := range []struct {
		in    specs.Mount
		class errs.Class
	}{
		{specs.Mount{Destination: "rel", Type: "tmpfs"}, errs.InvalidArgument},
		{specs.Mount{Destination: "/", Type: "tmpfs"}, errs.InvalidArgument},
		{specs.Mount{Destination: "/../..", Type: "tmpfs"}, errs.InvalidArgument},
		{specs.Mount{Destination: "/x", Type: ""}, errs.InvalidArgument},
		{specs.Mount{Destination: "/x", Type: "t\x00"}, errs.InvalidArgument},
		{specs.Mount{Destination: "/x", Type: "../t"}, errs.InvalidArgument},
		{specs.Mount{Destination: "/x", Type: "bind", Source: "rel"}, errs.InvalidArgument},
		{specs.Mount{Destination: "/x", Type: "bind", Source: "volume:w"}, errs.NotFound},
		{specs.Mount{Destination: "/x", Type: "bind", Source: "/y", Options: []string{"size=1"}}, errs.InvalidArgument},
		{specs.Mount{Destination: "/x", Type: "tmpfs", Options: []string{"rro"}}, errs.InvalidArgument},
		{specs.Mount{Destination: "/x", Type: "tmpfs", Options: []string{strings.Repeat("x", 5000)}}, errs.InvalidArgument},
		{specs.Mount{Destination: "/x", Type: "tmpfs", UIDMappings: []specs.LinuxIDMapping{{}}}, errs.Unsupported},
	} {
		_, err := parseMount(c.in, volumeAt)
		wantClass(t, err, c.class, "")
	}
}

func FuzzParseMount(f *testing.F) {
	f.Add("/proc", "proc", "proc", "nosuid,noexec,ro")
	f.Add("/v", "bind", "volume:v", "rbind,rro,rslave,noatime")
	f.Fuzz(func(t *testing.T, dest, fstype, source, options string) {
		o, err := parseMount(specs.Mount{Destination: dest, Type: fstype, Source: source, Options: strings.Split(options, ",")}, volumeAt)
		if err != nil {
			return
		}
		bind := o.Flags&unix.MS_BIND != 0
		switch {
		case !strings.HasPrefix(o.Target, "/") || o.Target == "/" || strings.Contains(o.Target+"/", "/../"):
			t.Errorf("target %q", o.Target)
		case bind && (o.Type != "" || !strings.HasPrefix(o.Source, "/") || o.Flags&^(unix.MS_BIND|unix.MS_REC) != 0):
			t.Errorf("bind %+v", o)
		case !bind && (o.Type == "" || o.Set|o.Clear != 0):
			t.Errorf("filesystem %+v", o)
		case strings.ContainsRune(o.Target+o.Source+o.Type+o.Data, 0):
			t.Errorf("zero byte in %+v", o)
		}
	})
}

func FuzzDecodeOrders(f *testing.F) {
	o, err := parseSpec(containerSpec([]string{"true"}), "/r", volumeAt)
	if err != nil {
		f.Fatal(err)
	}
	b, _ := json.Marshal(o)
	f.Add(string(b))
	f.Add(`{"container":{"mounts":[{"flags":-1}]},"namespaces":-1,"late":1}`)
	f.Fuzz(func(t *testing.T, s string) {
		o, err := decodeOrders[orders](strings.NewReader(s))
		if (o == nil) == (err == nil) {
			t.Errorf("%v %v", o, err)
		}
	})
}

func FuzzParseReport(f *testing.F) {
	f.Add([]byte("R"))
	f.Add([]byte(`R{"class":"not found","message":"x"}`))
	f.Add([]byte(`{"message":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := parseReport(b); err == nil && string(b) != "R" {
			t.Errorf("%q is no success", b)
		}
	})
}

func TestParseSpecRefuses(t *testing.T) {
	hooks, long := &specs.Hooks{}, uint32(7)
	for name, c := range map[string]struct {
		change func(*specs.Spec)
		class  errs.Class
	}{
		"no process": {func(s *specs.Spec) { s.Process = nil }, errs.InvalidArgument},
		"other root": {func(s *specs.Spec) { s.Root.Path = "/" }, errs.InvalidArgument},
		"hooks":      {func(s *specs.Spec) { s.Hooks = hooks }, errs.Unsupported},
		"net": {func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "network"})
		}, errs.Unsupported},
		"user": {func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
		}, errs.Unsupported},
		"by path":     {func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "/proc/1/ns/pid" }, errs.Unsupported},
		"no pid":      {func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] }, errs.Unsupported},
		"seccomp":     {func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{} }, errs.Unsupported},
		"apparmor":    {func(s *specs.Spec) { s.Process.ApparmorProfile = "x" }, errs.Unsupported},
		"shared":      {func(s *specs.Spec) { s.Linux.RootfsPropagation = "shared" }, errs.Unsupported},
		"masked":      {func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"rel"} }, errs.InvalidArgument},
		"sysctl":      {func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"../x": ""} }, errs.InvalidArgument},
		"no command":  {func(s *specs.Spec) { s.Process.Args = nil }, errs.InvalidArgument},
		"cwd":         {func(s *specs.Spec) { s.Process.Cwd = "rel" }, errs.InvalidArgument},
		"env":         {func(s *specs.Spec) { s.Process.Env = []string{"=x"} }, errs.InvalidArgument},
		"argument":    {func(s *specs.Spec) { s.Process.Args = []string{"a\x00"} }, errs.InvalidArgument},
		"capability":  {func(s *specs.Spec) { s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_X"}} }, errs.InvalidArgument},
		"rlimit":      {func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_X"}} }, errs.InvalidArgument},
		"soft > hard": {func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 2, Hard: 1}} }, errs.InvalidArgument},
		"device":      {func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "z"}} }, errs.InvalidArgument},
		"rdma": {func(s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"x": {HcaHandles: &long}}}
		}, errs.Unsupported},
		"unified": {func(s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{Unified: map[string]string{"cgroup.procs": "1"}}
		}, errs.InvalidArgument},
		"unified up": {func(s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{Unified: map[string]string{"../x.y": "1"}}
		}, errs.InvalidArgument},
		"mounts": {func(s *specs.Spec) { s.Mounts = make([]specs.Mount, maxMounts+1) }, errs.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseSpec(containerSpec([]string{"true"}, c.change), "/r", volumeAt)
			wantClass(t, err, c.class, "")
		})
	}
}

func TestSettings(t *testing.T) {
	lim, minus, quota, period, shares, pids := int64(1<<20), int64(-1), int64(5000), uint64(10000), uint64(1024), int64(9)
	now, p := settings(&specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &lim, Reservation: &minus},
		CPU:    &specs.LinuxCPU{Quota: &quota, Period: &period, Shares: &shares, Cpus: "0"},
		Pids:   &specs.LinuxPids{Limit: &pids}, Unified: map[string]string{"memory.high": "1"},
	})
	want := []setting{{"memory.oom.group", "1"}, {"memory.swap.max", "0"}, {"memory.max", "1048576"}, {"memory.low", "max"},
		{"cpu.weight", "39"}, {"cpu.max", "5000 10000"}, {"cpuset.cpus", "0"}, {"memory.high", "1"}}
	if !reflect.DeepEqual(now, want) || p != "9" {
		t.Errorf("%v %q", now, p)
	}
}

func TestParseCaps(t *testing.T) {
	s, err := parseCaps(&specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"}, Ambient: []string{"CAP_KILL"}})
	if err != nil || s.Bounding != 1|1<<unix.CAP_CHECKPOINT_RESTORE || s.Ambient != 1<<unix.CAP_KILL || s.Effective != 0 {
		t.Errorf("%+v %v", s, err)
	}
	if n := len(strings.Fields(capNames)); n != unix.CAP_LAST_CAP+1 {
		t.Errorf("%d names of %d capabilities", n, unix.CAP_LAST_CAP+1)
	}
}

func TestCheckSetup(t *testing.T) {
	ok := agentproto.Setup{Hostname: "h", Time: testTime(), Entropy: make([]byte, 32), Root: agentproto.Root{Lower: "l", Upper: "u"}}
	if err := checkSetup(ok); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*agentproto.Setup){
		"no lower":   func(s *agentproto.Setup) { s.Root.Lower = "" },
		"twice":      func(s *agentproto.Setup) { s.Root.Upper = "l" },
		"long":       func(s *agentproto.Setup) { s.Root.Upper = strings.Repeat("x", 21) },
		"path":       func(s *agentproto.Setup) { s.Volumes = []agentproto.Volume{{ID: "../x"}} },
		"no entropy": func(s *agentproto.Setup) { s.Entropy = nil },
		"entropy":    func(s *agentproto.Setup) { s.Entropy = make([]byte, 513) },
		"no time":    func(s *agentproto.Setup) { *s = agentproto.Setup{Root: s.Root, Entropy: s.Entropy} },
		"name":       func(s *agentproto.Setup) { s.Hostname = strings.Repeat("x", 65) },
	} {
		s := ok
		change(&s)
		if !errs.Is(checkSetup(s), errs.InvalidArgument) {
			t.Errorf("%s: %v", name, checkSetup(s))
		}
	}
}

// A name in the image that only looks like the database is not waited for.
func TestReadBounded(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir+"/big", strings.Repeat("x", 11), 0o600)
	if _, err := readBounded(dir+"/fifo", 10); !errs.Is(err, errs.InvalidArgument) {
		t.Error(err)
	}
	if _, err := readBounded(dir+"/big", 10); !errs.Is(err, errs.ResourceExhausted) {
		t.Error(err)
	}
	if _, err := readBounded(dir+"/none", 10); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestProbe(t *testing.T) {
	dir := t.TempDir()
	image := func(at int, magic ...byte) string {
		b := make([]byte, 2048)
		copy(b[at:], magic)
		name := dir + "/img"
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	if fs, err := probe(image(1024, 0xe2, 0xe1, 0xf5, 0xe0)); fs != "erofs" || err != nil {
		t.Error(fs, err)
	}
	if fs, err := probe(image(1080, 0x53, 0xef)); fs != "ext4" || err != nil {
		t.Error(fs, err)
	}
	_, err := probe(image(0))
	wantClass(t, err, errs.DataLoss, "neither")
	writeFile(t, dir+"/img", "short", 0o600)
	_, err = probe(dir + "/img")
	wantClass(t, err, errs.DataLoss, "superblock")
}
