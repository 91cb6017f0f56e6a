package engine

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/network/lease"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/store"
)

// lostShim is the cause of an instance whose record says that it lives and
// whose lock nobody holds.
const lostShim = "its shim was lost: killed, or the host was restarted"

// Observe returns what there is of the stack, and what refs mean locally. A record
// that cannot be read is part of that and no error: it must not keep anybody from
// what runs.
func (s *Stack) Observe(ctx context.Context, refs []string) (state.World, error) {
	w := state.World{Stack: s.Name}
	if err := s.CheckOwner(); err != nil {
		return w, err
	}
	names, err := s.o.Home.ListInstances(s.Name)
	if err != nil {
		return w, fmt.Errorf("observe stack %s: %w", s.Name, err)
	}
	w.Instances = make([]state.Instance, len(names))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(32)
	for i, name := range names {
		g.Go(func() error {
			var err error
			w.Instances[i], err = s.observe(gctx, name)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return w, fmt.Errorf("observe stack %s: %w", s.Name, err)
	}
	w.Instances = slices.DeleteFunc(w.Instances, func(i state.Instance) bool {
		return i.Unfinished && isGone(s.o.Home.Instance(s.Name, i.Name)) // removed since it was listed
	})
	if w.Volumes, err = s.volumes().List(); err != nil {
		return w, err
	}
	if w.External, err = s.external().List(); err != nil {
		return w, err
	}
	if _, err := s.o.Home.ReadStack(s.Name); err != nil && !errs.Is(err, errs.NotFound) {
		w.Damage = append(w.Damage, fmt.Sprintf("the record of stack %s: %v", s.Name, err))
	}
	if w.Networks, err = s.o.Home.ReadNetworks(s.Name); err != nil {
		w.Damage = append(w.Damage, fmt.Sprintf("the networks of stack %s: %v", s.Name, err))
	}
	if _, err := lease.Open(s.o.Home.Leases(s.Name), s.Name); err != nil {
		w.Damage = append(w.Damage, fmt.Sprintf("the addresses of stack %s: %v", s.Name, err))
	}
	var unknown []string
	if w.Images, unknown, err = s.resolve(ctx, refs); err != nil {
		return w, err
	}
	w.Damage = append(w.Damage, unknown...)
	return w, nil
}

// Recorded returns the instances of the stack as their records say, without asking
// shims: which there are, and whose lock nobody holds. It is for choosing one of them.
func (s *Stack) Recorded() (state.World, error) {
	w := state.World{Stack: s.Name}
	if err := s.CheckOwner(); err != nil {
		return w, err
	}
	names, err := s.o.Home.ListInstances(s.Name)
	if err != nil {
		return w, fmt.Errorf("observe stack %s: %w", s.Name, err)
	}
	for _, name := range names {
		i, _, err := s.recall(name)
		if err != nil {
			return w, fmt.Errorf("observe stack %s: %w", s.Name, err)
		}
		if !i.Unfinished || !isGone(s.o.Home.Instance(s.Name, name)) { // else it was removed since it was listed
			w.Instances = append(w.Instances, i)
		}
	}
	return w, nil
}

// ObserveOne returns one instance of the stack, and asks its shim alone.
func (s *Stack) ObserveOne(ctx context.Context, name string) (state.Instance, error) {
	i, err := s.observe(ctx, name)
	if err != nil {
		return i, fmt.Errorf("observe %s of stack %s: %w", name, s.Name, err)
	}
	return i, nil
}

// resolve returns what refs mean locally, and what is damaged of the images.
func (s *Stack) resolve(ctx context.Context, refs []string) (all []state.Image, damage []string, err error) {
	for _, ref := range slices.Compact(slices.Sorted(slices.Values(refs))) {
		img, err := s.o.Images.Find(ctx, ref, Platform())
		switch {
		case err == nil:
			all = append(all, state.Image{Ref: ref, Digest: img.Digest, Checked: img.Config.Checked()})
		case errs.Is(err, errs.NotFound):
		case store.Damaged(err): // who needs the image is told again, with the error
			damage = append(damage, fmt.Sprintf("image %s: %v", ref, err))
		default:
			return nil, nil, err
		}
	}
	return all, damage, nil
}

// observe returns one instance. What is wrong with its records is part of it.
func (s *Stack) observe(ctx context.Context, name string) (state.Instance, error) {
	i, alive, err := s.recall(name)
	if err == nil && alive {
		s.askShim(ctx, &i)
	}
	return i, err
}

// recall returns one instance as its records say, and whether its shim is to be asked.
func (s *Stack) recall(name string) (_ state.Instance, alive bool, err error) {
	i := state.Instance{Name: name}
	i.Container, i.Index = splitName(name)
	if alive, err = s.o.Home.Alive(s.Name, name); err != nil {
		return i, false, err
	}
	rec, err := s.o.Home.ReadInstance(s.Name, name)
	switch {
	case err == nil:
		i.Container, i.Index = rec.Container, rec.Index
		i.Spec, i.Image, i.Created = rec.Spec, rec.Image, rec.Created
	case errs.Is(err, errs.NotFound) && !alive && !s.o.Home.Began(s.Name, name):
		i.Broken, i.Unfinished = "it was never finished being created", true
	default:
		i.Broken = err.Error()
	}
	st, err := s.o.Home.ReadState(s.Name, name)
	switch {
	case err == nil && i.Unfinished:
		i.State = lifecycle.Errored
		return i, false, nil
	case err != nil: // it is written anew by the next start
		st = store.State{State: lifecycle.Errored, Cause: "how it was is not known: " + err.Error()}
		if alive {
			st = store.State{State: lifecycle.Started, Cause: st.Cause}
		}
	case i.Broken != "" && !st.State.Live():
		st.State = lifecycle.Errored
	}
	i.State, i.Cause, i.Exit, i.Health, i.Restarts = st.State, st.Cause, st.Exit, st.Health, st.Restarts
	i.Started, i.Finished, i.Boots, i.PID = st.Started, st.Finished, st.Boots, st.PID
	if alive {
		i.Ports = st.Ports
	} else if st.State.Live() {
		i.State, i.Cause = lifecycle.Errored, lostShim
	}
	return i, alive, nil
}

// askShim takes the truth from the shim. One that does not answer leaves what
// is on record.
func (s *Stack) askShim(ctx context.Context, i *state.Instance) {
	ctx, cancel := context.WithTimeout(ctx, statusLimit)
	defer cancel()
	var st shimproto.Status
	c, err := shimproto.Dial(ctx, s.o.Home.Socket(s.Name, i.Name), nil)
	if err == nil {
		defer c.Close()
		st, err = c.Status(ctx)
	}
	if err != nil {
		// A record of its own that says it has ended is its last word, which it has
		// written before it gives up the lock. One of another's it has not replaced
		// yet.
		if owner, oerr := s.o.Home.Owner(s.Name, i.Name); !i.State.Live() && (oerr != nil || owner != i.PID) {
			i.State = lifecycle.Booting
		}
		return
	}
	i.State, i.Cause, i.Exit, i.Health, i.Restarts = st.State, st.Cause, st.Exit, st.Health, st.Restarts
	i.Stall = st.Stall
	i.Started, i.Finished, i.Boots, i.PID, i.Ports = st.Started, st.Finished, st.Boots, st.PID, st.Ports
}

// splitName takes "web-1" apart: for a folder without a record.
func splitName(name string) (container string, index int) {
	if i := strings.LastIndexByte(name, '-'); i > 0 {
		if n, err := strconv.Atoi(name[i+1:]); err == nil {
			return name[:i], n
		}
	}
	return name, 0
}

// StackInfo is a stack in the list of all.
type StackInfo struct {
	Name      string           `json:"name"`
	Files     []string         `json:"files"`
	Instances []state.Instance `json:"instances"`
	Damage    []string         `json:"damage,omitempty"` // what cannot be read of it, a line each
}

// List returns every stack of the home folder that has instances. What is damaged
// of one is no error of the list.
func (e *Engine) List(ctx context.Context) ([]StackInfo, error) {
	names, err := e.o.Home.ListStacks()
	if err != nil {
		return nil, err
	}
	var all []StackInfo
	for _, name := range names {
		info := StackInfo{Name: name}
		w, err := (&Stack{Engine: e, Name: name}).Observe(ctx, nil)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		info.Instances, info.Damage = w.Instances, w.Damage
		if err != nil {
			info.Damage = append(info.Damage, err.Error())
		}
		if rec, err := e.o.Home.ReadStack(name); err == nil { // otherwise Observe said so
			info.Files = rec.Files
		}
		if len(info.Instances) > 0 || len(info.Damage) > 0 {
			all = append(all, info)
		}
	}
	return all, nil
}

// UsedImages answers the digests that instances of any stack were made from.
func (e *Engine) UsedImages() (map[string]bool, error) {
	used := map[string]bool{}
	stacks, err := e.o.Home.ListStacks()
	if err != nil {
		return nil, err
	}
	for _, stack := range stacks {
		names, err := e.o.Home.ListInstances(stack)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			rec, err := e.o.Home.ReadInstance(stack, name)
			if err != nil && !errs.Is(err, errs.NotFound) {
				return nil, errors.Join(errors.New("what it was made from is not known"), err)
			}
			used[rec.Image] = true
			used[strings.TrimSuffix(filepath.Base(rec.Root), filepath.Ext(rec.Root))] = true
		}
	}
	return used, nil
}
