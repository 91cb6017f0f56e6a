package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/state"
)

// Change is what has become of an instance.
type Change struct {
	Instance state.Instance
	Status   shimproto.Status
	// Gone reports that the instance was removed. One of the same name that comes
	// later is another, with another time of creation.
	Gone bool
}

// Track reports how every instance of the stack is, and each change of it, also
// of instances that are created later, until ctx ends or the stack cannot be
// watched. It calls changed from one goroutine at a time. Where changes follow
// each other quickly only the last of them is reported; the number of restarts
// and the time of the last end tell what was left out.
func (s *Stack) Track(ctx context.Context, changed func(Change)) error {
	t := &tracker{s: s, report: changed, seen: map[string]*tracked{}, look: make(chan struct{}, 1)}
	var err error
	if t.fs, err = fsnotify.NewWatcher(); err != nil {
		return errs.WithHint(errs.As(errs.ResourceExhausted, fmt.Errorf("watch stack %s: %w", s.Name, err)),
			"follow fewer stacks at once, or raise fs.inotify.max_user_instances")
	}
	defer t.fs.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer t.work.Wait()
	defer cancel()
	if err := os.MkdirAll(s.o.Home.Stacks(), 0o700); err != nil {
		return fmt.Errorf("watch stack %s: %w", s.Name, err)
	}
	for {
		if err := t.scan(ctx); err != nil {
			return fmt.Errorf("watch stack %s: %w", s.Name, err)
		}
		select {
		case <-t.look:
		case _, ok := <-t.fs.Events:
			if !ok {
				return nil
			}
		case _, ok := <-t.fs.Errors: // the system's queue ran over: anything may have happened
			if !ok {
				return nil
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// tracker is one Track. Its goroutine owns fs and seen.
type tracker struct {
	s    *Stack
	fs   *fsnotify.Watcher
	seen map[string]*tracked // by name
	look chan struct{}       // has a token where a scan is due
	work sync.WaitGroup      // of goroutines that listen to shims

	mu     sync.Mutex // held while report is called
	report func(Change)
}

// tracked is what is known of one instance.
type tracked struct {
	created time.Time
	mu      sync.Mutex // guards the following
	busy    bool       // a goroutine listens to its shim
}

// scan looks for instances that came, went, or have a shim that nobody listens
// to. Every event of the file system leads to one: there are few of them, and
// what they mean would have to be looked up all the same.
func (t *tracker) scan(ctx context.Context) error {
	home := t.s.o.Home
	// Watches come before the look, so that nothing falls between. A folder that
	// is watched already is no matter, nor one that went meanwhile.
	for _, dir := range []string{home.Stacks(), home.Stack(t.s.Name)} {
		if err := t.watch(dir); err != nil {
			return err
		}
	}
	names, err := home.ListInstances(t.s.Name)
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, name := range names {
		there[name] = true
		if err := t.watch(home.Instance(t.s.Name, name)); err != nil {
			return err
		}
		if err := t.visit(ctx, name); err != nil {
			return err
		}
	}
	for name, x := range t.seen {
		if !there[name] && !x.listening() {
			delete(t.seen, name)
			t.tell(Change{Instance: state.Instance{Name: name, Created: x.created}, Gone: true})
		}
	}
	return nil
}

func (t *tracker) watch(dir string) error {
	if err := t.fs.Add(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// visit looks at one instance.
func (t *tracker) visit(ctx context.Context, name string) error {
	x := t.seen[name]
	if x != nil && x.listening() {
		return nil
	}
	alive, err := t.s.o.Home.Alive(t.s.Name, name)
	if err != nil {
		return err
	}
	rec, err := t.s.o.Home.ReadInstance(t.s.Name, name)
	if errs.Is(err, errs.NotFound) {
		return nil // it is being created: its record comes last
	}
	fresh := x == nil || !x.created.Equal(rec.Created)
	if !alive && !fresh {
		return nil
	}
	if fresh {
		x = &tracked{created: rec.Created}
		t.seen[name] = x
	}
	if !alive {
		i, err := t.s.observe(ctx, name)
		if err != nil {
			return err
		}
		t.tell(Change{Instance: i, Status: StatusOf(i)})
		return nil
	}
	i := state.Instance{Name: name, Container: rec.Container, Index: rec.Index, Created: rec.Created}
	if err != nil { // its record is damaged, and it runs all the same
		i.Container, i.Index = splitName(name)
	}
	x.listen(true)
	t.work.Go(func() {
		t.listen(ctx, i)
		x.listen(false)
		select { // it may have come again meanwhile
		case t.look <- struct{}{}:
		default:
		}
	})
	return nil
}

// listen reports what a shim says until it has ended.
func (t *tracker) listen(ctx context.Context, i state.Instance) {
	st, err := t.s.follow(ctx, i.Name, func(st shimproto.Status) bool {
		t.tell(Change{Instance: i, Status: st})
		return false
	})
	if err == nil {
		t.tell(Change{Instance: i, Status: st})
		return
	}
	// It cannot be spoken with. That it ends is seen by its lock.
	for ctx.Err() == nil {
		if now, err := t.s.observe(ctx, i.Name); err != nil || !now.State.Live() {
			t.tell(Change{Instance: i, Status: StatusOf(now)})
			return
		}
		select {
		case <-time.After(unheardLook):
		case <-ctx.Done():
		}
	}
}

// unheardLook is between two looks at a shim that cannot be spoken with.
const unheardLook = 500 * time.Millisecond

func (t *tracker) tell(c Change) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.report(c)
}

func (x *tracked) listening() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.busy
}

func (x *tracked) listen(on bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.busy = on
}

// Busy reports whether a command is at work on the stack.
func (s *Stack) Busy() (bool, error) { return s.o.Home.StackBusy(s.Name) }

// Settled reports whether no command is at work on the stack and none of the
// instances that are meant has a shim. Only then has a stack ended: between the
// stop and the start of a restart it has not.
func (s *Stack) Settled(meant func(state.Instance) bool) (bool, error) {
	if busy, err := s.Busy(); err != nil || busy {
		return false, err
	}
	names, err := s.o.Home.ListInstances(s.Name)
	if err != nil {
		return false, err
	}
	for _, name := range names {
		alive, err := s.o.Home.Alive(s.Name, name)
		if err != nil {
			return false, err
		}
		if !alive {
			continue
		}
		i := state.Instance{Name: name}
		i.Container, i.Index = splitName(name)
		if rec, err := s.o.Home.ReadInstance(s.Name, name); err == nil {
			i.Container, i.Index = rec.Container, rec.Index
		}
		if meant(i) {
			return false, nil
		}
	}
	return true, nil
}

// StatusOf is the status of an instance as it was observed.
func StatusOf(i state.Instance) shimproto.Status {
	return shimproto.Status{State: i.State, Cause: i.Cause, Exit: i.Exit, Health: i.Health, Restarts: i.Restarts, Started: i.Started,
		Finished: i.Finished, Boots: i.Boots, PID: i.PID}
}
