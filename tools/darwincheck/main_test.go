package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestCheckFindsWhatOnlyDarwinHas(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example.com/m\n\ngo 1.26.0\n",
		"m.go":   "package m\n\nfunc f() int { return 1 }\n",
		"m_darwin.go": "package m\n\n// int four();\nimport \"C\"\n\nfunc g() int { return int(C.four()) + f() }\n\n" +
			"func h() string { return g() }\n",
		"m_darwin_arm64.go": "package m\n\nvar _ = nowhere\n",
		"m_linux.go":        "package m\n\nvar _ = neither\n",
		"m_test.go":         "package m\n\nvar _ string = f()\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	common := []string{
		"m_darwin.go:8:26: cannot use g() (value of type int) as string value in return statement",
		"m_test.go:3:16: cannot use f() (value of type int) as string value in variable declaration",
	}
	for arch, want := range map[string][]string{
		"amd64": common,
		"arm64": {common[0], "m_darwin_arm64.go:3:9: undefined: nowhere", common[1]},
	} {
		found, checked, err := check(arch, []string{"./..."})
		if err != nil || !slices.Equal(found, want) || checked == 0 {
			t.Errorf("%s: %d packages, %q, %v; want %q", arch, checked, found, err, want)
		}
	}
	if found, _, err := check("arm64", []string{"./nothing/..."}); err == nil && len(found) == 0 {
		t.Error("nothing to check is not an error")
	}
}
