package settings

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/errs"
)

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	if s, err := Read(path); err != nil || s != Default() {
		t.Errorf("no file: %+v, %v", s, err)
	}
	all := Settings{Templates{false, 512 << 20}, Pool{3, 1 << 30, true}, "127.0.0.1"}
	for text, want := range map[string]struct {
		s   Settings
		err string
	}{
		"":                         {s: Default()},
		"# nothing\n":              {s: Default()},
		"templates:\npool: null\n": {s: Default()},
		"templates: {use: false, limit: 512MiB}\npool: {machines: 3, memory: 1g, prepared: true}\npublish_address: 127.0.0.1\n": {s: all},
		"templates:\n  used: true\n":        {err: `:2:3: there is no key "used"`},
		"templates:\n  use: maybe\n":        {err: ":2:8: true or false"},
		"templates: {limit: lots}\n":        {err: ":1:20: "},
		"pool: {machines: 65}\n":            {err: ":1:18: a number of 0 to 64"},
		"pool: {machines: -1}\n":            {err: "a number of 0 to 64"},
		"pool: {machines: 1, machines: 2}":  {err: "twice"},
		"pool: 3\n":                         {err: ":1:7: keys with values"},
		"publish_address: here\n":           {err: ":1:18: an address of the host"},
		"publish_address: [\"*\"]\n":        {err: ":1:18: an address of the host"},
		"- a\n":                             {err: ":1:1: keys with values"},
		"pool: {machines: [1]}\n":           {err: "a number"},
		"pool: {memory: {a: 1}}\n":          {err: "a size"},
		"pool: \x00\n":                      {err: "yaml"},
		strings.Repeat("# long\n", maxFile): {err: "more than"},
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Read(path)
		if want.err != "" {
			if !errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), want.err) || !strings.HasPrefix(err.Error(), path) {
				t.Errorf("%.40q: got %v, want %q", text, err, want.err)
			}
			continue
		}
		if err != nil || s != want.s {
			t.Errorf("%.40q: got %+v, %v", text, s, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("templates: {use: false, limit: 512MiB}\npool: {machines: 3, memory: 1g}\n"))
	f.Add([]byte("pool: &a {machines: *a}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s := Default()
		err := decode("f", text, &s)
		if err != nil && !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("class of %v", err)
		}
		if s.Pool.Machines < 0 || s.Pool.Machines > MaxMachines {
			t.Errorf("%d machines", s.Pool.Machines)
		}
	})
}
