package image

import (
	"context"
	"sync"
)

// flights does equal work once for all who ask for it at the same time in this
// process. Work goes on as long as one of them waits; it ends with the last.
type flights struct {
	mu sync.Mutex
	// mu guards the following.
	m map[string]*flight
}

type flight struct {
	cancel  context.CancelFunc
	waiters int           // guarded by flights.mu
	done    chan struct{} // closed when err is set
	err     error
}

// do answers the outcome of fn, called by this caller or one with the same key.
// Led says which. A caller whose ctx ends leaves; the last to leave cancels the
// work and sees it end.
func (fs *flights) do(ctx context.Context, key string, fn func(context.Context) error) (led bool, err error) {
	f, led := fs.join(ctx, key, fn)
	select {
	case <-f.done:
		fs.leave(key, f)
		return led, f.err
	case <-ctx.Done():
		if fs.leave(key, f) {
			<-f.done
		}
		return led, ctx.Err()
	}
}

func (fs *flights) join(ctx context.Context, key string, fn func(context.Context) error) (f *flight, led bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f, ok := fs.m[key]; ok {
		f.waiters++
		return f, false
	}
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f = &flight{cancel: cancel, waiters: 1, done: make(chan struct{})}
	if fs.m == nil {
		fs.m = map[string]*flight{}
	}
	fs.m[key] = f
	go func() {
		defer close(f.done)
		f.err = fn(work)
		fs.mu.Lock()
		defer fs.mu.Unlock()
		if fs.m[key] == f {
			delete(fs.m, key)
		}
	}()
	return f, true
}

// leave answers whether nobody waits any more. Whoever asks for the same from
// then on starts anew.
func (fs *flights) leave(key string, f *flight) (last bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f.waiters--; f.waiters > 0 {
		return false
	}
	f.cancel()
	if fs.m[key] == f {
		delete(fs.m, key)
	}
	return true
}
