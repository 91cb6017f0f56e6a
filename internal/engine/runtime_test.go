package engine

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/image"
	"github.com/vzcompose/vzcompose/spec"
)

// The rules of the image-spec and of Compose: nil is what the image says, empty
// is none, and a declared entrypoint drops the image's command.
func TestCommandLine(t *testing.T) {
	img := image.Config{Entrypoint: []string{"/entry", "-e"}, Cmd: []string{"cmd"}}
	for name, x := range map[string]struct {
		entry, command []string
		img            image.Config
		want           string
	}{
		"the image's":                {nil, nil, img, "/entry -e cmd"},
		"the image's command":        {nil, nil, image.Config{Cmd: []string{"cmd"}}, "cmd"},
		"the image's entrypoint":     {nil, nil, image.Config{Entrypoint: []string{"/entry"}}, "/entry"},
		"a command":                  {nil, []string{"own"}, img, "/entry -e own"},
		"no command":                 {nil, []string{}, img, "/entry -e"},
		"an entrypoint":              {[]string{"own"}, nil, img, "own"},
		"no entrypoint":              {[]string{}, nil, img, ""},
		"no entrypoint, a command":   {[]string{}, []string{"own"}, img, "own"},
		"an entrypoint and command":  {[]string{"own"}, []string{"arg"}, img, "own arg"},
		"an entrypoint, no command":  {[]string{"own"}, []string{}, img, "own"},
		"none, of an image of none":  {nil, nil, image.Config{}, ""},
		"a command for a rootfs":     {nil, []string{"own", ""}, image.Config{}, "own "},
		"an entrypoint for a rootfs": {[]string{"own"}, nil, image.Config{}, "own"},
	} {
		got := commandLine(spec.Container{Entrypoint: x.entry, Command: x.command}, x.img)
		if strings.Join(got, " ") != x.want {
			t.Errorf("%s: %q, want %q", name, got, x.want)
		}
	}
	if strings.Join(img.Entrypoint, " ") != "/entry -e" || strings.Join(img.Cmd, " ") != "cmd" {
		t.Errorf("the image's own were changed: %+v", img)
	}
}

func TestNoCommandIsRefused(t *testing.T) {
	_, err := runtimeSpec(spec.Container{CPUs: 1, Memory: 1 << 20}, image.Config{}, "web-1", nil, nil)
	if !errs.Is(err, errs.InvalidArgument) || errs.HintOf(err) == "" {
		t.Errorf("got %v, hint %q", err, errs.HintOf(err))
	}
}

func TestEnvironment(t *testing.T) {
	for name, x := range map[string]struct {
		img  []string
		own  map[string]string
		want []string
	}{
		"none":                 {nil, nil, []string{defaultPath}},
		"the image's order":    {[]string{"B=1", "A=2"}, nil, []string{defaultPath, "B=1", "A=2"}},
		"declared, sorted":     {[]string{"M=0"}, map[string]string{"Z": "1", "A": "2"}, []string{defaultPath, "M=0", "A=2", "Z=1"}},
		"declared wins":        {[]string{"A=0", "B=1"}, map[string]string{"A": "2"}, []string{defaultPath, "B=1", "A=2"}},
		"the image's PATH":     {[]string{"PATH=/bin", "A=1"}, nil, []string{"PATH=/bin", "A=1"}},
		"declared PATH":        {[]string{"PATH=/bin"}, map[string]string{"PATH": "/own"}, []string{"PATH=/own"}},
		"the image says twice": {[]string{"A=1", "B=1", "A=2"}, nil, []string{defaultPath, "B=1", "A=2"}},
		"a name's beginning":   {[]string{"AB=1"}, map[string]string{"A": "2"}, []string{defaultPath, "AB=1", "A=2"}},
		"a value with =":       {[]string{"A=b=c"}, map[string]string{"X": "y=z"}, []string{defaultPath, "A=b=c", "X=y=z"}},
		"empty":                {[]string{"A=1"}, map[string]string{"A": ""}, []string{defaultPath, "A="}},
	} {
		got := environment(spec.Container{Environment: x.own}, image.Config{Env: x.img})
		if !slices.Equal(got, x.want) {
			t.Errorf("%s: %q, want %q", name, got, x.want)
		}
	}
}

func TestMountOf(t *testing.T) {
	ids := map[string]string{"data": "volume:vol0", "logs": "volume:vol1", "both": "share:share0", "read /src": "share:share1"}
	for name, x := range map[string]struct {
		in   spec.Mount
		want specs.Mount
	}{
		"volume": {spec.Mount{Type: "volume", Source: "data", Destination: "/d"},
			specs.Mount{Type: "bind", Source: "volume:vol0", Destination: "/d", Options: []string{"rbind"}}},
		"volume, read-only": {spec.Mount{Type: "volume", Source: "logs", Destination: "/l", Options: []string{"ro"}},
			specs.Mount{Type: "bind", Source: "volume:vol1", Destination: "/l", Options: []string{"rbind", "ro"}}},
		"volume that is a directory": {spec.Mount{Type: "volume", Source: "both", Destination: "/b", Options: []string{"nocopy"}},
			specs.Mount{Type: "bind", Source: "share:share0", Destination: "/b", Options: []string{"rbind"}}},
		"bind, read-only": {spec.Mount{Type: "bind", Source: "/src", Destination: "/s", Options: []string{"ro"}},
			specs.Mount{Type: "bind", Source: "share:share1", Destination: "/s", Options: []string{"rbind", "ro"}}},
		"tmpfs": {spec.Mount{Type: "tmpfs", Destination: "/t", Options: []string{"size=1m"}},
			specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: "/t", Options: []string{"nosuid", "nodev", "size=1m"}}},
		"another": {spec.Mount{Type: "debugfs", Destination: "/dbg", Options: []string{"ro"}},
			specs.Mount{Type: "debugfs", Source: "debugfs", Destination: "/dbg", Options: []string{"ro"}}},
		"another with a source": {spec.Mount{Type: "overlay", Source: "none", Destination: "/o"},
			specs.Mount{Type: "overlay", Source: "none", Destination: "/o"}},
	} {
		if got := mount(x.in, ids); !reflect.DeepEqual(got, x.want) {
			t.Errorf("%s: %+v, want %+v", name, got, x.want)
		}
	}
}

func TestMountsParentsFirst(t *testing.T) {
	own := []spec.Mount{
		{Type: "volume", Source: "data", Destination: "/srv/a/b"},
		{Type: "tmpfs", Destination: "/srv"},
		{Type: "tmpfs", Destination: "/dev/shm", Options: []string{"size=1g"}}, // takes the default's place
		{Type: "tmpfs", Destination: "/srv/a"},
	}
	got := mounts(spec.Container{Mounts: own}, map[string]string{"data": "vol0"}, nil)
	at := map[string]int{}
	for i, m := range got {
		if _, twice := at[m.Destination]; twice {
			t.Errorf("%s is mounted twice", m.Destination)
		}
		at[m.Destination] = i
	}
	if len(got) != len(defaultMounts())+3 {
		t.Errorf("%d mounts: %+v", len(got), got)
	}
	for _, pair := range [][2]string{{"/srv", "/srv/a"}, {"/srv/a", "/srv/a/b"}, {"/dev", "/dev/shm"}, {"/dev", "/dev/pts"},
		{"/dev", "/dev/mqueue"}, {"/sys", "/sys/fs/cgroup"}, {"/proc", "/srv"}} {
		if at[pair[0]] >= at[pair[1]] {
			t.Errorf("%s is not mounted before %s", pair[0], pair[1])
		}
	}
	if m := got[at["/dev/shm"]]; !slices.Contains(m.Options, "size=1g") || slices.Contains(m.Options, "size=65536k") {
		t.Errorf("/dev/shm is the default one: %+v", m)
	}
	if own[0].Options != nil || own[2].Options[0] != "size=1g" {
		t.Errorf("the declaration was changed: %+v", own)
	}
}

func TestRuntimeSpec(t *testing.T) {
	c := spec.Container{Command: []string{"run"}, CPUs: 1.5, Memory: 256 << 20, User: "web"}
	got, err := runtimeSpec(c, image.Config{WorkingDir: "/srv"}, "host", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := got.Linux.Resources
	if *r.CPU.Quota != 150_000 || *r.CPU.Period != 100_000 || *r.Memory.Limit != 256<<20 {
		t.Errorf("limits: cpu %d/%d, memory %d", *r.CPU.Quota, *r.CPU.Period, *r.Memory.Limit)
	}
	if got.Hostname != "host" || got.Process.Cwd != "/srv" || got.Process.Terminal || got.Root.Readonly {
		t.Errorf("got %+v", got.Process)
	}
	caps := got.Process.Capabilities
	for name, set := range map[string][]string{"bounding": caps.Bounding, "effective": caps.Effective, "permitted": caps.Permitted} {
		if len(set) != 14 || !slices.Contains(set, "CAP_NET_BIND_SERVICE") || slices.Contains(set, "CAP_SYS_ADMIN") {
			t.Errorf("%s: %q", name, set)
		}
	}
	if len(caps.Inheritable) != 0 || len(caps.Ambient) != 0 {
		t.Errorf("capabilities that programs inherit: %+v", caps)
	}
	for _, ns := range got.Linux.Namespaces {
		if ns.Type == specs.NetworkNamespace || ns.Type == specs.UserNamespace {
			t.Errorf("it has a %s namespace", ns.Type)
		}
	}
	for name, x := range map[string][3]string{ // declared, the image's, wanted
		"declared": {"/own", "/srv", "/own"}, "the image's": {"", "/srv", "/srv"}, "default": {"", "", "/"},
	} {
		c.WorkingDir = x[0]
		got, err := runtimeSpec(c, image.Config{WorkingDir: x[1]}, "host", nil, nil)
		if err != nil || got.Process.Cwd != x[2] {
			t.Errorf("%s working folder: %q, %v", name, got.Process.Cwd, err)
		}
	}
}

func TestUserInRuntimeSpec(t *testing.T) {
	for text, want := range map[string]specs.User{
		"": {AdditionalGids: []uint32{77}}, "web": {AdditionalGids: []uint32{77}}, "7": {UID: 7, AdditionalGids: []uint32{77}},
		"7:77": {UID: 7, GID: 77}, "7:web": {UID: 7, AdditionalGids: []uint32{77}}, "0:4": {GID: 4, AdditionalGids: []uint32{77}},
	} {
		c := spec.Container{Command: []string{"run"}, User: text, GroupAdd: []string{"web", "77", "77"}}
		got, err := runtimeSpec(c, image.Config{}, "h", nil, nil)
		if err != nil || !reflect.DeepEqual(got.Process.User, want) {
			t.Errorf("%q: %+v, want %+v, %v", text, got.Process.User, want, err)
		}
		caps := got.Process.Capabilities
		if len(caps.Bounding) != 14 || (len(caps.Effective) == 0) != (want.UID != 0) || len(caps.Permitted) != len(caps.Effective) {
			t.Errorf("%q: %+v", text, caps)
		}
	}
}

func TestCPUQuota(t *testing.T) {
	for cpus, want := range map[float64]int64{0.01: 1000, 0.1: 10_000, 0.29: 29_000, 0.57: 57_000, 1: 100_000, 2.5: 250_000} {
		got, err := runtimeSpec(spec.Container{Command: []string{"run"}, CPUs: cpus, Memory: 1}, image.Config{}, "h", nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if q := *got.Linux.Resources.CPU.Quota; q != want {
			t.Errorf("%g CPUs: %d us, want %d", cpus, q, want)
		}
	}
}

func TestMachineMemory(t *testing.T) {
	const mib = 1 << 20
	for container, want := range map[uint64]uint64{
		0: 128 * mib, 1: 130 * mib, 2 * mib: 132 * mib, 64 * mib: 194 * mib,
		512 * mib: 656 * mib, 1024 * mib: 1184 * mib, 1024*mib + 1: 1186 * mib,
	} {
		if got := machineMemory(spec.Container{Memory: container}); got != want {
			t.Errorf("container %d: %d MiB and %d bytes, want %d MiB", container, got/mib, got%mib, want/mib)
		}
	}
}
