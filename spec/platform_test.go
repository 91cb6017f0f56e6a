package spec

import (
	"strings"
	"testing"
)

func TestPlatform(t *testing.T) {
	for word, want := range map[string]string{
		"linux/amd64": "", "amd64": "", "linux/x86_64": "", "linux/amd64/v1": "",
		"linux/arm64": "machines of this host run linux/amd64, and not linux/arm64", "aarch64": "and not linux/arm64",
		"windows/amd64": "is not a platform of machines", "linux": "is not a platform", "linux/arm64/v9": "is not a platform",
	} {
		text := "containers: {a: {image: a, platform: " + word + "}}"
		_, err := Load(Options{Files: []string{"-"}, Dir: t.TempDir(), Stdin: []byte(text), Platform: "linux/amd64"})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", word, err, want)
		}
	}
}
