//go:build linux

package guest

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/vzcompose/vzcompose/internal/wire"
)

// input is the writing end of a process's stdin. It ends with the stream's end.
// A stream that is cut off ends nothing: another may follow it.
type input struct {
	file *os.File      // non-blocking
	eof  func() error  // says to the process that nothing follows; nil: closing file does
	turn chan struct{} // held by the goroutine that copies

	mu     sync.Mutex // guards the following
	stream *wire.Stream
	closed bool
}

func newInput(f *os.File) *input { return &input{file: f, turn: make(chan struct{}, 1)} }

func (i *input) attach(s *wire.Stream) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.stream != nil {
		_ = i.stream.Close()
	}
	i.stream = s
	go i.copyFrom(s)
}

// exited closes the pipe and the stream: nobody is there to read.
func (i *input) exited() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.closeLocked()
	if i.stream != nil {
		_ = i.stream.Close()
	}
}

func (i *input) release() { i.exited() }

func (i *input) waits() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.stream == nil
}

// closeLocked closes the pipe, which ends a write that waits.
func (i *input) closeLocked() {
	if !i.closed {
		i.closed = true
		_ = i.file.Close()
	}
}

func (i *input) isClosed() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.closed
}

func (i *input) copyFrom(s *wire.Stream) {
	i.turn <- struct{}{}
	defer func() { <-i.turn }()
	var err error
	if !i.isClosed() {
		_, err = io.CopyBuffer(onlyWriter{i.file}, onlyReader{s}, make([]byte, 32<<10))
	}
	if i.goesOn(s, err) {
		_ = s.Close()
		return // what was read has been written
	}
	if err != nil {
		// The process does not read on. The host need not know: it gets rid of
		// the rest, and the process lives.
		_, _ = io.Copy(io.Discard, s)
	}
	_ = s.Conn().SetWriteDeadline(time.Now().Add(time.Second))
	_ = s.CloseWrite() // or it is gone
	_ = s.Close()
}

// goesOn says whether another stream follows s, which ended with err, or may.
// Otherwise it closes the pipe.
func (i *input) goesOn(s *wire.Stream, err error) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.stream != s || cutOff(err) {
		return true
	}
	if i.eof != nil && err == nil {
		return i.eof() == nil
	}
	i.closeLocked()
	return false
}

// cutOff says whether a stream ended without its end or an abort: the
// connection is gone and the host may dial again.
func cutOff(err error) bool {
	var op *net.OpError
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &op) || errors.Is(err, net.ErrClosed)
}

// onlyReader and onlyWriter keep io.CopyBuffer to its buffer.
type onlyReader struct{ io.Reader }
type onlyWriter struct{ io.Writer }
