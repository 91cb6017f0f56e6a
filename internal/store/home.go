// Package store is vzcompose's folder on disk: where things are, the records of
// stacks and instances, and the locks that say who is alive. Records are JSON
// with a version, written by rename and fsync; what cannot be read is reported,
// never deleted.
package store

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Home is where vzcompose keeps its state (Dir) and its sockets (Runtime).
type Home struct {
	Dir     string
	Runtime string
}

// Locate finds the folders: VZCOMPOSE_HOME, or the system's usual place. It
// makes them, with mode 0700.
func Locate(lookup func(string) (string, bool)) (Home, error) {
	dir, ok := lookup("VZCOMPOSE_HOME")
	if !ok || dir == "" {
		var err error
		if dir, err = dataFolder(lookup); err != nil {
			return Home{}, err
		}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Home{}, fmt.Errorf("locate the home folder: %w", err)
	}
	h := Home{Dir: dir, Runtime: runtimeFolder(lookup, dir)}
	if err := os.MkdirAll(h.Dir, 0o700); err != nil {
		return Home{}, fmt.Errorf("make the home folder: %w", err)
	}
	return h, nil
}

// runtimeFolder is short, since a socket's path may have 104 bytes on macOS and
// 108 on Linux, and one a home, so that two homes do not meet.
func runtimeFolder(lookup func(string) (string, bool), home string) string {
	base, ok := lookup("XDG_RUNTIME_DIR")
	if !ok || !filepath.IsAbs(base) || len(base) > 40 { // a shim has another working folder
		base = "/tmp"
	}
	return filepath.Join(base, fmt.Sprintf("vzcompose-%d-%s", os.Getuid(), short(home)))
}

func short(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil)[:6])
}

// MakeRuntime makes the folder of sockets, or checks that the one there is ours
// alone: it may lie in a folder that everybody can write.
func (h Home) MakeRuntime() error {
	if err := os.Mkdir(h.Runtime, 0o700); err != nil && !os.IsExist(err) {
		return fmt.Errorf("make the runtime folder: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(h.Runtime, &st); err != nil {
		return &os.PathError{Op: "stat", Path: h.Runtime, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Getuid() || st.Mode&0o077 != 0 {
		return errs.WithHint(errs.New(errs.PermissionDenied, "%s is not a folder of this user alone", h.Runtime),
			"remove it, or set XDG_RUNTIME_DIR to a folder of your own")
	}
	return nil
}

// RemoveRuntime removes the folder of sockets where it is empty.
func (h Home) RemoveRuntime() { _ = os.Remove(h.Runtime) } // not empty, or gone already: both fine

// Socket is the path of an instance's socket.
func (h Home) Socket(stack, instance string) string {
	return filepath.Join(h.Runtime, short(stack, instance))
}

// externalFolder has the volumes that no stack owns. No stack is called so.
const externalFolder = "_external"

// Folders of the resources.
func (h Home) Images() string    { return filepath.Join(h.Dir, "images") }
func (h Home) Kernels() string   { return filepath.Join(h.Dir, "kernels") }
func (h Home) Templates() string { return filepath.Join(h.Dir, "templates") }
func (h Home) Owners() string    { return filepath.Join(h.Dir, "owners") } // of files in shared folders

// Pool is the home of what waits for an instance. Its sockets are beside ours.
func (h Home) Pool() Home { return Home{Dir: filepath.Join(h.Dir, "pool"), Runtime: h.Runtime} }

func (h Home) Stacks() string                  { return filepath.Join(h.Dir, "stacks") }
func (h Home) Volumes(stack string) string     { return filepath.Join(h.Dir, "volumes", stack) }
func (h Home) External() string                { return h.Volumes(externalFolder) }
func (h Home) Stack(name string) string        { return filepath.Join(h.Stacks(), name) }
func (h Home) Instance(s, n string) string     { return filepath.Join(h.Stack(s), n) }
func (h Home) Log(s, n string) string          { return filepath.Join(h.Instance(s, n), "log") }
func (h Home) Console(s, n string) string      { return filepath.Join(h.Instance(s, n), "console.log") }
func (h Home) Writable(s, n string) string     { return filepath.Join(h.Instance(s, n), "writable.img") }
func (h Home) Journal(name string) string      { return filepath.Join(h.Stack(name), "events.jsonl") }
func (h Home) StackRecord(name string) string  { return filepath.Join(h.Stack(name), "stack.json") }
func (h Home) stackLock(name string) string    { return filepath.Join(h.Stack(name), "lock") }
func (h Home) instanceLock(s, n string) string { return filepath.Join(h.Instance(s, n), "lock") }
func (h Home) state(s, n string) string        { return filepath.Join(h.Instance(s, n), "state.json") }
