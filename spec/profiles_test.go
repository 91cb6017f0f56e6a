package spec

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const profiled = `
name: shop
containers:
  web: {image: web, ports: ["8080:80"], depends_on: {trace: {condition: started, required: false}}}
  db: {image: db, profiles: [db, all], mounts: [data:/data]}
  admin: {image: admin, profiles: [tools], depends_on: [db]}
  trace: {image: trace, profiles: [debug], mounts: [data:/data], env_file: nowhere.env}
  web-debug: {image: web, profiles: [debug], ports: ["8081:80", "8082:81"]}
volumes: {data: {}, free: {}}
`

func loadProfiles(t *testing.T, text string, profiles, named []string) (*Loaded, error) {
	t.Helper()
	return Load(Options{Files: []string{"-"}, Dir: t.TempDir(), Stdin: []byte(text), Profiles: profiles, Named: named})
}

func TestProfiles(t *testing.T) {
	for _, c := range []struct {
		profiles, named string
		want, inactive  string
		volumes         string
		err             string
	}{
		{want: "web", inactive: "admin db trace web-debug", volumes: "free"},
		{profiles: "db", want: "db web", inactive: "admin trace web-debug", volumes: "data free"},
		{profiles: "all", want: "db web", inactive: "admin trace web-debug", volumes: "data free"},
		{profiles: "nothing", want: "web", inactive: "admin db trace web-debug", volumes: "free"},
		{profiles: "tools", err: `containers.admin.depends_on: container "db" is not in the stack: its profiles "db", "all" are not asked for; --profile db has it`},
		{profiles: "tools db", want: "admin db web", inactive: "trace web-debug", volumes: "data free"},
		{named: "admin", want: "admin db web", inactive: "trace web-debug", volumes: "data free"},
		{named: "nobody", want: "web", inactive: "admin db trace web-debug", volumes: "free"},
		{profiles: "debug", err: "nowhere.env"},
	} {
		t.Run(c.profiles+" "+c.named, func(t *testing.T) {
			loaded, err := loadProfiles(t, profiled, strings.Fields(c.profiles), strings.Fields(c.named))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			s := loaded.Stack
			for what, pair := range map[string][2]string{
				"containers": {strings.Join(sortedKeys(s.Containers), " "), c.want}, "inactive": {strings.Join(s.Inactive, " "), c.inactive},
				"volumes": {strings.Join(sortedKeys(s.Volumes), " "), c.volumes}, "profiles": {strings.Join(loaded.Profiles, " "), "all db debug tools"},
			} {
				if pair[0] != pair[1] {
					t.Errorf("%s: %s, want %s", what, pair[0], pair[1])
				}
			}
			printed, err := s.YAML()
			if err != nil {
				t.Fatal(err)
			}
			again, err := loadText(t, string(printed))
			if err != nil || !slices.Equal(sortedKeys(again.Stack.Containers), sortedKeys(s.Containers)) {
				t.Errorf("what is printed loads as %v, %v", again, err)
			}
		})
	}
}

// Profiles may be asked for in .env, beside the stack file.
func TestProfilesOfTheEnvironment(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "vzcompose.yaml"), []byte(profiled), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"vzcompose.yaml": profiled, ".env": "VZCOMPOSE_PROFILES=db, nothing\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for want, o := range map[string]Options{
		"db web":        {Dir: dir},
		"admin db web":  {Dir: dir, LookupEnv: func(name string) (string, bool) { return "tools,db", name == "VZCOMPOSE_PROFILES" }},
		"admin  db web": {Files: []string{filepath.Join(other, "vzcompose.yaml")}, LookupEnv: func(name string) (string, bool) { return "tools,db", name == "COMPOSE_PROFILES" }},
		"web":           {Dir: dir, Profiles: []string{"other"}},
	} {
		loaded, err := Load(o)
		if err != nil || strings.Join(sortedKeys(loaded.Stack.Containers), " ") != strings.ReplaceAll(want, "  ", " ") {
			t.Errorf("%v, %v, want %s", loaded, err, want)
		}
	}
}

// What takes another's place may have its port, its socket and its address.
func TestAlternativesMayCollide(t *testing.T) {
	text := `
containers:
  a: {image: a, profiles: [a], ports: ["80:80"], sockets: [{direction: out_of, source: /s, destination: ./s}], interfaces: [{network: n, address: 10.0.0.9}]}
  b: {image: b, profiles: [b], ports: ["80:80"], sockets: [{direction: out_of, source: /s, destination: ./s}], interfaces: [{network: n, address: 10.0.0.9}]}
networks: {n: {subnet: 10.0.0.0/24}}
`
	for _, p := range []string{"a", "b"} {
		if _, err := loadProfiles(t, text, []string{p}, nil); err != nil {
			t.Errorf("%s: %v", p, err)
		}
	}
	_, err := loadProfiles(t, text, []string{"a", "b"}, nil)
	for _, want := range []string{"port 80 of the host is already", "is already opened for container", "10.0.0.9"} {
		if !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("both: %v, want %s", err, want)
		}
	}
}

func TestProfileNames(t *testing.T) {
	for name, ok := range map[string]bool{"dev": true, "a.b_c-1": true, "1": true, "": false, "-a": false, "a b": false, "*": false, "é": false, strings.Repeat("a", 129): false} {
		_, err := loadText(t, fmt.Sprintf("containers: {a: {image: a, profiles: [%q]}}\n", name))
		if (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}
