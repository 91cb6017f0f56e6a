//go:build linux

package guest

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/wire"
)

// output is the reading end of a process's stdout or stderr. It is read only
// while a stream is attached. Once the process has ended, what is in the pipe
// goes out and then the end of the stream, even where another process still
// holds the pipe.
type output struct {
	file    *os.File // non-blocking
	raw     syscall.RawConn
	buffers *sync.Pool
	turn    chan struct{} // held by the goroutine that carries; guards pending
	pending *buffer       // a chunk that a stream broke at, or nil
	size    int           // of pending, Headroom included

	mu       sync.Mutex // guards the following
	stream   *wire.Stream
	ended    bool // the process has
	released bool
	carriers int
	came     bool // a stream has
}

func newOutput(f *os.File, buffers *sync.Pool) *output {
	raw, _ := f.SyscallConn() // fails only for a nil file
	return &output{file: f, raw: raw, buffers: buffers, turn: make(chan struct{}, 1)}
}

func (o *output) attach(s *wire.Stream) {
	o.mu.Lock()
	defer o.mu.Unlock()
	old := o.stream
	o.stream, o.came = s, true
	o.carriers++
	if old != nil {
		_ = old.Close()
		o.wakeLocked()
	}
	go o.carry(s)
}

func (o *output) exited() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	o.wakeLocked()
}

func (o *output) waits() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.came
}

func (o *output) release() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.released = true
	if o.carriers == 0 {
		_ = o.file.Close()
	}
}

// wakeLocked makes a read that waits look at what has changed.
func (o *output) wakeLocked() { _ = o.file.SetReadDeadline(time.Unix(1, 0)) }

// current says whether s is attached and whether the process has ended. Before
// its end reads may wait (again).
func (o *output) current(s *wire.Stream) (attached, ended bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.stream == s && !o.ended {
		_ = o.file.SetReadDeadline(time.Time{})
	}
	return o.stream == s, o.ended
}

// detach forgets s where it is still the attached one.
func (o *output) detach(s *wire.Stream) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.stream == s {
		o.stream = nil
		o.wakeLocked()
	}
}

// carry sends the output on s until s breaks, another is attached, or the
// output has ended.
func (o *output) carry(s *wire.Stream) {
	gone := make(chan struct{})
	go func() { // the host says nothing here: an answer is its hanging up
		defer close(gone)
		if awaitHangUp(s) {
			o.abandon(s)
		}
		o.detach(s)
	}()
	o.turn <- struct{}{}
	err := o.copyTo(s)
	<-o.turn
	// The host closes first: closing may cut off what is on its way, and what it has
	// said of why it reads no more.
	_ = s.Conn().SetDeadline(time.Now().Add(lingerLimit))
	if err != nil || s.CloseWrite() == nil {
		<-gone
	}
	_ = s.Close()
	<-gone
	o.mu.Lock()
	defer o.mu.Unlock()
	o.carriers--
	if o.released && o.carriers == 0 {
		_ = o.file.Close()
	}
}

// awaitHangUp reads until the connection under s ends, and reports whether the
// host has aborted it: nobody will read the output any more.
func awaitHangUp(s *wire.Stream) (aborted bool) {
	_, err := io.Copy(io.Discard, s)
	if err == nil { // an end-of-stream frame: the connection lasts
		_, _ = io.Copy(io.Discard, s.Conn())
	}
	return wire.Aborted(err)
}

// abandon closes the pipe, unless another stream than s is attached: what writes to
// it gets EPIPE, or SIGPIPE, as it does where its reader is on the same machine.
func (o *output) abandon(s *wire.Stream) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.stream == s || o.stream == nil { // a write may have failed before the abort was read
		_ = o.file.Close()
	}
}

// copyTo copies until the output's end (nil) or s is no more (the cause). A
// chunk that s broke at is kept for the next stream: the host may see part of
// it twice, on a stream that broke, but never loses it.
func (o *output) copyTo(s *wire.Stream) error {
	defer o.giveBack()
	for {
		attached, ended := o.current(s)
		if !attached {
			return io.ErrClosedPipe
		}
		if o.size == 0 {
			err := o.fill(ended)
			switch {
			case errors.Is(err, os.ErrDeadlineExceeded):
				continue // woken up
			case err != nil: // io.EOF, or a pipe that cannot be read: the end all the same
				return nil
			}
		}
		if err := s.WriteFramed(o.pending[:o.size]); err != nil {
			o.detach(s)
			return err
		}
		o.size = 0
	}
}

// giveBack returns the buffer unless it holds a chunk.
func (o *output) giveBack() {
	if o.pending != nil && o.size == 0 {
		o.buffers.Put(o.pending)
		o.pending = nil
	}
}

// fill reads the next chunk into pending. While the process lives it waits for
// one, without holding a buffer; afterwards an empty pipe is the end.
func (o *output) fill(ended bool) error {
	var n int
	var rerr error
	try := func(fd uintptr) {
		if o.pending == nil {
			o.pending = o.buffers.Get().(*buffer)
		}
		n, rerr = readAvailable(int(fd), o.pending[wire.Headroom:])
	}
	var err error
	if ended {
		err = o.raw.Control(try) // a deadline, which has passed, does not concern it
	} else {
		err = o.raw.Read(func(fd uintptr) bool {
			if try(fd); rerr != unix.EAGAIN {
				return true
			}
			o.giveBack()
			return false
		})
	}
	switch {
	case err != nil:
		return err
	case rerr == unix.EAGAIN:
		return io.EOF
	case rerr != nil:
		return rerr
	}
	o.size = wire.Headroom + n
	return nil
}

// readAvailable reads what the non-blocking fd has, as much as fits: a writer
// wakes its reader with the first page, and a frame a page is slow. Without a
// byte it answers io.EOF, unix.EAGAIN or what went wrong.
func readAvailable(fd int, p []byte) (int, error) {
	for n := 0; ; {
		m, err := unix.Read(fd, p[n:])
		switch {
		case err == unix.EINTR:
			continue
		case m > 0:
			if n += m; n < len(p) {
				continue
			}
			return n, nil
		case n > 0: // the next read tells
			return n, nil
		case err == nil:
			return 0, io.EOF
		}
		return 0, err
	}
}
