package composetest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// refused are keys that no file can have which is to load.
var refused = []string{
	"jobs", "configs.external", "secrets.external", "networks.external", "secrets.driver", "secrets.driver_opts",
	"configs.template_driver", "secrets.template_driver", "volumes.external.name",
	"services.credential_spec", "services.external_links", "services.gpus", "services.pid", "services.pre_start", "services.provider",
	"services.deploy.resources.reservations.devices", "services.volumes.image", "services.volumes.volume.subpath", "services.cpu_count", "services.cpu_percent", "services.uts",
	"services.post_start.privileged", "services.pre_stop.privileged",
}

// The files use every key of the specification that is not refused.
func TestFilesUseEveryKey(t *testing.T) {
	data, err := os.ReadFile("../../spec/testdata/compose-spec.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(data, &schema); err != nil {
		t.Fatal(err)
	}
	want, used := lines{}, lines{}
	properties(schema, map[string]any{"properties": schema["properties"]}, "", 0, want)
	paths, _ := filepath.Glob("testdata/*.txt")
	for _, path := range paths {
		p := unpack(t, path)
		err := filepath.WalkDir(p.dir, func(file string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || !slices.Contains([]string{".yaml", ".yml"}, filepath.Ext(file)) {
				return err
			}
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			var n yaml.Node
			if err := yaml.Unmarshal(text, &n); err != nil {
				return err
			}
			keys(&n, "", true, used)
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, key := range want.without(used) {
		if !slices.ContainsFunc(refused, func(r string) bool { return key == r || strings.HasPrefix(key, r+".") }) {
			t.Errorf("no file has %s", key)
		}
	}
}

// properties adds the keys of a schema, without the names that users give.
func properties(root, schema map[string]any, at string, depth int, all lines) {
	if depth > 12 {
		return
	}
	below := func(v any, at string) {
		if m, ok := v.(map[string]any); ok {
			properties(root, m, at, depth+1, all)
		}
	}
	if ref, ok := schema["$ref"].(string); ok {
		below(root["$defs"].(map[string]any)[strings.TrimPrefix(ref, "#/$defs/")], at)
	}
	if of, ok := schema["properties"].(map[string]any); ok {
		for name, v := range of {
			key := strings.TrimPrefix(at+"."+name, ".")
			all[key] = true
			below(v, key)
		}
	}
	if of, ok := schema["patternProperties"].(map[string]any); ok {
		for pattern, v := range of {
			if pattern != "^x-" {
				below(v, at)
			}
		}
	}
	below(schema["additionalProperties"], at)
	below(schema["items"], at)
	for _, way := range []string{"oneOf", "anyOf", "allOf"} {
		of, _ := schema[way].([]any)
		for _, v := range of {
			below(v, at)
		}
	}
}

// keys adds the keys that a file has, each with and without what is above it: names
// that users give are not told from keys.
func keys(n *yaml.Node, at string, top bool, all lines) {
	switch n.Kind {
	case yaml.AliasNode:
		keys(n.Alias, at, top, all)
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			name := n.Content[i].Value
			if name == "<<" {
				keys(n.Content[i+1], at, top, all)
				continue
			}
			key := strings.TrimPrefix(at+"."+name, ".")
			all[key] = true
			keys(n.Content[i+1], key, false, all)
			if !top { // a name that the user gives
				keys(n.Content[i+1], at, false, all)
			}
		}
	default:
		for _, c := range n.Content {
			keys(c, at, top, all)
		}
	}
}
