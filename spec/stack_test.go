package spec

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// loadText loads one stack file from a folder of its own.
func loadText(t testing.TB, text string) (*Loaded, error) {
	t.Helper()
	return Load(Options{Files: []string{"-"}, Stdin: []byte(text), Dir: "/nowhere/stack"})
}

func mustLoad(t testing.TB, text string) *Stack {
	t.Helper()
	l, err := loadText(t, text)
	if err != nil {
		t.Fatal(err)
	}
	return l.Stack
}

func TestWhatIsPrintedLoadsAgain(t *testing.T) {
	paths, _ := filepath.Glob("testdata/good/*.txt")
	for _, path := range paths {
		path, _ := filepath.Abs(path)
		t.Run(filepath.Base(path), func(t *testing.T) {
			l, err := readArchive(t, path).load(t)
			if err != nil {
				t.Fatal(err)
			}
			for _, print := range []func() ([]byte, error){l.Stack.YAML, l.Stack.JSON} {
				text, err := print()
				if err != nil {
					t.Fatal(err)
				}
				again, err := Load(Options{Files: []string{"-"}, Stdin: text, Dir: l.Stack.Dir})
				if err != nil {
					t.Fatalf("%v\n%s", err, text)
				}
				if !reflect.DeepEqual(again.Stack, l.Stack) {
					t.Errorf("got %+v\nwant %+v\nfrom\n%s", again.Stack, l.Stack, text)
				}
			}
			for name, c := range l.Stack.Containers {
				checkStored(t, name, c)
			}
		})
	}
}

func checkStored(t *testing.T, name string, c Container) {
	t.Helper()
	raw, err := EncodeContainer(c)
	if err != nil {
		t.Fatal(err)
	}
	back, err := DecodeContainer(raw)
	if err != nil || !reflect.DeepEqual(back, c) {
		t.Errorf("%s: stored %s, got %+v %v", name, raw, back, err)
	}
}

func TestStoredFormIsVersioned(t *testing.T) {
	raw, err := EncodeContainer(Container{Image: "x", CPUs: 1})
	want := `{"version":1,"container":{"image":"x","command":null,"entrypoint":null,"stop_grace_period":0,"cpus":1,"memory":0,"restart":{"policy":""},"replicas":0}}`
	if err != nil || string(raw) != want {
		t.Errorf("got %s %v", raw, err)
	}
	for _, bad := range []string{
		``, `{}`, `null`, `{"version":2,"container":{}}`, `{"version":1}`, `{"version":1,"container":null}`,
		`{"version":1,"container":{"imag":"x"}}`, `{"version":1,"container":{},"more":1}`, `{"version":1,"container":[]}`,
		`{"version":1,"container":{}} {}`,
	} {
		if _, err := DecodeContainer(json.RawMessage(bad)); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
}

func TestDiff(t *testing.T) {
	base := `
containers:
  web:
    image: nginx
    memory: 512MiB
    command: [a, b c]
    environment: {MODE: smoke, GONE: x, EMPTY: ""}
    mounts:
      - {type: volume, source: data, destination: /data}
      - {type: tmpfs, destination: /tmp}
    depends_on: [db]
    restart: on-failure:3
  db: {image: db}
volumes: {data: {}}
`
	for _, c := range []struct{ old, new, want string }{
		{"", "", ""},
		{"512MiB", "1GiB", "memory 512MiB → 1GiB"},
		{"    memory: 512MiB", "    cpus: 0.5", "cpus 4 → 0.5|memory 512MiB → 1GiB"},
		{"MODE: smoke, GONE: x", "MODE: full on, NEW: none", `environment.GONE x → none|environment.MODE smoke → "full on"|environment.NEW none → "none"`},
		{`EMPTY: ""`, "EMPTY: full", `environment.EMPTY "" → full`},
		{"[a, b c]", "[]", "command a 'b c' → []"},
		{"    command: [a, b c]\n", "", "command a 'b c' → none"},
		{"destination: /data}", "destination: /data, options: [ro]}", "mounts[/data].options none → ro"},
		{"destination: /tmp}", "destination: /run}", "mounts[/run] none → {type tmpfs, destination /run}|mounts[/tmp] {type tmpfs, destination /tmp} → none"},
		{"[db]", "{db: {condition: completed}}", "depends_on.db.condition started → completed"},
		{"    depends_on: [db]\n", "", "depends_on.db {condition started, required true, restart false} → none"},
		{"on-failure:3", "always", "restart on-failure:3 → always"},
		{"image: nginx", "image: nginx:2\n    labels: {a: b}", "image nginx → nginx:2|labels.a none → b"},
	} {
		old := mustLoad(t, base).Containers["web"]
		l, err := loadText(t, strings.Replace(base, c.old, c.new, 1))
		if err != nil {
			t.Fatal(err)
		}
		got := changesText(Diff(old, l.Stack.Containers["web"]))
		if got != c.want {
			t.Errorf("%s to %s: got %s", c.old, c.new, got)
		}
	}
	c := mustLoad(t, base).Containers["web"]
	swapped := c
	swapped.Mounts = []Mount{c.Mounts[1], c.Mounts[0]}
	swapped.StopGracePeriod = 90 * time.Second
	swapped.Image, swapped.RootFS, swapped.Pull = "", &RootFS{Tar: "/a.tar"}, ""
	want := "image nginx → none|rootfs none → {tar /a.tar}|pull missing → none|mounts /data, /tmp → /tmp, /data|stop_grace_period 10s → 1m30s"
	if got := changesText(Diff(c, swapped)); got != want {
		t.Errorf("got %s", got)
	}
}

func changesText(changes []Change) string {
	all := make([]string, len(changes))
	for i, c := range changes {
		all[i] = c.String()
	}
	return strings.Join(all, "|")
}

// Every field of Container is compared and printed: a new one cannot be left out
// of the table of keys.
func TestDiffSeesEveryField(t *testing.T) {
	values := map[string]any{
		"Pull": "always", "Command": []string{}, "Entrypoint": []string{"x"}, "Environment": map[string]string{"A": ""},
		"Mounts": []Mount{{Type: "tmpfs", Destination: "/x"}}, "DependsOn": map[string]Dependency{"a": {}},
		"Restart": Restart{Policy: "always"}, "Labels": map[string]string{"l": ""}, "RootFS": &RootFS{Block: "/b"},
		"StopGracePeriod": time.Second, "CPUs": 1.5, "Memory": uint64(1), "Replicas": 7,
		"TTY": true, "StdinOpen": true, "Privileged": true, "NoNewPrivileges": true, "ReadOnly": true, "OOMScoreAdj": 3,
		"CapAdd": []string{"ALL"}, "CapDrop": []string{"CAP_CHOWN"}, "Sysctls": map[string]string{"a.b": "1"},
		"Seccomp": Seccomp{Profile: "unconfined"}, "Init": true, "GroupAdd": []string{"disk"}, "Ulimits": map[string]Ulimit{"nofile": {1, 2}}, "MaskedPaths": []string{},
		"ReadonlyPaths": []string{"/x"}, "ShmSize": uint64(4096), "WritableLayer": &WritableLayer{1 << 30}, "Overhead": &Overhead{CPUs: 1},
		"Virtualization": true, "Vsock": true, "Sockets": []Socket{{Direction: "into", Source: "/a", Destination: "/b"}},
		"Secrets": []Given{{Source: "s", Target: "/run/secrets/s"}}, "Configs": []Given{{Source: "c", Target: "/c"}},
		"Hosts": map[string][]string{"10.0.0.1": {"a"}}, "DNS": &DNS{Domain: "x"}, "HealthCheck": &HealthCheck{Test: []string{"CMD", "true"}},
		"Hooks": &Hooks{PreStop: []Hook{{Command: []string{"true"}}}}, "Logging": &Logging{MaxFiles: 2},
		"Interfaces": []Interface{}, "Ports": []Port{{Target: 1}}, "Expose": []string{"80"}, "HostPorts": []string{"80"},
		"Devices": []string{"/dev/fuse"}, "Kernel": &Kernel{Path: "/k", Cmdline: []string{"quiet"}},
	}
	typ := reflect.TypeFor[Container]()
	for i := range typ.NumField() {
		f := typ.Field(i)
		var c Container
		value, ok := values[f.Name]
		if !ok {
			value = "text"
		}
		reflect.ValueOf(&c).Elem().Field(i).Set(reflect.ValueOf(value))
		key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		got := Diff(Container{}, c)
		if len(got) != 1 || !strings.HasPrefix(got[0].Field, key) {
			t.Errorf("%s: got %v", f.Name, got)
		}
	}
}

func TestInstancesAndOrder(t *testing.T) {
	s := mustLoad(t, `
containers:
  web: {image: x, replicas: 11, depends_on: [api, db]}
  api: {image: x, depends_on: [db]}
  db: {image: x}
  off: {image: x, replicas: 0}
`)
	var names []string
	for _, i := range s.Instances() {
		names = append(names, i.Name)
	}
	want := "api-1 db-1 web-1 web-2 web-3 web-4 web-5 web-6 web-7 web-8 web-9 web-10 web-11"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("got %s", got)
	}
	if got := fmt.Sprint(s.Order()); got != "[[db off] [api] [web]]" {
		t.Errorf("got %s", got)
	}
}

func TestFileIsFoundUpward(t *testing.T) {
	root := t.TempDir()
	deep := filepath.Join(root, "shop", "a", "b")
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(name string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(root, name), []byte("containers: {web: {image: x}}\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("shop/vzcompose.yml")
	l, err := Load(Options{Dir: deep})
	if err != nil || l.Stack.Name != "shop" || l.Stack.Dir != filepath.Join(root, "shop") || l.Files[0] != filepath.Join(root, "shop/vzcompose.yml") {
		t.Fatalf("got %+v %v", l, err)
	}
	write("shop/vzcompose.yaml")
	if l, err := Load(Options{Dir: deep}); err != nil || filepath.Base(l.Files[0]) != "vzcompose.yaml" {
		t.Errorf("got %+v %v", l, err)
	}
	write("shop/a/docker-compose.yml")
	if l, err := Load(Options{Dir: deep}); err != nil || l.Files[0] != filepath.Join(root, "shop/a/docker-compose.yml") {
		t.Errorf("got %+v %v", l, err)
	}
	t.Chdir(deep)
	if _, err := Load(Options{Files: []string{"../../vzcompose.yaml"}, Name: "Bad Name"}); err == nil || !strings.Contains(err.Error(), `"Bad Name" is not a name`) {
		t.Errorf("got %v", err)
	}
	l, err = Load(Options{Files: []string{"../../vzcompose.yaml"}, Name: "other", Dir: "."})
	if err != nil || l.Stack.Name != "other" || l.Stack.Dir != deep {
		t.Errorf("got %+v %v", l, err)
	}
}

func TestPathsStartAtTheFirstFile(t *testing.T) {
	root := t.TempDir()
	t.Chdir(root)
	for name, text := range map[string]string{
		"one/a.yaml":     "name: s\ncontainers: {web: {image: x}}\n",
		"two/b.yaml":     "containers: {web: {rootfs: {tar: root.tar}, labels: {v: $V}}, home: {rootfs: {directory: ~/files}}}\n",
		"one/root.tar":   "x",
		"one/.env":       "V=one\n",
		"two/.env":       "V=two\n",
		"home/files/one": "x",
	} {
		_ = os.MkdirAll(filepath.Dir(name), 0o755)
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	env := func(name string) (string, bool) { return filepath.Join(root, "home"), name == "HOME" }
	l, err := Load(Options{Files: []string{"one/a.yaml", "two/b.yaml"}, LookupEnv: env})
	if err != nil {
		t.Fatal(err)
	}
	web, home := l.Stack.Containers["web"], l.Stack.Containers["home"]
	if web.RootFS == nil || web.RootFS.Tar != filepath.Join(root, "one/root.tar") || web.Image != "" || web.Labels["v"] != "one" ||
		home.RootFS.Directory != filepath.Join(root, "home/files") {
		t.Errorf("got %+v %+v", web, home)
	}
}
