package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/vzcompose/vzcompose/internal/durable"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/filelock"
)

// removedPrefix begins the name that a folder has while it is deleted. The
// rename is what removes it: nobody finds a folder that is half deleted, and a
// process that waits for a lock in it finds that its file is gone.
const removedPrefix = ".removed-"

// ListStacks returns the names of the stacks that have a folder, sorted.
func (h Home) ListStacks() ([]string, error) { return folders(h.Stacks()) }

// ListInstances returns the names of a stack's instances that have a folder,
// half-made ones too, sorted.
func (h Home) ListInstances(stack string) ([]string, error) { return folders(h.Stack(stack)) }

// ListVolumeFolders returns the names of the stacks that have volumes, sorted; ""
// stands for none, which has the external ones.
func (h Home) ListVolumeFolders() ([]string, error) {
	names, err := folders(filepath.Join(h.Dir, "volumes"))
	for i, name := range names {
		if name == externalFolder {
			names[i] = ""
		}
	}
	return names, err
}

func folders(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), removedPrefix) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// MakeInstance creates an instance's folder.
func (h Home) MakeInstance(stack, name string) error {
	if err := durable.MkdirAll(h.Stack(stack)); err != nil {
		return err
	}
	if err := os.Mkdir(h.Instance(stack, name), 0o700); err != nil {
		return err
	}
	return durable.SyncDir(h.Stack(stack))
}

// LockInstance takes the lock that a live shim holds, and leaves the number of
// this process in its file.
func (h Home) LockInstance(stack, name string) (*filelock.Lock, error) {
	l, err := filelock.Try(h.instanceLock(stack, name))
	if err != nil {
		return nil, err
	}
	if err := l.Sign(); err != nil {
		l.Release()
		return nil, err
	}
	return l, nil
}

// Owner returns the process that holds an instance's lock. It means something
// only while Alive is true.
func (h Home) Owner(stack, name string) (pid int, err error) {
	return filelock.Signed(h.instanceLock(stack, name))
}

// Alive reports whether an instance has a shim.
func (h Home) Alive(stack, name string) (bool, error) {
	return filelock.Held(h.instanceLock(stack, name))
}

// RemoveInstance deletes an instance's folder; none is fine. It holds the
// instance's lock meanwhile, so that no shim comes to life in a folder that is
// being deleted: errs.FailedPrecondition where one lives there.
func (h Home) RemoveInstance(stack, name string) error {
	l, err := filelock.Try(h.instanceLock(stack, name))
	if os.IsNotExist(err) {
		return erase(removed(h.Instance(stack, name))) // of a removal that was interrupted
	}
	if err != nil {
		return err
	}
	defer l.Release()
	return h.DropInstance(stack, name)
}

// DropInstance is RemoveInstance for who holds the instance's lock.
func (h Home) DropInstance(stack, name string) error { return remove(h.Instance(stack, name)) }

func removed(dir string) string {
	return filepath.Join(filepath.Dir(dir), removedPrefix+filepath.Base(dir))
}

// remove takes a folder from its place, then deletes it.
func remove(dir string) error {
	if err := erase(removed(dir)); err != nil { // of a removal that was interrupted
		return err
	}
	if err := os.Rename(dir, removed(dir)); err != nil {
		if os.IsNotExist(err) {
			return nil
		}
		return err
	}
	return erase(removed(dir))
}

// lateFiles bounds how often erase begins anew.
const lateFiles = 100

// erase deletes a folder that has its place no more. A process that was on its
// way into the folder when it was renamed may still create a lock file there,
// behind the back of the deletion: it finds that it has the wrong one, and there
// are only as many as were on their way.
func erase(dir string) error {
	for n := 0; ; n++ {
		err := os.RemoveAll(dir)
		if n == lateFiles || !errors.Is(err, syscall.ENOTEMPTY) {
			return err
		}
	}
}

// LockStack takes the lock under which a stack is changed, and waits for whom
// has it until ctx ends; waiting (may be nil) is told once. The stack's folder
// is created.
func (h Home) LockStack(ctx context.Context, name string, waiting func()) (*filelock.Lock, error) {
	for {
		l, err := h.tryStack(ctx, name, &waiting)
		if !errors.Is(err, os.ErrNotExist) || ctx.Err() != nil {
			return l, err
		}
		// The folder was removed between its creation and the lock: once more.
	}
}

func (h Home) tryStack(ctx context.Context, name string, waiting *func()) (*filelock.Lock, error) {
	if err := durable.MkdirAll(h.Stack(name)); err != nil {
		return nil, err
	}
	l, err := filelock.Try(h.stackLock(name))
	if !errs.Is(err, errs.FailedPrecondition) {
		return l, err
	}
	if *waiting != nil {
		(*waiting)()
		*waiting = nil
	}
	return filelock.Wait(ctx, h.stackLock(name))
}

// RemoveStack deletes a stack's folder where no instance is left in it. The
// caller holds the stack's lock, which is in the folder: who waits for it finds
// its file gone and takes a new one. With keepRecord the record stays, and says
// whose the stack's volumes are.
func (h Home) RemoveStack(name string, keepRecord bool) error {
	left, err := h.ListInstances(name)
	if err != nil || len(left) > 0 {
		return err
	}
	if !keepRecord {
		return remove(h.Stack(name))
	}
	entries, err := os.ReadDir(h.Stack(name))
	if os.IsNotExist(err) {
		return nil
	}
	for _, e := range entries {
		if path := filepath.Join(h.Stack(name), e.Name()); path != h.stackLock(name) && path != h.StackRecord(name) {
			err = errors.Join(err, os.RemoveAll(path))
		}
	}
	return err
}
