package logs

import (
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/fsnotify/fsnotify"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Watch tells following readers that there is something to read. One serves any
// number of readers: the system allows a user few of them (128 inotify
// instances on most Linux hosts).
type Watch struct {
	fs   *fsnotify.Watcher
	done chan struct{} // closed when the dispatcher has ended

	mu      sync.Mutex // guards the following
	subs    map[string][]*subscription
	watched map[string]int // how many subs want a folder watched
}

// subscription is one reader's interest in one folder.
type subscription struct {
	dir   string
	dirty atomic.Bool // something happened since it was last cleared
	wake  atomic.Pointer[chan struct{}]
}

// poke marks and wakes. It never blocks.
func (s *subscription) poke() {
	s.dirty.Store(true)
	select {
	case *s.wake.Load() <- struct{}{}:
	default:
	}
}

// NewWatch starts a watch. Close ends it.
func NewWatch() (*Watch, error) {
	fs, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, errs.WithHint(errs.As(errs.ResourceExhausted, fmt.Errorf("watch logs: %w", err)),
			"follow fewer logs at once, or raise fs.inotify.max_user_instances")
	}
	w := &Watch{fs: fs, done: make(chan struct{}), subs: map[string][]*subscription{}, watched: map[string]int{}}
	go w.dispatch()
	return w, nil
}

// Close ends the watch. Readers that use it are closed first.
func (w *Watch) Close() error {
	err := w.fs.Close()
	<-w.done
	return err
}

func (w *Watch) dispatch() {
	defer close(w.done)
	for {
		select {
		case e, ok := <-w.fs.Events:
			if !ok {
				return
			}
			if !e.Has(fsnotify.Chmod) {
				w.poke(filepath.Dir(e.Name), e.Name)
			}
		case _, ok := <-w.fs.Errors:
			if !ok {
				return
			}
			// The system's queue ran over: anything may have happened.
			w.poke()
		}
	}
}

// poke wakes the readers of dirs, or of every folder where none is named.
func (w *Watch) poke(dirs ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for d, subs := range w.subs {
		if len(dirs) == 0 || slices.Contains(dirs, d) {
			for _, s := range subs {
				s.poke()
			}
		}
	}
}

func (w *Watch) subscribe(dir string) (*subscription, error) {
	s := &subscription{dir: filepath.Clean(dir)}
	wake := make(chan struct{}, 1)
	s.wake.Store(&wake)
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, d := range s.folders() {
		if err := w.add(d); err != nil {
			for _, d := range s.folders()[:i] {
				w.drop(d)
			}
			return nil, fmt.Errorf("watch logs: %w", err)
		}
	}
	w.subs[s.dir] = append(w.subs[s.dir], s)
	return s, nil
}

// folders are those whose events s needs. That above its own tells when its own
// is removed: of itself a folder may tell only when nobody has it open any more,
// and where somebody opens it just then, on some kernels never.
func (s *subscription) folders() []string { return []string{s.dir, filepath.Dir(s.dir)} }

// add watches dir once more. The lock is held.
func (w *Watch) add(dir string) error {
	if w.watched[dir] == 0 {
		if err := w.fs.Add(dir); err != nil {
			return err
		}
	}
	w.watched[dir]++
	return nil
}

// drop undoes an add. The lock is held.
func (w *Watch) drop(dir string) {
	if w.watched[dir]--; w.watched[dir] > 0 {
		return
	}
	delete(w.watched, dir)
	// It fails where the folder is gone, and the system's watch with it.
	_ = w.fs.Remove(dir)
}

func (w *Watch) unsubscribe(s *subscription) {
	w.mu.Lock()
	defer w.mu.Unlock()
	left := slices.DeleteFunc(w.subs[s.dir], func(o *subscription) bool { return o == s })
	w.subs[s.dir] = left
	if len(left) == 0 {
		delete(w.subs, s.dir)
	}
	for _, d := range s.folders() {
		w.drop(d)
	}
}
