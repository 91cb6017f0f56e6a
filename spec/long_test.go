package spec

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What a list costs grows with its length, not with its square: eight times the
// items take eight times the time, and not sixty-four times. The two are measured
// in processor time, in one run, each at its best of three.
func TestLongLists(t *testing.T) {
	const few, factor, most = 500, 8, 24
	for key, item := range map[string]func(i int) string{
		"command": func(i int) string { return fmt.Sprintf("w%d", i) },
		"ports":   func(i int) string { return fmt.Sprintf("127.%d.%d.1:80:%d", i/200, i%200, 80) },
		"secrets": func(i int) string { return fmt.Sprintf("s%d", i) },
		"mounts":  func(i int) string { return fmt.Sprintf("{type: tmpfs, destination: /m/%d}", i) },
	} {
		t.Run(key, func(t *testing.T) {
			short, long := time.Duration(math.MaxInt64), time.Duration(math.MaxInt64)
			for range 3 {
				short = min(short, readList(t, key, few, item))
				long = min(long, readList(t, key, factor*few, item))
			}
			if long > most*short {
				t.Errorf("%d items took %s, %d took %s", few, short, factor*few, long)
			}
		})
	}
}

// readList returns how long a stack with a list of n items takes to be read and
// printed.
func readList(t *testing.T, key string, n int, item func(int) string) time.Duration {
	var b strings.Builder
	fmt.Fprintf(&b, "name: long\ncontainers:\n  a:\n    image: x\n    %s:\n", key)
	for i := range n {
		fmt.Fprintf(&b, "      - %s\n", item(i))
	}
	path := filepath.Join(t.TempDir(), "stack.yaml")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // what else runs on the machine does not count
	defer runtime.UnlockOSThread()
	began := threadTime(t)
	loaded, err := Load(Options{Files: []string{path}, LookupEnv: os.LookupEnv})
	if err == nil {
		_, err = loaded.Stack.YAML()
	}
	if (err != nil) != (key == "secrets") { // nobody declares those
		t.Error(err)
	}
	return threadTime(t) - began
}

// threadTime is the processor time of the calling thread.
func threadTime(t *testing.T) time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now); err != nil {
		t.Fatal(err)
	}
	return time.Duration(now.Nano())
}
