//go:build linux

package guest

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/wire"
)

// Limits of streams.
const (
	maxUnclaimed   = 256              // streams whose process has not been started
	unclaimedLimit = 30 * time.Second // how long each may wait for it
	maxToken       = 256              // bytes
	pipeSize       = 1 << 20          // bytes that wait while nobody reads
	// chunk is the bytes of one data frame. With its head it is just what the
	// kernel sends in one vsock packet (VIRTIO_VSOCK_MAX_PKT_BUF_SIZE).
	chunk       = 64<<10 - wire.Headroom
	lingerLimit = 30 * time.Second // how long the host may take to close after the end
)

// end is the agent's end of one stdio pipe.
type end interface {
	// attach carries the stream, in place of the one attached before.
	attach(s *wire.Stream)
	// exited tells that the process has ended.
	exited()
	// release tells that no stream is to come any more.
	release()
}

// processEnd is that of a process's pipe.
type processEnd interface {
	end
	// waits reports whether no stream has come yet.
	waits() bool
}

// streams brings together the host's streams and the pipes of processes, by
// token, whichever comes first.
type streams struct {
	buffers sync.Pool // *buffer: an idle stream holds none

	mu        sync.Mutex // guards the following
	ends      map[string]end
	unclaimed map[string]*unclaimed
}

type unclaimed struct {
	stream *wire.Stream
	timer  *time.Timer
}

type buffer [wire.Headroom + chunk]byte

func newStreams() *streams {
	return &streams{
		buffers:   sync.Pool{New: func() any { return new(buffer) }},
		ends:      map[string]end{},
		unclaimed: map[string]*unclaimed{},
	}
}

// open takes a stream that the host has opened.
func (t *streams) open(token string, s *wire.Stream) error {
	if len(token) > maxToken {
		return errs.New(errs.InvalidArgument, "token of %d bytes", len(token))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.ends[token]
	if _, later := e.(nowhere); e != nil && !later {
		e.attach(s)
		return nil
	}
	if old := t.unclaimed[token]; old != nil { // the newest holds: the host may have lost the other
		t.dropLocked(token, old)
	}
	if len(t.unclaimed) >= maxUnclaimed {
		return errs.New(errs.ResourceExhausted, "more than %d streams wait for their process", maxUnclaimed)
	}
	u := &unclaimed{stream: s}
	u.timer = time.AfterFunc(unclaimedLimit, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.unclaimed[token] == u {
			t.dropLocked(token, u)
		}
	})
	t.unclaimed[token] = u
	return nil
}

func (t *streams) dropLocked(token string, u *unclaimed) {
	delete(t.unclaimed, token)
	u.timer.Stop()
	// A peer that does not read must not hold the lock.
	go func() {
		_ = u.stream.Conn().SetWriteDeadline(time.Now().Add(time.Second))
		_ = u.stream.Abort(errs.New(errs.NotFound, "no process claimed the stream"))
	}()
}

// bind gives e the token, and the stream that waits under it.
func (t *streams) bind(token string, e end) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ends[token] != nil {
		return errs.New(errs.AlreadyExists, "the stream's token is taken")
	}
	t.bindLocked(token, e)
	return nil
}

// rebind gives a token that is bound another end.
func (t *streams) rebind(token string, e end) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bindLocked(token, e)
}

func (t *streams) bindLocked(token string, e end) {
	t.ends[token] = e
	if _, later := e.(nowhere); later {
		return
	}
	if u := t.unclaimed[token]; u != nil {
		delete(t.unclaimed, token)
		u.timer.Stop()
		e.attach(u.stream)
	}
}

func (t *streams) unbind(token string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.ends, token)
}

// stdio is the three streams of one process.
type stdio struct {
	streams *streams
	child   [3]*os.File // the process's ends, until started
	tokens  []string
	ends    []processEnd
	// Of a process with a terminal.
	terminal      *terminal // nil before its start
	stdin, stdout string    // tokens
}

// newStdio makes the pipes of a process; "" for a token is /dev/null. On error
// nothing is left.
func (t *streams) newStdio(stdin, stdout, stderr string) (*stdio, error) {
	s := &stdio{streams: t}
	for i, token := range []string{stdin, stdout, stderr} {
		if err := s.add(i, token); err != nil {
			s.closeChild()
			s.release()
			return nil, fmt.Errorf("stream %d: %w", i, err)
		}
	}
	return s, nil
}

func (s *stdio) add(i int, token string) error {
	if token == "" {
		f, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
		s.child[i] = f
		return err
	}
	if len(token) > maxToken {
		return errs.New(errs.InvalidArgument, "token of %d bytes", len(token))
	}
	ours, theirs, err := pipe(i == 0)
	if err != nil {
		return err
	}
	s.child[i] = theirs
	var e processEnd
	if i == 0 {
		e = newInput(ours)
	} else {
		e = newOutput(ours, &s.streams.buffers)
	}
	if err := s.streams.bind(token, e); err != nil {
		e.release()
		return err
	}
	s.tokens, s.ends = append(s.tokens, token), append(s.ends, e)
	return nil
}

// pipe makes a pipe of which our end (the writing one for input) does not
// block, and theirs does, as programs expect.
func pipe(input bool) (ours, theirs *os.File, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	us, them := p[0], p[1]
	if input {
		us, them = p[1], p[0]
	} else {
		_, _ = unix.FcntlInt(uintptr(us), unix.F_SETPIPE_SZ, pipeSize) // a smaller one does, too
	}
	theirs = os.NewFile(uintptr(them), "stdio")
	if err := unix.SetNonblock(us, true); err != nil {
		_ = unix.Close(us)
		_ = theirs.Close()
		return nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	return os.NewFile(uintptr(us), "stdio"), theirs, nil
}

// nullStdio is that of a process which gets a terminal: nothing, until adopt.
func (t *streams) nullStdio(stdin, stdout, stderr string) (*stdio, error) {
	if stderr != "" {
		return nil, errs.New(errs.InvalidArgument, "a process with a terminal has no stderr of its own")
	}
	s, err := t.newStdio("", "", "")
	if err != nil {
		return nil, err
	}
	s.stdin, s.stdout = stdin, stdout
	for _, token := range []string{stdin, stdout} {
		if token == "" {
			continue
		}
		if err := t.bind(token, nowhere{}); err != nil {
			s.closeChild()
			s.release()
			return nil, err
		}
		s.tokens = append(s.tokens, token)
	}
	return s, nil
}

// adopt connects the streams with the process's terminal.
func (s *stdio) adopt(t *terminal) {
	if t == nil {
		return
	}
	s.terminal = t
	if s.stdin != "" {
		i := newInput(t.in)
		i.eof = t.eof
		s.ends = append(s.ends, i)
		s.streams.rebind(s.stdin, i)
	} else {
		_ = t.in.Close()
	}
	if s.stdout != "" {
		o := newOutput(t.out, &s.streams.buffers)
		s.ends = append(s.ends, o)
		s.streams.rebind(s.stdout, o)
	} else {
		go t.drain()
	}
}

// nowhere holds a token until there is something to attach to it.
type nowhere struct{}

func (nowhere) attach(s *wire.Stream) {}
func (nowhere) exited()               {}
func (nowhere) release()              {}

// closeChild closes the process's ends in the agent.
func (s *stdio) closeChild() {
	for _, f := range s.child {
		if f != nil {
			_ = f.Close()
		}
	}
}

func (s *stdio) exited() {
	for _, e := range s.ends {
		e.exited()
	}
}

// retire is release of a process that has ended. It may have before the streams that
// the host has opened for it came: what they are owed waits as long as a stream
// waits for its process.
func (s *stdio) retire() {
	if slices.ContainsFunc(s.ends, processEnd.waits) {
		time.AfterFunc(unclaimedLimit, s.release)
		return
	}
	s.release()
}

// release forgets the tokens. What an attached stream is still owed it gets.
func (s *stdio) release() {
	for _, t := range s.tokens {
		s.streams.unbind(t)
	}
	for _, e := range s.ends {
		e.release()
	}
	if s.terminal != nil {
		s.terminal.close()
	}
}
