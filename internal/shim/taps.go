package shim

import (
	"context"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/wire"
)

// Limits of attached streams.
const (
	maxOffered = 64               // streams that wait for their Attach
	maxTaps    = 64               // attached at a time
	offerLimit = 30 * time.Second // for the Attach to come
	tapLimit   = 10 * time.Second // that a reader may hold the process up
)

// taps are the commands that hear what the container's process says, as it goes
// to the log. A reader that does not read is waited for a while, and then cut
// off: a process must not stand still because somebody has gone to lunch.
type taps struct {
	mu      sync.Mutex // guards the following
	offered map[string]*wire.Stream
	news    chan struct{} // closed with the next offer; nil: nobody waits
	all     []*tap
	closed  bool
}

// tap is one of them, of one stream.
type tap struct {
	name   string // "stdout", "stderr"
	stream *wire.Stream
}

// offer keeps a stream until an Attach names it.
func (t *taps) offer(token string, s *wire.Stream) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return errs.New(errs.FailedPrecondition, "the instance has ended")
	case t.offered[token] != nil:
		return errs.New(errs.AlreadyExists, "the stream's token is taken")
	case len(t.offered) >= maxOffered:
		return errs.New(errs.ResourceExhausted, "more than %d streams wait to be attached", maxOffered)
	}
	if t.offered == nil {
		t.offered = map[string]*wire.Stream{}
	}
	t.offered[token] = s
	if t.news != nil {
		close(t.news)
		t.news = nil
	}
	time.AfterFunc(offerLimit, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.offered[token] == s {
			delete(t.offered, token)
			go func() { _ = s.Close() }() // whoever opened it has forgotten it
		}
	})
	return nil
}

// take answers an offered stream; "" is none. One that was just opened may come
// after the call that names it.
func (t *taps) take(ctx context.Context, token string) (*wire.Stream, error) {
	if token == "" {
		return nil, nil
	}
	ctx, cancel := limit(ctx, offerLimit, "await the stream")
	defer cancel()
	for {
		t.mu.Lock()
		s := t.offered[token]
		if s != nil {
			delete(t.offered, token)
			t.mu.Unlock()
			return s, nil
		}
		if t.news == nil {
			t.news = make(chan struct{})
		}
		news := t.news
		t.mu.Unlock()
		select {
		case <-news:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// add taps the process's stream called name.
func (t *taps) add(name string, s *wire.Stream) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return errs.New(errs.FailedPrecondition, "the instance has ended")
	case len(t.all) >= maxTaps:
		return errs.New(errs.ResourceExhausted, "more than %d streams are attached", maxTaps)
	}
	t.all = append(t.all, &tap{name, s})
	return nil
}

func (t *taps) of(name string) []*tap {
	t.mu.Lock()
	defer t.mu.Unlock()
	var some []*tap
	for _, p := range t.all {
		if p.name == name {
			some = append(some, p)
		}
	}
	return some
}

func (t *taps) drop(p *tap) {
	t.mu.Lock()
	t.all = slices.DeleteFunc(t.all, func(o *tap) bool { return o == p })
	t.mu.Unlock()
	_ = p.stream.Close() // it is done with, or broke
}

// write tells every tap of name.
func (t *taps) write(name string, b []byte) {
	for _, p := range t.of(name) {
		_ = p.stream.Conn().SetWriteDeadline(time.Now().Add(tapLimit))
		if _, err := p.stream.Write(b); err != nil {
			t.drop(p)
		}
	}
}

// end ends the taps of name with the process's stream.
func (t *taps) end(name string) {
	for _, p := range t.of(name) {
		_ = p.stream.Conn().SetWriteDeadline(time.Now().Add(tapLimit))
		_ = p.stream.CloseWrite() // or it broke
		t.drop(p)
	}
}

// close ends all that is left.
func (t *taps) close() {
	t.mu.Lock()
	all, offered := t.all, t.offered
	t.all, t.offered, t.closed = nil, nil, true
	t.mu.Unlock()
	for _, p := range all {
		_ = p.stream.Close()
	}
	for _, s := range offered {
		_ = s.Close()
	}
}

// tee writes to the log, and then to the taps.
type tee struct {
	log  io.Writer
	taps *taps
	name string
}

func (w tee) Write(b []byte) (int, error) {
	w.taps.write(w.name, b)
	return w.log.Write(b)
}

// input is the standard input of the container's process.
type input struct {
	turn sync.Mutex // held by whoever writes

	mu     sync.Mutex    // guards the following
	stream *wire.Stream  // nil until the process runs, and where it reads none
	there  chan struct{} // closed once stream is; nil: nobody waits
}

// connect gives what is written a process to go to.
func (i *input) connect(s *wire.Stream) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.stream = s
	if i.there != nil && s != nil {
		close(i.there)
		i.there = nil
	}
}

// await answers the process's input once there is one.
func (i *input) await(ctx context.Context) *wire.Stream {
	i.mu.Lock()
	if i.stream != nil {
		defer i.mu.Unlock()
		return i.stream
	}
	if i.there == nil {
		i.there = make(chan struct{})
	}
	there := i.there
	i.mu.Unlock()
	select {
	case <-there:
		i.mu.Lock()
		defer i.mu.Unlock()
		return i.stream
	case <-ctx.Done():
		return nil
	}
}

// copyFrom passes a command's stream on; end has its end be the process's too.
func (i *input) copyFrom(ctx context.Context, from *wire.Stream, end bool) {
	defer from.Close()
	stop := context.AfterFunc(ctx, func() { _ = from.Close() })
	defer stop()
	to := i.await(ctx)
	if to == nil {
		return
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && !i.write(to, buf[:n]) {
			_, _ = io.Copy(io.Discard, struct{ io.Reader }{from}) // it reads no more; the command need not know
			return
		}
		if err != nil {
			if end && err == io.EOF {
				i.turn.Lock()
				_ = to.CloseWrite() // or the process has ended
				i.turn.Unlock()
			}
			return
		}
	}
}

func (i *input) write(to *wire.Stream, b []byte) bool {
	i.turn.Lock()
	defer i.turn.Unlock()
	_, err := to.Write(b)
	return err == nil
}

func (s *shim) terminal() bool { return s.inst.Runtime.Process.Terminal }

// Attach connects a command's streams with the container's process.
func (h handler) Attach(ctx context.Context, p shimproto.Attach) (shimproto.Attached, error) {
	s := h.s
	if st, _ := s.status.read(); !st.State.Live() || st.State == lifecycle.Stopping {
		return shimproto.Attached{}, errs.New(errs.FailedPrecondition, "cannot attach to what is %s", st.State)
	}
	a := shimproto.Attached{TTY: s.terminal(), Stdin: s.inst.Stdin}
	for _, one := range []struct{ name, token string }{{"stdout", p.Stdout}, {"stderr", p.Stderr}} {
		st, err := s.taps.take(ctx, one.token)
		switch {
		case err != nil:
			return a, err
		case st == nil:
			continue
		case one.name == "stderr" && a.TTY: // nothing comes there
			_ = st.CloseWrite()
			_ = st.Close()
			continue
		}
		if err := s.taps.add(one.name, st); err != nil {
			_ = st.Close()
			return a, err
		}
	}
	in, err := s.taps.take(ctx, p.Stdin)
	switch {
	case err != nil:
		return a, err
	case in != nil && !a.Stdin:
		_ = in.Close()
	case in != nil:
		s.tasks.Go(func() { s.input.copyFrom(s.ctx, in, p.EndStdin) })
	}
	s.own(ctx)
	s.attend()
	return a, nil
}
