package shim

import (
	"strings"
	"testing"
)

func TestLastWords(t *testing.T) {
	for name, x := range map[string]struct{ console, want string }{
		"none":     {"[    1.0] hello\n", ""},
		"a panic":  {"[    1.0] hello\r\n[    2.0] Kernel panic - not syncing: VFS: Unable to mount root\r\n[    2.1] CPU: 0\r\n", "kernel panic: VFS: Unable to mount root"},
		"cut off":  {"Kernel panic - not syncing: VF", "kernel panic: VF"},
		"an oops":  {"BUG: kernel NULL pointer dereference, address: 0\r\nOops: 0002\r\nKernel panic - not syncing: Fatal exception in interrupt\r\n", "kernel panic: Fatal exception in interrupt: BUG: kernel NULL pointer dereference, address: 0"},
		"no cause": {"Kernel panic - not syncing: Fatal exception\n", "kernel panic: Fatal exception"},
		"hostile":  {"Kernel panic - not syncing:" + strings.Repeat("ä", 1<<10), "kernel panic: " + strings.Repeat("ä", 121)},
	} {
		if got := lastWords([]byte(x.console)); got != x.want {
			t.Errorf("%s: %q, want %q", name, got, x.want)
		}
	}
}
