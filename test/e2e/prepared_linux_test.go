package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/store"
)

// preparing is a command that makes a prepared template.
type preparing struct {
	cmd    *exec.Cmd
	folder string // of the instance that the machine has meanwhile
	shim   int
	qemu   int // a descriptor of it
}

// prepareOne starts the command, and waits until its machine is there.
func (s *stack) prepareOne(h store.Home) *preparing {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	p := &preparing{cmd: s.command(ctx, "template", "prewarm", "--prepared")}
	var out bytes.Buffer
	p.cmd.Stdout, p.cmd.Stderr = &out, &out
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		cancel()
		_ = p.cmd.Wait() // a second time mostly, which is an error
		if s.t.Failed() {
			s.t.Logf("%s", &out)
		}
	})
	s.eventually("the machine that is prepared", func() bool {
		for _, name := range must(h.Pool().ListInstances(".spare")) {
			pid, err := h.Pool().Owner(".spare", name)
			if err != nil || !strings.HasPrefix(name, "prepare-") {
				continue
			}
			p.folder, p.shim = h.Pool().Instance(".spare", name), pid
			for _, path := range must(filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/children")) {
				b, _ := os.ReadFile(path) // none: the thread has ended
				for _, child := range strings.Fields(string(b)) {
					if words, _ := os.ReadFile("/proc/" + child + "/cmdline"); !bytes.Contains(words, []byte(name)) {
						continue // another machine: that of the empty template
					}
					fd, err := unix.PidfdOpen(must(strconv.Atoi(child)), 0)
					p.qemu = fd
					return err == nil
				}
			}
		}
		return false
	})
	s.t.Cleanup(func() { _ = unix.Close(p.qemu) })
	return p
}

// Who prepares a machine may be killed at any time: the machine dies with it, the
// next one makes the template, and nothing is left.
func TestKilledPreparer(t *testing.T) {
	s := scenario(t, `
name: killedpreparer
containers:
  a: {image: busybox, cpus: 1, memory: 100MiB, command: [sleep, "1000"], stop_signal: KILL}
`)
	warmOnly(t)
	h := must(store.Locate(os.LookupEnv))
	before := s.preparedIDs()
	made := func() (all []string) {
		return slices.DeleteFunc(s.preparedIDs(), func(id string) bool { return slices.Contains(before, id) })
	}
	s.must("template", "prewarm") // the empty one
	whole := func(t *testing.T) {
		t.Helper()
		s.must("template", "prewarm", "--prepared")
		ids := made()
		if len(ids) != 1 {
			t.Fatalf("made: %q", ids)
		}
		s.must("up", "-d")
		if got := s.origin(h, "a-1"); got != "prepared" {
			t.Errorf("the machine was %s", got)
		}
		s.must("down")
		s.must("template", "rm", ids[0])
		for _, left := range []string{filepath.Join(h.Templates(), ".new-*"), filepath.Join(h.Pool().Stack(".spare"), "prepare-*")} {
			if all := must(filepath.Glob(left)); len(all) > 0 {
				t.Errorf("left: %q", all)
			}
		}
	}
	t.Run("the shim while its machine runs", func(t *testing.T) {
		p := s.prepareOne(h)
		kill9(t, p.shim)
		awaitEnd(t, p.qemu)
		if err := p.cmd.Wait(); err == nil {
			t.Error("the command says nothing of it")
		}
		if ids := made(); len(ids) > 0 {
			t.Errorf("there is a template: %q", ids)
		}
		whole(t)
	})
	t.Run("the shim while the file is written", func(t *testing.T) {
		draft := watch(t, h.Templates(), ".new-")
		p := s.prepareOne(h)
		draft()
		kill9(t, p.shim)
		t.Logf("the command: %v; drafts: %q", p.cmd.Wait(), must(filepath.Glob(filepath.Join(h.Templates(), ".new-*"))))
		for _, id := range made() { // it was quicker
			s.must("template", "rm", id)
		}
		whole(t)
	})
	t.Run("the command", func(t *testing.T) {
		p := s.prepareOne(h)
		kill9(t, p.cmd.Process.Pid)
		_ = p.cmd.Wait() // it was killed
		awaitEnd(t, p.qemu)
		s.eventually("the end of the shim", func() bool { return !must(h.Pool().Alive(".spare", filepath.Base(p.folder))) })
		for _, id := range made() { // the shim has gone on
			s.must("template", "rm", id)
		}
		if _, err := os.Stat(p.folder); err == nil { // it is removed when it can be nobody's any more
			long := time.Now().Add(-time.Hour)
			if err := os.Chtimes(p.folder, long, long); err != nil {
				t.Fatal(err)
			}
		}
		whole(t)
	})
}
