package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/vzcompose/vzcompose/internal/engine"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/spec"
)

// RemoveVolume destroys the volume that ref names, NAME or STACK/NAME. One that an
// instance mounts is refused.
func (h *Home) RemoveVolume(ctx context.Context, ref string) (err error) {
	of, _, owned := strings.Cut(ref, "/")
	if _, serr := os.Stat(h.Folder.Stack(of)); !owned || os.IsNotExist(serr) {
		return h.Engine.RemoveVolume(ref)
	}
	lock, err := h.Folder.LockStack(ctx, of, nil)
	if err != nil {
		return err
	}
	defer lock.Release()
	if err := h.Engine.RemoveVolume(ref); err != nil {
		return err
	}
	return (&engine.Stack{Engine: h.Engine, Name: of}).RemoveStack(ctx) // where it was the last of it
}

// PruneVolumes destroys the volumes that no instance mounts and no stack declares, as
// far as stacks are on record, unless confirm returns an error. What a stack declares
// whose files cannot be read is not known: its volumes are kept, and all external
// ones; unread says why.
func (h *Home) PruneVolumes(ctx context.Context, confirm func([]engine.Volume) error) (removed []engine.Volume, unread []error, err error) {
	all, err := h.Engine.Volumes()
	if err != nil {
		return nil, nil, err
	}
	stacks, err := h.Folder.ListStacks()
	if err != nil {
		return nil, nil, err
	}
	wanted := map[string]bool{} // volumes that are declared, as commands name them
	known := map[string]*spec.Stack{}
	for _, name := range stacks {
		s, err := h.declaration(name)
		if err != nil {
			unread = append(unread, fmt.Errorf("what stack %s declares is not known: %w", name, err))
			continue
		}
		known[name] = s
		for volume, v := range s.Volumes {
			if v.External {
				wanted[volume] = true
			} else {
				wanted[name+"/"+volume] = true
			}
		}
	}
	all = slices.DeleteFunc(all, func(v engine.Volume) bool {
		return len(v.Users) > 0 || wanted[v.Ref()] || v.Stack == "" && len(unread) > 0 || v.Stack != "" && !superfluous(known[v.Stack], v)
	})
	if len(all) == 0 {
		return nil, unread, nil
	}
	if err := confirm(all); err != nil {
		return nil, unread, err
	}
	var failed []error
	for _, v := range all {
		if err := h.RemoveVolume(ctx, v.Ref()); err != nil {
			failed = append(failed, err)
			continue
		}
		removed = append(removed, v)
	}
	return removed, unread, errors.Join(failed...)
}

// superfluous reports whether a volume of a stack, which it does not declare, is
// certainly none of an instance that it declares; nil: the stack is not known.
func superfluous(s *spec.Stack, v engine.Volume) bool {
	return s != nil && (v.Instance == "" || !slices.ContainsFunc(s.Instances(), func(i spec.Instance) bool { return i.Name == v.Instance }))
}

// declaration reads the files of a stack that is on record, with all profiles.
func (h *Home) declaration(name string) (*spec.Stack, error) {
	rec, err := h.Folder.ReadStack(name)
	if err != nil {
		return nil, err
	}
	loaded, err := spec.Load(spec.Options{Files: rec.Files, Name: name, Dir: rec.Dir, Profiles: []string{"*"}, LookupEnv: h.lookup})
	if err != nil {
		return nil, err
	}
	for _, f := range loaded.Findings {
		if strings.HasPrefix(f.Path, "volumes.") { // a variable in a name, which is not set here
			return nil, errs.New(errs.FailedPrecondition, "%s", f.Message)
		}
	}
	return loaded.Stack, nil
}
