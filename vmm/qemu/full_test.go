//go:build linux

package qemu

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Of the processes that these tests start of themselves.
const (
	limitVar = "VZCOMPOSE_TEST_FILE_LIMIT" // bytes
	mountVar = "VZCOMPOSE_TEST_MOUNT"      // size of a filesystem, in bytes
)

// again runs the test that calls it in a process of its own, in which name is
// set to value.
func again(t *testing.T, name, value string, attr *syscall.SysProcAttr) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$", "-test.v")
	cmd.Env = append(os.Environ(), name+"="+value)
	cmd.SysProcAttr = attr
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err != nil && !errors.As(err, &exit):
		t.Skipf("no such process here: %v", err) // user namespaces may be forbidden
	case err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()):
		if strings.Contains(string(out), "--- SKIP: "+t.Name()) {
			t.Skipf("%s", out)
		}
		t.Errorf("%v: %s", err, out)
	}
}

// writeFails expects that a template does not get into dir, for the reason want,
// and that nothing else does.
func writeFails(t *testing.T, dir string, ram, state []byte, want error) {
	t.Helper()
	err := writeTemplate(filepath.Join(dir, "x"+templateSuffix), draftOf("x"), header{Key: "x"}, ram, wholeIndex(ram), state, nil)
	if !errors.Is(err, want) || !strings.HasPrefix(err.Error(), "write template: ") {
		t.Errorf("got %v, want: write template: ... %v", err, want)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestAFileThatMayNotGrowIsNoTemplate(t *testing.T) {
	const size = 16 * page
	for part, limit := range map[string]int{"RAM": size / 2, "rest": size + 10} {
		t.Run(part, func(t *testing.T) {
			if os.Getenv(limitVar) == "" {
				again(t, limitVar, strconv.Itoa(limit), nil)
				return
			}
			dir := t.TempDir()
			signal.Ignore(unix.SIGXFSZ)
			var before unix.Rlimit
			if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
				t.Fatal(err)
			}
			if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: uint64(limit), Max: before.Max}); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = unix.Setrlimit(unix.RLIMIT_FSIZE, &before) }() // coverage is written at the end
			writeFails(t, dir, ramWith(size, 3), []byte("state"), unix.EFBIG)
		})
	}
}

func TestADiskThatIsFullHasNoTemplate(t *testing.T) {
	const room = 64 * page
	for part, c := range map[string]struct {
		data  int // pages of RAM
		state int // bytes
	}{"RAM": {2 * room / page, 1}, "rest": {room / page / 2, room}} {
		t.Run(part, func(t *testing.T) {
			if os.Getenv(mountVar) == "" {
				self := func(id int) []syscall.SysProcIDMap { return []syscall.SysProcIDMap{{HostID: id, Size: 1}} }
				again(t, mountVar, strconv.Itoa(room), &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
					UidMappings: self(os.Getuid()), GidMappings: self(os.Getgid())})
				return
			}
			dir := t.TempDir()
			if err := unix.Mount("none", dir, "tmpfs", 0, "size="+os.Getenv(mountVar)); err != nil {
				t.Skipf("no filesystem of this size here: %v", err)
			}
			defer func() {
				if err := unix.Unmount(dir, 0); err != nil {
					t.Error(err)
				}
			}()
			pages := make([]int, c.data)
			for i := range pages {
				pages[i] = i
			}
			writeFails(t, dir, ramWith(2*room, pages...), make([]byte, c.state), unix.ENOSPC)
		})
	}
}
