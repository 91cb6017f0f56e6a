package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/store"
)

// A stack is the stack of a project directory. Its name alone would not do: it
// follows from the directory's base name where the file gives none, and a second
// checkout would take over the first one's instances and volumes.

// CheckOwner returns an error where the stack belongs to another project
// directory than that of the stack file that was read. Where no file was read, the
// user named the stack and means it.
func (s *Stack) CheckOwner() error {
	if s.Dir == "" || s.Adopt {
		return nil
	}
	rec, err := s.o.Home.ReadStack(s.Name)
	if err != nil || sameDir(rec.Dir, s.Dir) || isGone(rec.Dir) {
		return nil // an unreadable record is reported by Observe
	}
	empty, err := s.isEmpty()
	if err != nil || empty {
		return err
	}
	return errs.WithHint(errs.New(errs.FailedPrecondition, "stack %s belongs to %s, and this is %s", s.Name, rec.Dir, s.Dir),
		"for a stack of its own, give this one another name (name: in the stack file, or -n NAME); "+
			"to work with the other one, use -n %s without a stack file; to make it the stack of this directory, use --adopt", s.Name)
}

// isEmpty reports whether there is nothing that could be taken over.
func (s *Stack) isEmpty() (bool, error) {
	instances, err := s.o.Home.ListInstances(s.Name)
	if err != nil || len(instances) > 0 {
		return false, err
	}
	volumes, err := s.volumes().List()
	return len(volumes) == 0, err
}

// sameDir reports whether two paths are one directory, by whatever symbolic links
// it is reached. A record without a directory is anybody's.
func sameDir(recorded, dir string) bool {
	if recorded == dir || recorded == "" {
		return true
	}
	a, aerr := os.Stat(recorded)
	b, berr := os.Stat(dir)
	return aerr == nil && berr == nil && os.SameFile(a, b)
}

// isGone reports whether a directory is certainly not there: one that cannot be
// looked at may be.
func isGone(dir string) bool {
	_, err := os.Stat(dir)
	return errors.Is(err, os.ErrNotExist)
}

// Claim records the project directory as the stack's, where another was recorded
// and CheckOwner lets this one have it. It returns the directory that was
// recorded, "" where nothing changed. The caller holds the stack's lock.
func (s *Stack) Claim() (from string, err error) {
	rec, err := s.o.Home.ReadStack(s.Name)
	if s.Dir == "" || err != nil || sameDir(rec.Dir, s.Dir) {
		return "", nil
	}
	return rec.Dir, s.record()
}

// RenamedFrom returns the stacks that may be this one under another name, as far as
// this one is new: their directory, beside this one's, is gone. A directory that is
// renamed renames its stack where the file gives no name.
func (s *Stack) RenamedFrom() []string {
	if _, err := s.o.Home.ReadStack(s.Name); s.Dir == "" || !errs.Is(err, errs.NotFound) {
		return nil
	}
	stacks, _ := s.o.Home.ListStacks() // it is for a note only
	var all []string
	for _, name := range stacks {
		rec, err := s.o.Home.ReadStack(name)
		if err != nil || filepath.Dir(rec.Dir) != filepath.Dir(s.Dir) || !isGone(rec.Dir) {
			continue
		}
		if empty, err := (&Stack{Engine: s.Engine, Name: name}).isEmpty(); err == nil && !empty {
			all = append(all, name)
		}
	}
	return all
}

// record keeps the stack's own record as it was read last.
func (s *Stack) record() error {
	old, err := s.o.Home.ReadStack(s.Name)
	switch {
	case err == nil && old.Dir == s.Dir && slices.Equal(old.Files, s.Files):
		return nil
	case err == nil && sameDir(old.Dir, s.Dir):
		// The name that it was given first: one by way of a link may go away.
		return s.o.Home.WriteStack(store.Stack{Name: s.Name, Dir: old.Dir, Files: s.Files, Created: old.Created})
	case store.Damaged(err):
		if _, err := store.SetAside(s.o.Home.StackRecord(s.Name)); err != nil {
			return fmt.Errorf("set the stack's damaged record aside: %w", err)
		}
	}
	return s.o.Home.WriteStack(store.Stack{Name: s.Name, Dir: s.Dir, Files: s.Files, Created: time.Now()})
}
