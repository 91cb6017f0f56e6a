package e2e

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// account is an ordinary user with a home folder of vzcompose's.
type account struct {
	id      uint32
	dir     string // the user's, with all that the user is given
	home    string
	program string
}

// ordinary makes a stack of a user who is not root: whoever runs the tests, or an ID
// that nobody has, with the kernels that are there and images of the user's own.
func ordinary(t *testing.T, file string) *stack {
	t.Helper()
	if shared.cache == "" || os.Getuid() != 0 {
		return scenario(t, file)
	}
	const nobodys = 54321
	dir, err := os.MkdirTemp("/tmp", "vzcompose-user-") // not below t.TempDir, which is closed to others
	if err != nil {
		t.Fatal(err)
	}
	u := &account{id: nobodys, dir: dir, home: filepath.Join(dir, "home"), program: filepath.Join(dir, "vzcompose")}
	t.Cleanup(func() {
		if err := leftovers(u.home); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s := scenario(t, file)
	s.dir, s.user = filepath.Join(dir, "project"), u
	if err := os.Mkdir(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s.write(file)
	if err := os.CopyFS(filepath.Join(u.home, "kernels"), os.DirFS(filepath.Join(shared.home, "kernels"))); err != nil {
		t.Fatal(err)
	}
	// The folder that the tests are run in may be closed to others.
	copyTo(t, shared.program, u.program)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s.give(dir)
	return s
}

// give gives what is below a folder to the user.
func (s *stack) give(dir string) {
	s.t.Helper()
	if s.user == nil {
		return
	}
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(s.user.id), int(s.user.id))
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// run has the user run a command.
func (u *account) run(cmd *exec.Cmd) {
	if u == nil {
		return
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: u.id, Gid: u.id}}
	cmd.Env = append(os.Environ(), "VZCOMPOSE_HOME="+u.home, "HOME="+u.home, "XDG_RUNTIME_DIR=", "VZCOMPOSE_QEMU=")
}

// here runs a program of the host in the stack's folder, as the user.
func (s *stack) here(name string, args ...string) {
	s.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = s.dir
	s.user.run(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Errorf("%s: %v: %s", cmd, err, out)
	}
}

// uid is of who runs the stack.
func (s *stack) uid() uint32 {
	if s.user == nil {
		return uint32(os.Getuid())
	}
	return s.user.id
}

// have imports an image of the tests for the user.
func (s *stack) have(tar, name string, args ...string) {
	s.t.Helper()
	path := filepath.Join(shared.cache, "images", tar+".tar")
	if s.user != nil {
		own := filepath.Join(s.user.dir, tar+".tar")
		copyTo(s.t, path, own)
		defer os.Remove(own)
		path = own
	}
	s.must(append(append([]string{"image", "import"}, args...), path, name)...)
}

// copyTo copies a file, for anybody to read and execute.
func copyTo(t *testing.T, from, to string) {
	t.Helper()
	in := must(os.Open(from))
	defer in.Close()
	out := must(os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755))
	_, err := io.Copy(out, in)
	if err = errors.Join(err, out.Close(), os.Chmod(to, 0o755)); err != nil {
		t.Fatal(err)
	}
}
