package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/planner"
	"github.com/vzcompose/vzcompose/spec"
)

// disk is one of an instance: a volume, a raw disk of the host, or a root.
type disk struct {
	what     string // as people call it: `volume "data"`
	info     os.FileInfo
	readOnly bool
}

// checkDisks finds the disks that a plan would give to a machine while another has
// them, before anything is done: a disk that is written belongs to one machine at
// a time, and QEMU refuses it only when the machine is made. The error names who
// has it.
func (s *Stack) checkDisks(plan *planner.Plan) error {
	declared, ends := map[string]spec.Container{}, map[string]bool{}
	var starts []string
	for _, step := range plan.Steps {
		switch op := step.Op.(type) {
		case planner.Create:
			declared[op.Instance] = op.Spec
		case planner.Update:
			declared[op.Instance] = op.Spec
		case planner.Stop:
			ends[op.Instance] = true
		case planner.Start:
			starts = append(starts, op.Instance)
		}
	}
	wants := map[string][]disk{}
	for _, name := range starts {
		if c, ok := declared[name]; ok {
			wants[name] = s.disksOf(c)
		} else if rec, err := s.o.Home.ReadInstance(s.Name, name); err == nil { // otherwise the start tells
			wants[name] = disksOnRecord(rec)
		}
		if len(wants[name]) == 0 {
			delete(wants, name)
		}
	}
	if len(wants) == 0 {
		return nil
	}
	var all []error
	err := s.eachAlive(func(stack string, rec store.Instance) {
		if stack == s.Name && ends[rec.Name] {
			return
		}
		for _, name := range starts {
			if stack == s.Name && rec.Name == name {
				continue // it joins itself
			}
			for _, want := range wants[name] {
				if want.heldBy(rec) {
					all = append(all, s.inUse(name, want, stack, rec.Name))
				}
			}
		}
	})
	return errors.Join(err, errors.Join(all...))
}

// inUse says who has a disk that an instance asks for.
func (s *Stack) inUse(asks string, d disk, stack, holder string) error {
	by, free := holder, "vzcompose stop "+holder
	if stack != s.Name {
		by, free = fmt.Sprintf("%s of stack %s", holder, stack), fmt.Sprintf("vzcompose -n %s stop %s", stack, holder)
	}
	return errs.WithHint(errs.New(errs.FailedPrecondition, "%s, which %s asks for, is in use by %s", d.what, asks, by),
		"a disk that is written belongs to one machine at a time; %s frees it", free)
}

// eachAlive calls fn with the record of every instance of the home that has a
// shim. One whose record cannot be read is left out: QEMU still refuses its disks.
func (e *Engine) eachAlive(fn func(stack string, rec store.Instance)) error {
	stacks, err := e.o.Home.ListStacks()
	if err != nil {
		return fmt.Errorf("look who has the disks: %w", err)
	}
	for _, stack := range stacks {
		names, err := e.o.Home.ListInstances(stack)
		if err != nil {
			return fmt.Errorf("look who has the disks: %w", err)
		}
		for _, name := range names {
			if alive, err := e.o.Home.Alive(stack, name); err != nil || !alive {
				continue
			}
			if rec, err := e.o.Home.ReadInstance(stack, name); err == nil {
				fn(stack, rec)
			}
		}
	}
	return nil
}

// disksOf are the disks that are there of what a container declares. A volume
// that the plan makes first is nobody's yet.
func (s *Stack) disksOf(c spec.Container) (all []disk) {
	for _, m := range c.Mounts {
		switch m.Type {
		case "volume":
			if m.Source == "" {
				continue // the instance's own
			}
			all = appendDisk(all, fmt.Sprintf("volume %q", m.Source), s.VolumePath(m), m.ReadOnly())
		case "block":
			all = appendDisk(all, "disk "+m.Source, m.Source, m.ReadOnly())
		}
	}
	if c.RootFS != nil && c.RootFS.Block != "" {
		all = appendDisk(all, "disk "+c.RootFS.Block, c.RootFS.Block, true)
	}
	return all
}

// disksOnRecord are those of an instance as it was made. All machines share the
// roots that are made of images.
func disksOnRecord(rec store.Instance) []disk {
	all := appendDisk(nil, "disk "+rec.Root, rec.Root, true)
	for _, v := range rec.Volumes {
		what := "disk " + v.Path
		if v.Type == "" {
			what = fmt.Sprintf("volume %q", strings.TrimSuffix(filepath.Base(v.Path), filepath.Ext(v.Path)))
		}
		all = appendDisk(all, what, v.Path, v.ReadOnly)
	}
	return all
}

func appendDisk(all []disk, what, path string, readOnly bool) []disk {
	info, err := os.Stat(path)
	if err != nil { // the start tells what is wrong with it
		return all
	}
	return append(all, disk{what, info, readOnly})
}

// heldBy reports whether the machine of rec has the disk in a way that nobody else
// can have it.
func (d disk) heldBy(rec store.Instance) bool {
	for _, o := range disksOnRecord(rec) {
		if os.SameFile(d.info, o.info) && (!d.readOnly || !o.readOnly) {
			return true
		}
	}
	return false
}
