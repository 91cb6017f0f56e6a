package engine

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/internal/image"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/planner"
	"github.com/vzcompose/vzcompose/spec"
)

// asCommand as its first argument makes the test's executable a process that
// brings the stack shop up, or takes it down: "up" or "down", and the home folder's
// two directories.
const asCommand = "as-command"

const raceRounds = 12 // of each of those that run at once

// beCommand does what up and down do of a stack, under its lock, and checks that
// nobody interferes.
func beCommand(what, dir, runtime string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	o := Options{Home: store.Home{Dir: dir, Runtime: runtime}, Shim: []string{exe, asShim, orderly}, CPUs: 1}
	if o.Images, err = image.Open(o.Home.Images()); err != nil {
		return err
	}
	s := &Stack{Engine: New(o), Name: "shop", Dir: dir}
	file := filepath.Join(dir, "file")
	s.from = map[string]*bootFiles{"": {kernel: file, initramfs: file}}
	return s.converge(what, file)
}

func (s *Stack) converge(what, file string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	lock, err := s.o.Home.LockStack(ctx, s.Name, nil)
	if err != nil {
		return err
	}
	defer lock.Release()
	w, err := s.Observe(ctx, nil)
	if err != nil {
		return err
	}
	plan := planner.Down(w, planner.DownOptions{})
	if what == "up" {
		want := &spec.Stack{Name: s.Name, Dir: s.Dir, Containers: map[string]spec.Container{"web": {
			RootFS: &spec.RootFS{Block: file}, Command: []string{"sleep", "infinity"}, CPUs: 1, Memory: 64 << 20, Replicas: 1, StopGracePeriod: time.Minute}}}
		if plan, err = planner.Up(want, w, planner.Options{}); err != nil {
			return err
		}
	}
	for _, step := range plan.Steps {
		if err := s.Run(ctx, step, func(event.Progress) {}); err != nil {
			return fmt.Errorf("%s %s: %w", step.Op.Verb(), step.Op.Subject(), err)
		}
	}
	if what == "down" {
		return s.RemoveStack(ctx)
	}
	if w, err = s.Observe(ctx, nil); err != nil {
		return err
	}
	if len(w.Instances) != 1 || w.Instances[0].State != lifecycle.Started {
		return fmt.Errorf("after it there is %+v", w.Instances)
	}
	return nil
}

// Processes that bring one stack up and take it down at the same time all succeed,
// and the last down leaves nothing.
func TestUpAndDownAtOnce(t *testing.T) {
	s := newStack(t, Options{})
	overwrite(t, filepath.Join(s.o.Home.Dir, "file"), "")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for first := range 4 {
		all.Go(func() {
			for n := range raceRounds {
				what := []string{"up", "down"}[(first+n)%2]
				var said bytes.Buffer
				c := exec.CommandContext(t.Context(), exe, asCommand, what, s.o.Home.Dir, s.o.Home.Runtime)
				c.Stderr = &said
				if err := c.Run(); err != nil {
					t.Errorf("round %d: %s: %v: %s", n, what, err, said.String())
				}
			}
		})
	}
	all.Wait()
	if err := s.converge("down", ""); err != nil {
		t.Error(err)
	}
	for _, dir := range []string{s.o.Home.Stacks(), s.o.Home.Runtime} {
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("left in %s: %v", dir, left)
		}
	}
}
