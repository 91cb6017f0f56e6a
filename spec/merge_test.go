package spec

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// mergedFrom prints the stack that files, laid over each other in order, are.
func mergedFrom(t *testing.T, dir string, files ...string) string {
	t.Helper()
	var paths []string
	for i, text := range files {
		paths = append(paths, filepath.Join(dir, fmt.Sprintf("%d.yaml", i)))
		if err := os.WriteFile(paths[i], []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l, err := Load(Options{Files: paths, Name: "s", Dir: dir})
	if err != nil {
		t.Fatalf("%q: %v", files, err)
	}
	text, err := l.Stack.YAML()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// parts are the mappings of a container that are merged, each in two parts of
// which together is what they say.
var parts = []struct{ first, later, together string }{
	{"healthcheck: {test: x, retries: 2}", "healthcheck: {interval: 7s}", "healthcheck: {test: x, retries: 2, interval: 7s}"},
	{"healthcheck: {interval: 7s}", "healthcheck: {test: [CMD, x]}", "healthcheck: {test: [CMD, x], interval: 7s}"},
	{"healthcheck: {test: x}", "healthcheck: {disable: true}", "healthcheck: {test: [NONE]}"},
	{"ulimits: {nofile: {soft: 1}}", "ulimits: {nofile: {hard: 2}}", "ulimits: {nofile: {soft: 1, hard: 2}}"},
	{"ulimits: {nofile: {soft: 1, hard: 9}}", "ulimits: {nofile: {soft: 5}}", "ulimits: {nofile: {soft: 5, hard: 9}}"},
	{"hooks: {post_start: [{command: a}]}", "hooks: {pre_stop: [{command: b}]}", "hooks: {post_start: [{command: a}], pre_stop: [{command: b}]}"},
	{"logging: {max_size: 1m}", "logging: {max_files: 2}", "logging: {max_size: 1m, max_files: 2}"},
	{"overhead: {cpus: 1}", "overhead: {memory: 128m}", "overhead: {cpus: 1, memory: 128m}"},
	{"writable_layer: {size: 32m}", "writable_layer: {}", "writable_layer: {size: 32m}"},
	{"kernel: {modules: .}", "kernel: {path: f, cmdline: a}", "kernel: {path: f, modules: ., cmdline: a}"},
	{"dns: {domain: d}", "dns: {search: [s]}", "dns: {domain: d, search: [s]}"},
	{"hosts: {10.0.0.1: a}", "hosts: {10.0.0.2: b}", "hosts: {10.0.0.1: a, 10.0.0.2: b}"},
	{"depends_on: {b: {restart: true}}", "depends_on: {b: {condition: completed}}", "depends_on: {b: {restart: true, condition: completed}}"},
	{"networks: {n: {aliases: [a]}}", "networks: {n: {ipv4_address: 10.9.0.9}}", "networks: {n: {aliases: [a], ipv4_address: 10.9.0.9}}"},
	{"environment: {A: 1}", "environment: [B=2]", "environment: {A: 1, B: 2}"},
	{"labels: [a=1]", "labels: {b: 2}", "labels: {a: 1, b: 2}"},
	{"sysctls: {net.a: 1}", "sysctls: {net.b: 2}", "sysctls: {net.a: 1, net.b: 2}"},
	{"image: y", "rootfs: {tar: root.tar}", "rootfs: {tar: root.tar}"},
	{"rootfs: {tar: root.tar}", "rootfs: {directory: .}", "rootfs: {directory: .}"},
	{"mounts: [v:/v]", "mounts: [{type: tmpfs, destination: /v}]", "mounts: [{type: tmpfs, destination: /v}]"},
}

// stackOf is a stack whose container a has the key.
func stackOf(key string) string {
	image := "image: x, "
	if strings.HasPrefix(key, "rootfs") || strings.HasPrefix(key, "image") {
		image = ""
	}
	return "containers: {a: {" + image + key + "}, b: {image: x}}\nnetworks: {n: {subnet: 10.9.0.0/24}}\nvolumes: {v: {}}\n"
}

func TestALaterFileMayGiveAPartOfAMapping(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"root.tar", "f"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range parts {
		want := mergedFrom(t, dir, stackOf(c.together))
		if got := mergedFrom(t, dir, stackOf(c.first), "containers: {a: {"+c.later+"}}"); got != want {
			t.Errorf("%s, then %s:\n%s\nwant\n%s", c.first, c.later, got, want)
		}
	}
	const base = "containers: {a: {image: x, mounts: [v:/v], networks: [n], secrets: [s], configs: [c]}}\n"
	whole := map[string]string{"networks": "{n: {subnet: 10.9.0.0/24, mtu: 1400}}", "volumes": "{v: {size: 2g}}",
		"secrets": "{s: {file: f}}", "configs": "{c: {content: x}}"}
	for _, c := range []struct{ key, first, later, together string }{
		{"networks", "{n: {gateway: 10.9.0.7}}", "{n: {subnet: 10.9.0.0/24}}", "{n: {subnet: 10.9.0.0/24, gateway: 10.9.0.7}}"},
		{"volumes", "{v: {size: 1g}}", "{v: {}}", "{v: {size: 1g}}"},
		{"secrets", "{s: {file: f}}", "{s: {environment: E}}", "{s: {environment: E}}"},
		{"secrets", "{s: {}}", "{s: {file: f}}", "{s: {file: f}}"},
		{"configs", "{c: {content: a}}", "{c: {file: f}}", "{c: {file: f}}"},
	} {
		rest := base
		for key, text := range whole {
			if key != c.key {
				rest += key + ": " + text + "\n"
			}
		}
		want := mergedFrom(t, dir, rest+c.key+": "+c.together)
		if got := mergedFrom(t, dir, rest+c.key+": "+c.first, c.key+": "+c.later); got != want {
			t.Errorf("%s: %s, then %s:\n%s\nwant\n%s", c.key, c.first, c.later, got, want)
		}
	}
	part := "defaults: {ulimits: {nofile: {soft: 1}}}\n"
	if got, want := mergedFrom(t, dir, part+"containers: {a: {image: x, ulimits: {nofile: {hard: 2}}}}"),
		mergedFrom(t, dir, "containers: {a: {image: x, ulimits: {nofile: {soft: 1, hard: 2}}}}"); got != want {
		t.Errorf("a part in defaults:\n%s\nwant\n%s", got, want)
	}
}

// What is a mapping is merged as one: a key whose value may be a mapping with
// keys of its own has a merge, and stands in the table above.
func TestEveryMappingIsMerged(t *testing.T) {
	var isMapping func(s schemaDoc) bool
	isMapping = func(s schemaDoc) bool {
		if any, ok := s["anyOf"].([]any); ok {
			return slices.ContainsFunc(any, func(one interface{}) bool { return isMapping(one.(schemaDoc)) })
		}
		return s["properties"] != nil || s["additionalProperties"] != nil || s["$ref"] != nil
	}
	for _, f := range containerKeys().fields {
		if f.schema == nil || !isMapping(f.schema) {
			continue
		}
		if f.merge == nil {
			t.Errorf("%s is not merged", f.name)
		}
		if !slices.ContainsFunc(parts, func(p struct{ first, later, together string }) bool {
			return strings.HasPrefix(p.first, f.name+":")
		}) {
			t.Errorf("%s is not in the table", f.name)
		}
	}
	for _, f := range stackKeys().fields {
		if f.schema != nil && isMapping(f.schema) && f.merge == nil {
			t.Errorf("%s is not merged", f.name)
		}
	}
}

// An entry of a list is whole in its file: a later one replaces it, or is added.
func TestAnEntryOfAListIsWholeInItsFile(t *testing.T) {
	dir := t.TempDir()
	var files []string
	for name, text := range map[string]string{
		"0.yaml": stackOf("mounts: [{destination: /a}], hooks: {post_start: [{user: root}]}"),
		"1.yaml": "containers: {a: {mounts: [{type: tmpfs, destination: /a}], hooks: {post_start: []}}}",
	} {
		files = append(files, filepath.Join(dir, name))
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(files)
	_, err := Load(Options{Files: files, Name: "s"})
	for _, want := range []string{`containers.a.mounts[0]: "type" is missing`, `containers.a.hooks.post_start[0]: "command" is missing`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not have %s", err, want)
		}
	}
}
