//go:build linux

package guest

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/boot"
)

// Where the agent keeps what it mounts.
const (
	runDir    = "/run/vz"
	cgroupDir = "/sys/fs/cgroup"
)

// greeting is the one line on the console of a machine that is well.
const greeting = "vzcompose-agent: up\n"

// greet writes the greeting where somebody sees it: the kernel opens the
// console for PID 1's descriptors.
func greet() {
	_, _ = unix.Write(1, []byte(greeting)) // without a console nobody misses it
}

type bootMount struct {
	target, fstype string
	flags          uintptr
	data           string
}

// mountBase mounts what the kernel offers and the agent needs.
func mountBase() error {
	for _, m := range []bootMount{
		{"/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
		{"/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
		{cgroupDir, "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
		if err := unix.Mount(m.fstype, m.target, m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	return nil
}

// coverInitialRoot puts a bind mount of the initial root over itself and makes
// it the root. The kernel refuses to pivot away from the initial root itself
// (fs/namespace.c, pivot_root: "not attached"), and the container's stage must.
func coverInitialRoot() error {
	const at = "/.root"
	if err := os.MkdirAll(at, 0o700); err != nil {
		return fmt.Errorf("cover the initial root: %w", err)
	}
	if err := unix.Mount("/", at, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("cover the initial root: bind: %w", err)
	}
	if err := os.Chdir(at); err != nil {
		return fmt.Errorf("cover the initial root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("cover the initial root: move: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("cover the initial root: chroot: %w", err)
	}
	_ = os.Remove(at) // the directory is of no more use
	return nil
}

// raiseFiles lets the agent hold the pipes of every process it keeps. The stage
// sets the limit of the processes themselves.
func raiseFiles() error {
	lim := unix.Rlimit{Cur: 1 << 16, Max: 1 << 20}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return fmt.Errorf("raise the limit of open files: %w", err)
	}
	return nil
}

// told is what the kernel's command line says to the agent.
type told struct {
	port     bool // the host is reached over a serial port
	template bool // this machine is to be saved
}

// maxCommandLine bounds what is read of it, in bytes: more than any kernel takes.
const maxCommandLine = 64 << 10

func readTold(path string) (told, error) {
	b, err := readBounded(path, maxCommandLine)
	if err != nil {
		return told{}, fmt.Errorf("read the command line: %w", err)
	}
	words := strings.Fields(string(b))
	return told{port: slices.Contains(words, boot.PortParam), template: slices.Contains(words, boot.TemplateParam)}, nil
}
