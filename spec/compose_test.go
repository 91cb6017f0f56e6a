package spec

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// specification is Compose's own schema, as far as its keys go.
type specification struct {
	defs map[string]any
	// seen keeps references from going round.
	keys map[string]bool // "services.NAME.build.args"
}

// schemaKeys walks the specification's schema: every key at every level, by path.
func schemaKeys(t *testing.T) map[string]bool {
	t.Helper()
	data, err := os.ReadFile("testdata/compose-spec.json")
	if err != nil {
		t.Fatal(err)
	}
	var root map[string]any
	if err := json.Unmarshal(data, &root); err != nil {
		t.Fatal(err)
	}
	s := &specification{defs: root["$defs"].(map[string]any), keys: map[string]bool{}}
	s.walk("", root, nil)
	return s.keys
}

func (s *specification) walk(at string, schema any, open []string) {
	m, ok := schema.(map[string]any)
	if !ok {
		return
	}
	if ref, ok := m["$ref"].(string); ok {
		name := ref[strings.LastIndexByte(ref, '/')+1:]
		if !slices.Contains(open, name) {
			s.walk(at, s.defs[name], append(slices.Clone(open), name))
		}
	}
	for _, word := range []string{"oneOf", "anyOf", "allOf"} {
		if all, ok := m[word].([]any); ok {
			for _, one := range all {
				s.walk(at, one, open)
			}
		}
	}
	if properties, ok := m["properties"].(map[string]any); ok {
		for name, p := range properties {
			s.keys[at+"."+name] = true
			s.walk(at+"."+name, p, open)
		}
	}
	if patterns, ok := m["patternProperties"].(map[string]any); ok {
		for pattern, p := range patterns {
			if pattern != "^x-" {
				s.walk(at+".NAME", p, open)
			}
		}
	}
	if p, ok := m["additionalProperties"].(map[string]any); ok {
		s.walk(at+".NAME", p, open)
	}
	if items, ok := m["items"]; ok {
		s.walk(at+"[]", items, open)
	}
}

// tableKeys walks the table of Compose's keys the same way. Whether a level is that of
// a list or of names is said by its title.
func tableKeys(v *composeLevel, at string, all map[string]bool) {
	for i := range v.keys {
		k := &v.keys[i]
		path := at + "." + k.name
		all[path] = true
		if k.of == nil {
			continue
		}
		below := path
		switch {
		case strings.HasSuffix(k.of.title, "[]"):
			below += "[]"
		case strings.HasSuffix(k.of.title, ".NAME"):
			below += ".NAME"
		}
		tableKeys(k.of, below, all)
	}
}

// loose are keys of the specification that are not looked at one by one, because the
// key above them is taken or refused whole; by prefix.
var loose = map[string]string{
	".jobs":                                "refused whole",
	".services.NAME.build":                 "of images that are built",
	".services.NAME.develop.watch[].exec":  "ignored whole",
	".services.NAME.gpus":                  "refused whole",
	".services.NAME.pre_start[]":           "refused whole",
	".services.NAME.develop.watch[].exec.": "ignored whole",
	".models.NAME":                         "a hint, whole",
	".services.NAME.credential_spec":       "refused whole",
}

// No key of the specification is without a row, and no row without a key.
func TestEveryKeyOfComposeHasARow(t *testing.T) {
	want, rows := schemaKeys(t), map[string]bool{}
	tableKeys(composeTop(), "", rows)
	if len(want) < 300 {
		t.Fatalf("the schema has %d keys", len(want))
	}
	skip := func(key string) bool {
		for prefix := range loose {
			if strings.HasPrefix(key, prefix+".") || strings.HasPrefix(key, prefix+"[") {
				return true
			}
		}
		return false
	}
	for _, key := range sortedKeys(want) {
		if !rows[key] && !skip(key) {
			t.Errorf("no row for %s", key)
		}
	}
	for _, key := range sortedKeys(rows) {
		if !want[key] {
			t.Errorf("%s is no key of the specification", key)
		}
	}
}

// A row that has no effect says why, and one that is refused what to do instead. What a
// row becomes is a key of the language.
func TestRowsSayWhatTheyAre(t *testing.T) {
	var check func(v *composeLevel)
	top := sortedKeysOf(stackKeys().names(), containerKeys().names(), networkKeys().names(), []string{"size", "external", "name"}, mountKeys().names(),
		portKeys().names(), originKeys(true).names(), attachmentKeys().names(), hookKeys().names(), envFileKeys().names(), dependencyKeys().names(),
		givenEntryKeys("", "").names(), ulimitKeys().names(), []string{"test", "interval", "timeout", "retries", "start_period", "start_interval", "disable"})
	check = func(v *composeLevel) {
		for i := range v.keys {
			k := &v.keys[i]
			at := v.title + ": " + k.name
			switch {
			case k.fate >= ignored && k.why == "":
				t.Errorf("%s: no reason", at)
			case k.fate == refused && k.do == "":
				t.Errorf("%s: nothing to do instead", at)
			case k.fate == same || k.fate == renamed:
				if !slices.Contains(top, k.target()) {
					t.Errorf("%s: %q is no key of the language", at, k.target())
				}
			}
			if k.of != nil {
				check(k.of)
			}
		}
	}
	check(composeTop())
}

func sortedKeysOf(all ...[]string) []string {
	out := slices.Concat(all...)
	slices.Sort(out)
	return slices.Compact(out)
}

// composePage is docs/compose.md's table of keys.
func composePage() string {
	var b strings.Builder
	var page func(v *composeLevel)
	page = func(v *composeLevel) {
		fmt.Fprintf(&b, "### `%s`\n\n| key | what becomes of it | |\n|---|---|---|\n", v.title)
		if v.title == "The top" {
			b.Reset()
			b.WriteString("### The top\n\n| key | what becomes of it | |\n|---|---|---|\n")
		}
		for _, k := range v.keys {
			becomes := k.fate.String()
			if (k.fate == renamed || k.fate == lowered) && k.to != "" {
				becomes += " to `" + strings.ReplaceAll(k.to, ", ", "`, `") + "`"
			}
			why := k.why
			if k.do != "" {
				why += "; " + k.do
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", k.name, becomes, strings.ReplaceAll(why, "|", `\|`))
		}
		b.WriteString("\n")
		for _, k := range v.keys {
			if k.of != nil {
				page(k.of)
			}
		}
	}
	page(composeTop())
	return strings.TrimRight(b.String(), "\n") + "\n"
}

const generated = "<!-- The tables below are made from spec/compose_keys.go: go test ./spec -run ComposePage -update -->\n\n"

// docs/compose.md has the table that the code has.
func TestComposePage(t *testing.T) {
	const path = "../docs/compose.md"
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, _, ok := strings.Cut(string(data), generated)
	if !ok {
		t.Fatalf("%s has no line %q", path, generated)
	}
	want := before + generated + composePage()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if string(data) != want {
		t.Errorf("%s is not what the table makes; run go test ./spec -run ComposePage -update", path)
	}
}

// A hostile file costs what it is long, not the square of that.
func TestLongComposeFiles(t *testing.T) {
	const n = 20_000
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for name, item := range map[string]func(i int) string{
		"extra_hosts":   func(i int) string { return fmt.Sprintf("h%d:10.%d.%d.1", i, i/250%250, i%250) },
		"extra_hosts/1": func(i int) string { return fmt.Sprintf("h%d:10.0.0.1", i) },
		"environment":   func(i int) string { return fmt.Sprintf("A%d=x", i%(n/2)) },
		"volumes":       func(i int) string { return fmt.Sprintf("./v:/v%d", i%2) },
		"tmpfs":         func(i int) string { return fmt.Sprintf("/v%d", i%100) },
		"ports":         func(i int) string { return fmt.Sprintf("127.%d.%d.1:80:80", i/250, i%250) },
		"ports/1":       func(i int) string { return "8080:80" },
	} {
		var b strings.Builder
		key, _, _ := strings.Cut(name, "/")
		fmt.Fprintf(&b, "services:\n  a:\n    image: x\n    %s:\n", key)
		for i := range n {
			fmt.Fprintf(&b, "      - %s\n", item(i))
		}
		began := threadTime(t)
		_, err := Load(Options{Files: []string{"-"}, Stdin: []byte(b.String()), Dir: t.TempDir()})
		if took := threadTime(t) - began; took > 5*time.Second {
			t.Errorf("%s: %s, %v", name, took, err)
		}
	}
}
