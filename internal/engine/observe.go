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
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/internal/store"
)

// lostShim is the cause of an instance whose record says that it lives and
// whose lock nobody holds.
const lostShim = "its shim was lost: killed, or the host was restarted"

// Observe answers what there is of the stack, and what refs mean locally.
func (s *Stack) Observe(ctx context.Context, refs []string) (state.World, error) {
	w := state.World{Stack: s.Name}
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
	if w.Volumes, err = s.volumes().List(); err != nil {
		return w, err
	}
	if w.Networks, err = s.o.Home.ReadNetworks(s.Name); err != nil {
		return w, err
	}
	w.Images, err = s.resolve(ctx, refs)
	return w, err
}

func (s *Stack) resolve(ctx context.Context, refs []string) ([]state.Image, error) {
	var all []state.Image
	for _, ref := range slices.Compact(slices.Sorted(slices.Values(refs))) {
		img, err := s.o.Images.Find(ctx, ref, Platform())
		if errs.Is(err, errs.NotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, state.Image{Ref: ref, Digest: img.Digest, Checked: img.Config.Checked()})
	}
	return all, nil
}

// observe answers one instance. What is wrong with its records is part of the
// answer.
func (s *Stack) observe(ctx context.Context, name string) (state.Instance, error) {
	i := state.Instance{Name: name}
	i.Container, i.Index = splitName(name)
	alive, err := s.o.Home.Alive(s.Name, name)
	if err != nil {
		return i, err
	}
	rec, err := s.o.Home.ReadInstance(s.Name, name)
	var st store.State
	if err == nil {
		i.Container, i.Index = rec.Container, rec.Index
		i.Spec, i.Image, i.Created = rec.Spec, rec.Image, rec.Created
		st, err = s.o.Home.ReadState(s.Name, name)
	}
	switch {
	case errs.Is(err, errs.NotFound):
		i.Broken = "it was never finished being created"
	case err != nil:
		i.Broken = err.Error()
	}
	if i.Broken != "" {
		i.State = lifecycle.Errored
		if alive { // removing it begins with stopping it
			i.State = lifecycle.Started
		}
		return i, nil
	}
	i.State, i.Cause, i.Exit, i.Health, i.Restarts = st.State, st.Cause, st.Exit, st.Health, st.Restarts
	i.Started, i.Finished, i.Boots, i.PID = st.Started, st.Finished, st.Boots, st.PID
	if alive {
		i.Ports = st.Ports
	}
	switch {
	case alive:
		s.askShim(ctx, &i)
	case st.State.Live():
		i.State, i.Cause = lifecycle.Errored, lostShim
	}
	return i, nil
}

// askShim takes the truth from the shim. One that does not answer leaves what
// is on record.
func (s *Stack) askShim(ctx context.Context, i *state.Instance) {
	ctx, cancel := context.WithTimeout(ctx, statusLimit)
	defer cancel()
	c, err := shimproto.Dial(ctx, s.o.Home.Socket(s.Name, i.Name), nil)
	if err != nil {
		if !i.State.Live() { // it has the lock, but has not written yet
			i.State = lifecycle.Booting
		}
		return
	}
	defer c.Close()
	st, err := c.Status(ctx)
	if err != nil {
		return
	}
	i.State, i.Cause, i.Exit, i.Health, i.Restarts = st.State, st.Cause, st.Exit, st.Health, st.Restarts
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
	Broken    string           `json:"broken,omitempty"`
}

// List answers every stack of the home folder.
func (e *Engine) List(ctx context.Context) ([]StackInfo, error) {
	names, err := e.o.Home.ListStacks()
	if err != nil {
		return nil, err
	}
	var all []StackInfo
	for _, name := range names {
		info := StackInfo{Name: name}
		if rec, err := e.o.Home.ReadStack(name); err != nil && !errs.Is(err, errs.NotFound) {
			info.Broken = err.Error()
		} else {
			info.Files = rec.Files
		}
		w, err := (&Stack{Engine: e, Name: name}).Observe(ctx, nil)
		if err != nil {
			return nil, err
		}
		info.Instances = w.Instances
		if len(info.Instances) > 0 || info.Broken != "" {
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
