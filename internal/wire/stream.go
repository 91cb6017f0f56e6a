package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Stream is a byte stream with an end: each direction ends with a frame
// (CloseWrite), breaks with another (Abort), or is cut off, which the reader
// sees as io.ErrUnexpectedEOF. Reading belongs to one goroutine, writing to
// another.
type Stream struct {
	f    *framer
	left int // bytes of the present data frame not yet read
	rerr error

	mu     sync.Mutex // guards the following
	werr   error      // set once nothing more can be written
	ended  bool       // by us
	header [headerLen]byte
	parts  [2][]byte // of the frame under way; here so that no frame allocates
	bufs   net.Buffers
}

func errEnded() error {
	return errs.New(errs.FailedPrecondition, "write after the end of the stream")
}

func newStream(f *framer) *Stream { return &Stream{f: f} }

// DialStream opens the stream called token on c, which it owns from here on,
// also on error. ctx bounds the greeting.
func DialStream(ctx context.Context, c net.Conn, h Hello, token string) (*Stream, error) {
	h.Purpose, h.Token = Bytes, token
	f := newFramer(c)
	stop := closeOnDone(ctx, c)
	_, err := f.dial(h)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = c.Close() // the greeting's error is the one to tell
		return nil, fmt.Errorf("open stream: %w", err)
	}
	return newStream(f), nil
}

// Read answers the peer's bytes; io.EOF after its CloseWrite, the peer's error
// after its Abort, io.ErrUnexpectedEOF where the connection ended without
// either.
func (s *Stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, s.rerr
	}
	for s.left == 0 {
		if s.rerr != nil {
			return 0, s.rerr
		}
		s.rerr = s.nextFrame()
	}
	n, err := s.f.r.Read(p[:min(len(p), s.left)])
	s.left -= n
	if err != nil {
		s.rerr, s.left = unexpected(err), 0
		if n == 0 {
			return 0, s.rerr
		}
	}
	return n, nil
}

// nextFrame reads a header; the answered error ends the stream.
func (s *Stream) nextFrame() error {
	k, n, err := readHeader(s.f.r)
	if err != nil {
		return unexpected(err)
	}
	switch k {
	case kindData:
		s.left = n
		return nil
	case kindEOF:
		return io.EOF
	case kindAbort:
		p := make([]byte, n)
		if _, err := io.ReadFull(s.f.r, p); err != nil {
			return unexpected(err)
		}
		var w errs.Wire
		if err := json.Unmarshal(p, &w); err != nil {
			return errs.New(errs.DataLoss, "decode abort: %w", err)
		}
		return &aborted{w.Err()}
	}
	return errs.New(errs.DataLoss, "unexpected frame of kind %d in a stream", k)
}

// aborted is what the peer said with its Abort.
type aborted struct{ error }

func (a *aborted) Unwrap() error { return a.error }

// Aborted reports whether err is a Read's of a stream that the peer aborted,
// rather than of one whose connection ended.
func Aborted(err error) bool {
	var a *aborted
	return errors.As(err, &a)
}

// Write sends p, in frames of at most MaxData bytes. After an error nothing more
// can be written: the peer may have half a frame.
func (s *Stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.werr != nil {
		return 0, s.werr
	}
	done := 0
	for len(p) > 0 {
		n := min(len(p), MaxData)
		putHeader(s.header[:], kindData, n)
		// Two buffers, one writev where the connection can; never one copy.
		s.parts = [2][]byte{s.header[:], p[:n]}
		s.bufs = s.parts[:]
		sent, err := s.bufs.WriteTo(s.f.c)
		s.parts[1] = nil // it is the caller's
		done += max(0, int(sent)-headerLen)
		if err != nil {
			s.werr = err
			return done, err
		}
		p = p[n:]
	}
	return done, nil
}

// WriteFramed sends buf[Headroom:], using the first Headroom bytes of buf for
// the frame's head: one write, no copy, for transports without writev.
func (s *Stream) WriteFramed(buf []byte) error {
	n := len(buf) - headerLen
	if n < 0 || n > MaxData {
		return errs.New(errs.InvalidArgument, "frame of %d bytes", n)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.werr != nil {
		return s.werr
	}
	putHeader(buf, kindData, n)
	_, s.werr = s.f.c.Write(buf)
	return s.werr
}

// Headroom is what WriteFramed needs in front of the data, in bytes.
const Headroom = headerLen

// CloseWrite tells the peer that no more bytes follow. The other direction goes
// on. It is idempotent.
func (s *Stream) CloseWrite() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil
	}
	s.ended = true
	if s.werr != nil {
		return s.werr
	}
	s.werr = errEnded()
	putHeader(s.header[:], kindEOF, 0)
	_, err := s.f.c.Write(s.header[:])
	return err
}

// Abort tells the peer that the stream broke, and closes it. A peer that does
// not read is not waited for: it sees a cut.
func (s *Stream) Abort(cause error) error {
	_ = s.f.c.SetWriteDeadline(time.Now().Add(courtesyLimit)) // also of a Write under way
	s.mu.Lock()
	can := s.werr == nil
	if can {
		s.werr = errEnded()
	}
	s.ended = true
	s.mu.Unlock()
	var err error
	if can {
		err = s.f.writeJSON(kindAbort, errs.ToWire(cause))
	}
	return errors.Join(err, s.f.c.Close())
}

// Close closes the connection under the stream, both directions.
func (s *Stream) Close() error { return s.f.c.Close() }

// Conn is the connection under the stream. Bytes that the stream has read ahead
// are not seen there: it is for deadlines and addresses.
func (s *Stream) Conn() net.Conn { return s.f.c }

// AsConn answers s where a net.Conn is wanted. Its addresses and deadlines are
// those of the connection beneath.
func AsConn(s *Stream) net.Conn { return streamConn{s} }

type streamConn struct{ *Stream }

func (c streamConn) LocalAddr() net.Addr                { return c.Conn().LocalAddr() }
func (c streamConn) RemoteAddr() net.Addr               { return c.Conn().RemoteAddr() }
func (c streamConn) SetDeadline(t time.Time) error      { return c.Conn().SetDeadline(t) }
func (c streamConn) SetReadDeadline(t time.Time) error  { return c.Conn().SetReadDeadline(t) }
func (c streamConn) SetWriteDeadline(t time.Time) error { return c.Conn().SetWriteDeadline(t) }
