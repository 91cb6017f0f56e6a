package spec

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What a list costs grows with its length, not with its square: lists that took
// minutes are read and printed in a moment.
func TestLongLists(t *testing.T) {
	const n = 30_000
	for key, item := range map[string]func(i int) string{
		"command": func(i int) string { return fmt.Sprintf("w%d", i) },
		"ports":   func(i int) string { return fmt.Sprintf("127.%d.%d.1:80:%d", i/200, i%200, 80) },
		"secrets": func(i int) string { return fmt.Sprintf("s%d", i) },
		"mounts":  func(i int) string { return fmt.Sprintf("{type: tmpfs, destination: /m/%d}", i) },
	} {
		t.Run(key, func(t *testing.T) {
			var b strings.Builder
			fmt.Fprintf(&b, "name: long\ncontainers:\n  a:\n    image: x\n    %s:\n", key)
			for i := range n {
				fmt.Fprintf(&b, "      - %s\n", item(i))
			}
			path := filepath.Join(t.TempDir(), "stack.yaml")
			if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			loaded, err := Load(Options{Files: []string{path}, LookupEnv: os.LookupEnv})
			if err == nil {
				_, err = loaded.Stack.YAML()
			}
			if key == "secrets" && err == nil {
				t.Error("secrets that nobody declares are not missed")
			} else if key != "secrets" && err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}
