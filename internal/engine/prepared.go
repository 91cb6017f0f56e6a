package engine

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/internal/volume"
	"github.com/vzcompose/vzcompose/planner"
	"github.com/vzcompose/vzcompose/spec"
)

// Prepare makes the templates of machines that are prepared for the containers of
// want (docs/template.md), of each that is not there. It answers, by container,
// why there can be none. Their images are there, or it is an error.
func (s *Stack) Prepare(ctx context.Context, want *spec.Stack, report func(container string, p event.Progress)) (skipped map[string]error, err error) {
	skipped = map[string]error{}
	for _, name := range slices.Sorted(maps.Keys(want.Containers)) {
		err := s.prepare(ctx, want, name, func(p event.Progress) { report(name, p) })
		switch {
		case errs.Is(err, errs.Unsupported):
			skipped[name] = err
		case err != nil:
			return skipped, fmt.Errorf("prepare a machine for %s: %w", name, err)
		}
	}
	return skipped, nil
}

func (s *Stack) prepare(ctx context.Context, want *spec.Stack, container string, report func(event.Progress)) (err error) {
	c := want.Containers[container]
	if err := preparable(c); err != nil {
		return err
	}
	pool := s.spares()
	name := "prepare-" + strings.ToLower(rand.Text()[:8])
	rec, err := s.describe(ctx, planner.Target{Container: container, Instance: name}, c,
		func() ([]store.Interface, error) { return s.unplaced(want, c) }, report)
	if err != nil {
		return err
	}
	if err := sharable(rec); err != nil {
		return err
	}
	rec.Stack = spareStack
	from, err := s.bootWith(ctx, rec.Kernel)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(pool.o.Home.Instance(spareStack, name), 0o700); err != nil {
		return err
	}
	defer func() { // its shim is ready when the machine is saved, and ends then
		err = errors.Join(err, pool.awaitGone(context.WithoutCancel(ctx), name), pool.o.Home.RemoveInstance(spareStack, name))
	}()
	if err := volume.Create(pool.o.Home.Writable(spareStack, name), cmp.Or(rec.Writable, volume.WritableLayer)); err != nil {
		return err
	}
	order, err := pool.order(rec, from)
	if err != nil {
		return err
	}
	order.Prepare, order.Env = true, nil
	return pool.launch(ctx, order, poolLimit)
}

// preparable says why no machine can be prepared for c, as far as the declaration
// tells; the shim knows the rest.
func preparable(c spec.Container) error {
	what := ""
	switch {
	case c.TTY:
		what = "a terminal"
	case c.Virtualization:
		what = "nested machines"
	case c.Vsock:
		what = "virtual sockets"
	case c.OCIRuntime != "":
		what = "an OCI runtime"
	case len(c.Interfaces) > 1:
		what = "more than one interface"
	}
	for _, m := range c.Mounts {
		if m.Type == "volume" || m.Type == "bind" || m.Type == "block" {
			what = fmt.Sprintf("the mount of %s, of the type %s", m.Destination, m.Type)
		}
	}
	if what != "" {
		return errs.New(errs.Unsupported, "a machine cannot be prepared with %s", what)
	}
	return nil
}

// sharable says why no machine can be prepared for the record of an instance, as
// far as its image tells.
func sharable(rec store.Instance) error {
	if len(rec.Anonymous) > 0 {
		return errs.New(errs.Unsupported, "a machine cannot be prepared with the volumes that its image asks for")
	}
	return nil
}

// unplaced answers the interfaces of c as far as all its instances have them in
// common: no address is taken for it.
func (s *Stack) unplaced(want *spec.Stack, c spec.Container) (all []store.Interface, err error) {
	for _, i := range c.Interfaces {
		all = append(all, store.Interface{Network: i.Network, MTU: cmp.Or(i.MTU, want.Networks[i.Network].MTU, defaultMTU)})
	}
	return all, nil
}
