package engine

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/internal/image"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/internal/volume"
	"github.com/vzcompose/vzcompose/planner"
	"github.com/vzcompose/vzcompose/spec"
	"github.com/vzcompose/vzcompose/vmm"
)

// The pool is machines that wait for instances (docs/pool.md). Each belongs to a
// shim, which is kept like an instance's, in a home folder of the pool's own.

// spareStack is the stack of spares; no stack file can have the name.
const spareStack = ".spare"

// rehearsalMemory is the memory of the container that is rehearsed, in bytes.
const rehearsalMemory = 16 << 20

// poolLimit is how long a spare may take until it waits.
const poolLimit = 5 * time.Minute

// Make is what machines may differ in.
type Make struct {
	CPUs   int
	Memory uint64 // of the machine, in bytes
}

// Kind is what machines that wait may differ in: their make, and the container
// that is held in them.
type Kind struct {
	Make
	Held *shimproto.Launch `json:"held,omitempty"` // what its instances have in common; nil: none is held
	Key  string            `json:"key,omitempty"`  // of Held
}

// Make answers the make of the machines that c's instances run in.
func (e *Engine) Make(c spec.Container) Make {
	return Make{CPUs: e.machineCPUs(c), Memory: machineMemory(c)}
}

// DefaultMake is that of a container which declares neither processors nor
// memory.
func (e *Engine) DefaultMake() Make {
	return e.Make(spec.Container{CPUs: spec.DefaultCPUs, Memory: spec.DefaultMemory})
}

// Makes answers the makes of the machines of s, each once.
func (e *Engine) Makes(s *spec.Stack) (all []Make) {
	for _, name := range slices.Sorted(maps.Keys(s.Containers)) {
		if m := e.Make(s.Containers[name]); !slices.Contains(all, m) {
			all = append(all, m)
		}
	}
	return all
}

// KindsOf answers those of makes, without a container.
func KindsOf(makes []Make) (all []Kind) {
	for _, m := range makes {
		all = append(all, Kind{Make: m})
	}
	return all
}

// Kinds answers the kinds of machines of which one can wait for any instance of
// want: with its container held where that can be. Of the others it answers, by
// container, why not: an image that is not there is one reason.
func (s *Stack) Kinds(ctx context.Context, want *spec.Stack, report func(container string, p event.Progress)) (all []Kind, skipped map[string]error, err error) {
	skipped = map[string]error{}
	for _, name := range slices.Sorted(maps.Keys(want.Containers)) {
		c := want.Containers[name]
		k := Kind{Make: s.Make(c)}
		held, err := s.heldKind(ctx, want, name, func(p event.Progress) { report(name, p) })
		switch {
		case err == nil:
			k = *held
		case errs.Is(err, errs.Unsupported), errs.Is(err, errs.NotFound):
			skipped[name] = err
		default:
			return nil, nil, fmt.Errorf("what the instances of %s have in common: %w", name, err)
		}
		if !slices.ContainsFunc(all, k.same) {
			all = append(all, k)
		}
	}
	return all, skipped, nil
}

func (s *Stack) heldKind(ctx context.Context, want *spec.Stack, container string, report func(event.Progress)) (*Kind, error) {
	c := want.Containers[container]
	if s.o.Held == nil {
		return nil, errs.New(errs.Unsupported, "no machine holds a container")
	}
	if err := preparable(c); err != nil {
		return nil, err
	}
	rec, err := s.describe(ctx, planner.Target{Container: container, Instance: container}, c,
		func() ([]store.Interface, error) { return s.unplaced(want, c) }, report)
	if err != nil {
		return nil, err
	}
	if err := sharable(rec); err != nil {
		return nil, err
	}
	if len(rec.KernelArgs) > 0 {
		return nil, errs.New(errs.Unsupported, "the kernel is told more")
	}
	from, err := s.bootWith(ctx, rec.Kernel)
	if err != nil {
		return nil, err
	}
	order, err := s.order(rec, from)
	if err != nil {
		return nil, err
	}
	common, key, err := s.o.Held(order)
	if err != nil {
		return nil, err
	}
	return &Kind{Make{rec.CPUs, rec.Memory}, &common, key}, nil
}

// MachineConfig is a machine of make m without an instance.
func (e *Engine) MachineConfig(ctx context.Context, m Make) (*vmm.Config, error) {
	from, err := e.bootFrom(ctx)
	if err != nil {
		return nil, err
	}
	return &vmm.Config{Name: "template", CPUs: m.CPUs, Memory: m.Memory, Kernel: from.kernel, Initramfs: from.initramfs}, nil
}

// spares is the pool as a stack.
func (e *Engine) spares() *Stack {
	inPool := *e.withHome(e.o.Home.Pool())
	return &Stack{Engine: &inPool, Name: spareStack}
}

// prefix begins the names of spares that are alike.
func (m Make) prefix(from *bootFiles) string {
	return digest(from.kernel, from.initramfs, m.CPUs, m.Memory)
}

// heldPrefix begins the names of spares that hold what l asks for, which has key.
func heldPrefix(l *shimproto.Launch, key string) string {
	i := l.Instance
	return digest(l.Kernel, l.Initramfs, i.CPUs, i.Memory, i.Root, i.Writable, key)
}

// digest has the versions of launches and calls in it, so that a spare of another
// version has a prefix that no command looks for.
func digest(what ...any) string {
	what = append(what, shimproto.LaunchVersion, shimproto.Version)
	sum := sha256.Sum256(fmt.Appendf(nil, "%#v", what)) // unlike %q, with numbers as they are
	return hex.EncodeToString(sum[:8]) + "-"
}

// same says whether whoever can have a machine of k can have one of o.
func (k Kind) same(o Kind) bool {
	if k.Held == nil || o.Held == nil {
		return k.Held == o.Held && k.Make == o.Make
	}
	return heldPrefix(k.Held, k.Key) == heldPrefix(o.Held, o.Key)
}

func (k Kind) prefix(from *bootFiles) string {
	if k.Held != nil {
		return heldPrefix(k.Held, k.Key)
	}
	return k.Make.prefix(from)
}

// Spare is a machine that waits, or will.
type Spare struct {
	Name string
	Make
	Created time.Time
}

// Spares lists them: all that live, also one whose record cannot be read, which is
// of no make then. What dead ones left is removed.
func (e *Engine) Spares() (all []Spare, err error) {
	pool := e.spares()
	names, err := pool.o.Home.ListInstances(spareStack)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		alive, err := pool.o.Home.Alive(spareStack, name)
		if err != nil {
			return nil, err
		}
		rec, rerr := pool.o.Home.ReadInstance(spareStack, name)
		switch {
		case alive:
			all = append(all, Spare{name, Make{rec.CPUs, rec.Memory}, rec.Created})
		case !alive && (rerr == nil || pool.older(name, poolLimit)): // younger ones are just being made
			if err := pool.remove(context.Background(), name, func(event.Progress) {}); err != nil { // it has no shim: nothing is waited for
				return nil, err
			}
		}
	}
	return all, nil
}

// older reports whether an instance's folder was last changed so long ago.
func (s *Stack) older(name string, age time.Duration) bool {
	fi, err := os.Stat(s.o.Home.Instance(s.Name, name))
	return err == nil && time.Since(fi.ModTime()) > age
}

// FillPool starts spares until n of each kind wait, or all of them together have
// memory bytes: where they would have more, those of no kind of these end, the
// oldest first. It returns when they wait.
func (e *Engine) FillPool(ctx context.Context, kinds []Kind, n int, memory uint64) error {
	from, err := e.bootFrom(ctx)
	if err != nil {
		return err
	}
	there, err := e.Spares()
	if err != nil {
		return err
	}
	var taken uint64
	var others []Spare
	for _, s := range there {
		taken += s.Memory
		if !slices.ContainsFunc(kinds, func(k Kind) bool { return strings.HasPrefix(s.Name, k.prefix(from)) }) {
			others = append(others, s)
		}
	}
	slices.SortFunc(others, func(a, b Spare) int { return a.Created.Compare(b.Created) })
	// room says whether there is memory for one more of k, and makes some.
	room := func(k Kind) (bool, error) {
		for ; taken+k.Memory > memory && len(others) > 0; others = others[1:] {
			ended, err := e.retire(ctx, others[0])
			if err != nil {
				return false, err
			}
			if ended {
				taken -= others[0].Memory
			}
		}
		return taken+k.Memory <= memory, nil
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(e.o.CPUs) // a boot costs one
	for _, k := range kinds {
		have := 0
		for _, s := range there {
			if strings.HasPrefix(s.Name, k.prefix(from)) {
				have++
			}
		}
		for ; have < n; have++ {
			ok, err := room(k)
			if err != nil {
				return errors.Join(err, g.Wait())
			}
			if !ok {
				break
			}
			taken += k.Memory
			g.Go(func() error { return e.startSpare(gctx, k, from) })
		}
	}
	return g.Wait()
}

// retire ends s, unless it has become somebody's. It is told so where it takes
// orders, one at a time: a signal could reach it when it has just taken one.
func (e *Engine) retire(ctx context.Context, s Spare) (ended bool, err error) {
	pool := e.spares()
	c, err := net.Dial("unix", pool.o.Home.Socket(spareStack, s.Name))
	if err != nil {
		return false, nil // another's by now, or not ready yet
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(e.o.SpawnLimit)); err != nil {
		return false, err
	}
	order, err := shimproto.Launch{Retire: true}.Encode()
	if err != nil {
		return false, err
	}
	if _, err := c.Write(order); err != nil {
		return false, nil // likewise
	}
	if err := pool.awaitGone(ctx, s.Name); err != nil {
		return false, fmt.Errorf("end the machine %s, which waits: %w", s.Name, err)
	}
	return true, nil
}

// startSpare starts one and returns when it waits.
func (e *Engine) startSpare(ctx context.Context, m Kind, from *bootFiles) error {
	ctx, cancel := limited(ctx, poolLimit, "make a machine that waits")
	defer cancel()
	pool := e.spares()
	root := filepath.Join(pool.o.Home.Dir, "rehearsal.erofs")
	name := m.prefix(from) + strings.ToLower(rand.Text()[:8])
	if err := os.MkdirAll(pool.o.Home.Instance(spareStack, name), 0o700); err != nil {
		return err
	}
	if err := image.WriteRehearsal(ctx, root, runtime.GOARCH); err != nil {
		return err
	}
	runs, err := runtimeSpec(spec.Container{Command: []string{image.RehearsalCommand}, CPUs: float64(m.CPUs),
		Memory: rehearsalMemory}, image.Config{}, "rehearsal", nil, nil)
	if err != nil {
		return err
	}
	rec := store.Instance{Stack: spareStack, Container: "spare", Name: name, Created: time.Now(), CPUs: m.CPUs, Memory: m.Memory,
		Root: root, Runtime: runs, User: "root", StopSignal: int(syscall.SIGKILL)}
	if err := volume.Create(pool.o.Home.Writable(spareStack, name), 0); err != nil {
		return err
	}
	order, err := pool.order(rec, from)
	if err != nil {
		return err
	}
	order.Spare = true
	if m.Held != nil {
		order.Hold, order.Kernel, order.Initramfs = m.Held, m.Held.Kernel, m.Held.Initramfs
	}
	err = pool.launch(ctx, order, poolLimit)
	if err != nil {
		return errors.Join(err, pool.o.Home.RemoveInstance(spareStack, name))
	}
	return nil
}

// takeSpare gives order to a machine that waits, if there is one for it.
func (e *Engine) takeSpare(ctx context.Context, order shimproto.Launch) (taken bool, err error) {
	if order.Cold || order.Instance.Nested || order.Instance.Vsock || len(order.Instance.Shares) > 0 || len(order.Instance.KernelArgs) > 0 {
		return false, nil
	}
	pool := e.spares()
	names, err := pool.o.Home.ListInstances(spareStack)
	if err != nil || len(names) == 0 {
		return false, nil // as good as none
	}
	for name := range e.candidates(names, order) {
		c, err := net.Dial("unix", pool.o.Home.Socket(spareStack, name))
		if err != nil {
			continue // another's by now, or not ready yet
		}
		taken, err := e.hand(ctx, c.(*net.UnixConn), order)
		_ = c.Close()
		if taken || err != nil {
			return taken, err
		}
	}
	return false, nil
}

// candidates are those of names that order's instance can have, what it fits best
// first.
func (e *Engine) candidates(names []string, order shimproto.Launch) iter.Seq[string] {
	m := Make{order.Instance.CPUs, order.Instance.Memory}
	prefixes := []string{m.prefix(&bootFiles{kernel: order.Kernel, initramfs: order.Initramfs})}
	if e.o.Held != nil {
		_, key, err := e.o.Held(order)
		// Nothing was written to its disk: another takes its place.
		untouched, uerr := volume.Untouched(e.o.Home.Writable(order.Instance.Stack, order.Instance.Name))
		if err == nil && uerr == nil && untouched {
			prefixes = slices.Insert(prefixes, 0, heldPrefix(&order, key))
		}
	}
	return func(yield func(string) bool) {
		for _, prefix := range prefixes {
			for _, name := range names {
				if strings.HasPrefix(name, prefix) && !yield(name) {
					return
				}
			}
		}
	}
}

// hand gives order to the spare on c. One that says nothing has not taken it: it
// was another's already, or does not know all that order has. Where ctx ends the order is taken back: a spare that took
// it all the same says so, and is taken then, with an error.
func (e *Engine) hand(ctx context.Context, c *net.UnixConn, order shimproto.Launch) (taken bool, err error) {
	ctx, cancel := limited(ctx, e.o.SpawnLimit, "hand the instance to a machine that waits")
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		_ = c.SetWriteDeadline(time.Unix(1, 0))
		_ = c.CloseWrite()
		_ = c.SetReadDeadline(time.Now().Add(e.o.SpawnLimit))
	})()
	b, err := order.Encode()
	if err != nil {
		return false, err
	}
	if _, err := c.Write(b); err != nil {
		return false, context.Cause(ctx) // nil: it has gone
	}
	word, err := bufio.NewReader(c).ReadString('\n')
	word = strings.TrimSpace(word)
	switch {
	case word == shimproto.Ready:
		return true, context.Cause(ctx)
	case word != "":
		return true, errs.New(errs.Unavailable, "%s", word)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return true, errs.New(errs.DeadlineExceeded, "%w; the machine does not say whether it gave the instance back", context.Cause(ctx))
	}
	return false, context.Cause(ctx)
}

// EmptyPool ends all machines that wait.
func (e *Engine) EmptyPool(ctx context.Context) error {
	all, err := e.Spares()
	if err != nil || len(all) == 0 {
		return err
	}
	failed := make([]error, len(all))
	var ends sync.WaitGroup
	for n, s := range all {
		ends.Go(func() {
			if err := e.endSpare(ctx, s); err != nil {
				failed[n] = fmt.Errorf("end %s: %w", s.Name, err)
			}
		})
	}
	ends.Wait()
	_, err = e.Spares() // removes what they left
	return errors.Join(append(failed, err)...)
}

// endSpare ends s. One that waits is told so; a signal is for one that does not
// wait yet, since it would also end an instance whose start was just given to s.
func (e *Engine) endSpare(ctx context.Context, s Spare) error {
	if ended, err := e.retire(ctx, s); ended && err == nil {
		return nil
	}
	pool := e.spares()
	pid, err := pool.o.Home.Owner(spareStack, s.Name)
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGTERM)
	}
	if err != nil && !errors.Is(err, syscall.ESRCH) && !os.IsNotExist(err) {
		return err
	}
	if err := pool.awaitGone(ctx, s.Name); err != nil {
		return pool.killShim(ctx, s.Name, err)
	}
	return nil
}

// withHome is the engine on another home folder, with what machines boot from.
func (e *Engine) withHome(h store.Home) *Engine {
	o := e.o
	o.Home, o.Templates = h, e.templates()
	return New(o)
}

// machineCPUs is how many processors a machine gets for a container's share.
func (e *Engine) machineCPUs(c spec.Container) int {
	n := int(math.Ceil(c.CPUs))
	if c.Overhead != nil {
		n += c.Overhead.CPUs
	}
	return min(n, e.o.CPUs)
}
