package vmmfake

import (
	"context"
	"io"
	"sync"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/wire"
)

// end is the agent's end of one stdio pipe.
type end interface {
	// attach carries the stream, in place of the one attached before.
	attach(s *wire.Stream)
}

// streams brings together the host's streams and the pipes of processes, by
// token, whichever comes first.
type streams struct {
	work *sync.WaitGroup

	mu        sync.Mutex // guards the following
	closed    bool
	ends      map[string]end
	unclaimed map[string]*wire.Stream
}

func newStreams(work *sync.WaitGroup) *streams {
	return &streams{work: work, ends: map[string]end{}, unclaimed: map[string]*wire.Stream{}}
}

func (t *streams) open(token string, s *wire.Stream) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return errs.New(errs.Unavailable, "the machine is ending")
	}
	if e := t.ends[token]; e != nil {
		e.attach(s)
		return nil
	}
	if old := t.unclaimed[token]; old != nil { // the newest holds
		_ = old.Close()
	}
	t.unclaimed[token] = s
	return nil
}

// bind gives each end its token, or none of them; "" is no stream.
func (t *streams) bind(tokens []string, ends []end) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, token := range tokens {
		if t.ends[token] != nil {
			return errs.New(errs.AlreadyExists, "the stream's token is taken")
		}
	}
	for i, token := range tokens {
		if token == "" {
			continue
		}
		t.ends[token] = ends[i]
		if s := t.unclaimed[token]; s != nil {
			delete(t.unclaimed, token)
			ends[i].attach(s)
		}
	}
	return nil
}

func (t *streams) unbind(tokens []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, token := range tokens {
		delete(t.ends, token)
	}
}

// close drops what nobody has claimed; the rest ends with its connections.
func (t *streams) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for _, s := range t.unclaimed {
		_ = s.Close()
	}
	clear(t.unclaimed)
}

// input is a process's stdin. A stream that is cut off ends nothing: another
// may follow it.
type input struct {
	t    *streams
	p    *pipe
	turn chan struct{} // held by the goroutine that carries

	mu     sync.Mutex // guards the following
	stream *wire.Stream
	ended  bool // the process has
}

func newInput(t *streams) *input { return &input{t: t, p: newPipe(), turn: make(chan struct{}, 1)} }

// reader is what the process reads; without a token there is nothing.
func (i *input) reader(token string) io.Reader {
	if token == "" {
		i.p.end()
	}
	return i
}

func (i *input) Read(b []byte) (int, error) { return i.p.read(b, nil) }

func (i *input) waits() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.stream == nil
}

func (i *input) attach(s *wire.Stream) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.stream != nil {
		_ = i.stream.Close()
	}
	i.stream = s
	if i.ended {
		_ = s.Close()
		return
	}
	i.t.work.Go(func() { i.carry(s) })
}

func (i *input) carry(s *wire.Stream) {
	i.turn <- struct{}{}
	defer func() { <-i.turn }()
	if _, err := io.Copy(pipeWriter{i.p}, onlyReader{s}); err == nil {
		i.p.end()
		_ = s.CloseWrite() // or it is gone
	}
	_ = s.Close()
}

// exited closes pipe and stream: nobody is there to read.
func (i *input) exited() {
	i.p.hangUp()
	i.mu.Lock()
	defer i.mu.Unlock()
	i.ended = true
	if i.stream != nil {
		_ = i.stream.Close()
	}
}

// output is a process's stdout or stderr. What is written waits, bounded, for a
// stream; once the process has ended and all is out, the stream ends.
type output struct {
	t    *streams
	p    *pipe
	turn chan struct{} // held by the goroutine that carries; guards rest
	rest []byte        // that a stream broke at

	mu     sync.Mutex // guards the following
	stream *wire.Stream
}

func newOutput(t *streams) *output { return &output{t: t, p: newPipe(), turn: make(chan struct{}, 1)} }

// writer is what the process writes to; without a token it is /dev/null.
func (o *output) writer(token string) io.Writer {
	if token == "" {
		return io.Discard
	}
	return pipeWriter{o.p}
}

func (o *output) exited() { o.p.end() }

func (o *output) waits() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.stream == nil
}

func (o *output) attach(s *wire.Stream) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.stream != nil {
		_ = o.stream.Close() // the newest holds
	}
	o.stream = s
	ctx, cancel := context.WithCancel(context.Background()) // ended by the stream's end
	o.t.work.Go(func() {                                    // the host says nothing here: an answer is its hanging up
		defer cancel()
		_, err := io.Copy(io.Discard, onlyReader{s})
		switch {
		case err == nil:
			_, _ = io.Copy(io.Discard, s.Conn())
		case wire.Aborted(err): // nobody will read on
			o.p.hangUp()
		}
	})
	o.t.work.Go(func() {
		defer s.Close()
		o.turn <- struct{}{}
		err := o.carry(ctx, s)
		<-o.turn
		if err != nil || s.CloseWrite() == nil {
			<-ctx.Done() // the host closes first: what is on its way is its own
		}
	})
}

// carry sends until the output's end (nil), or that of s or ctx.
func (o *output) carry(ctx context.Context, s *wire.Stream) error {
	buf := make([]byte, 32<<10)
	for {
		if len(o.rest) == 0 {
			n, err := o.p.read(buf, ctx.Done())
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			o.rest = append([]byte(nil), buf[:n]...)
		}
		n, err := s.Write(o.rest)
		o.rest = o.rest[n:]
		if err != nil {
			return err
		}
	}
}

// pipeWriter is the writing end of a pipe.
type pipeWriter struct{ p *pipe }

func (w pipeWriter) Write(b []byte) (int, error) { return w.p.write(b, nil) }

// onlyReader keeps io.Copy to Read.
type onlyReader struct{ io.Reader }
