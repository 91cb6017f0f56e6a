package spec

import (
	"os"
	"path/filepath"
	"testing"
)

func TestIdentify(t *testing.T) {
	for what, x := range map[string]struct {
		files map[string]string
		opts  Options
		want  string // name
	}{
		"a name":                   {map[string]string{"vzcompose.yaml": "name: shop\n"}, Options{}, "shop"},
		"mistakes elsewhere":       {map[string]string{"vzcompose.yaml": "name: shop\ncontainers: {web: {imag: x}}\nnonsense: 1\n"}, Options{}, "shop"},
		"a variable":               {map[string]string{"vzcompose.yaml": "name: ${N}\n", ".env": "N=shop\n"}, Options{}, "shop"},
		"a variable that is not":   {map[string]string{"vzcompose.yaml": "name: ${N:?set it}\n"}, Options{}, ""},
		"no name":                  {map[string]string{"vzcompose.yaml": "containers: {}\n"}, Options{}, "stack"},
		"no YAML":                  {map[string]string{"vzcompose.yaml": "name: shop\nx: [\n"}, Options{}, ""},
		"no mapping":               {map[string]string{"vzcompose.yaml": "[]\n"}, Options{}, ""},
		"a name that is none":      {map[string]string{"vzcompose.yaml": "name: Shop!\n"}, Options{}, ""},
		"the last file leads":      {map[string]string{"a": "name: a\n", "b": "name: b\n", "c": "x-y: 1\n"}, Options{Files: []string{"a", "b", "c"}}, "b"},
		"the caller's leads":       {map[string]string{"vzcompose.yaml": "name: shop\n"}, Options{Name: "mine"}, "mine"},
		"the caller's, no YAML":    {map[string]string{"vzcompose.yaml": "x: [\n"}, Options{Name: "mine"}, "mine"},
		"a file that is not there": {nil, Options{Files: []string{"gone.yaml"}}, ""},
		"no file":                  {nil, Options{}, ""},
	} {
		t.Run(what, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "stack")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			t.Chdir(dir)
			for name, text := range x.files {
				if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got := Identify(x.opts)
			if got.Name != x.want || got.Dir != dir {
				t.Errorf("got %+v, want %q of %s", got, x.want, dir)
			}
		})
	}
}
