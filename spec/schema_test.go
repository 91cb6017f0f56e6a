package spec

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"

	"github.com/vzcompose/vzcompose/schema"
)

const schemaFile = "../schema/vzcompose.schema.json"

func TestSchemaFileIsMadeFromTheKeys(t *testing.T) {
	want, err := schemaJSON()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(schemaFile, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(schema.JSON(), want) {
		t.Errorf("%s is not what the keys make; run: go generate ./spec", schemaFile)
	}
}

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema.JSON()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("stack.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("stack.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// asJSON reads YAML as an editor does, with its merges and without our tags.
func asJSON(t *testing.T, text string) any {
	t.Helper()
	var v any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	out, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSchemaAgreesWithLoad(t *testing.T) {
	s := compileSchema(t)
	good, _ := filepath.Glob("testdata/good/*.txt")
	for _, path := range good {
		a := readArchive(t, path)
		for name, text := range a.files {
			if !strings.HasSuffix(name, ".yaml") && name != "stdin" && name != "want" {
				continue
			}
			if _, after, ok := strings.Cut(text, "\nname: "); ok && name == "want" {
				text = "name: " + after // without the warnings
			}
			if err := s.Validate(asJSON(t, text)); err != nil {
				t.Errorf("%s %s: %v", path, name, err)
			}
		}
	}
	for _, text := range []string{
		`{nam: x}`, `{containers: {web: {restrat: always}}}`, `{containers: {web: {ports: [a: 1]}}}`, `{networks: {front: {subnt: x}}}`,
		`{containers: {web: {memory: 5xyz}}}`, `{containers: {web: {cpus: two}}}`, `{containers: {web: {cpus: -3}}}`,
		`{containers: {web: {mounts: [{type: tmpfs}]}}}`, `{containers: {web: {mounts: [{type: "Not A Type", destination: /a}]}}}`,
		`{containers: {web: {restart: sometimes}}}`, `{containers: {web: {depends_on: {db: {condition: well}}}}}`,
		`{containers: {"We b": {}}}`, `{containers: {web: {image: a, rootfs: {tar: b}}}}`, `{volumes: {v: {size: 1}}}`,
		`{containers: {web: {rootfs: {}}}}`, `{containers: {web: {replicas: 101}}}`, `{name: "My Shop"}`,
		`{containers: {web: {environment: 3}}}`, `{services: {}}`, `{defaults: {helthcheck: 1}}`,
	} {
		if s.Validate(asJSON(t, text)) == nil {
			t.Errorf("the schema allows %s", text)
		}
	}
}

func TestExamplesLoadAndFitTheSchema(t *testing.T) {
	s := compileSchema(t)
	paths, err := filepath.Glob("../examples/*/vzcompose.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(asJSON(t, string(text))); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if _, err := Load(Options{Files: []string{path}}); err != nil {
			t.Error(err)
		}
	}
}

// The language's keys, each read now or reserved: none of them is unknown.
func TestEveryKeyOfTheLanguageIsKnown(t *testing.T) {
	read := `image rootfs pull command entrypoint environment env_file working_dir user stop_signal stop_grace_period
		cpus memory mounts hostname depends_on restart replicas labels init group_add ulimits masked_paths readonly_paths
		shm_size writable_layer overhead virtualization oci_runtime sockets secrets configs hosts dns healthcheck hooks logging boot_log
		interfaces networks ports expose profiles devices kernel platform seccomp vsock`
	keys := containerKeys()
	for _, name := range strings.Fields(read) {
		if f := keys.field(name); f == nil || f.decode == nil {
			t.Errorf("%s is not read", name)
		}
	}
	seen := map[string]bool{}
	for _, f := range keys.fields {
		if seen[f.name] {
			t.Errorf("%s is in the table twice", f.name)
		}
		seen[f.name] = true
	}
}
