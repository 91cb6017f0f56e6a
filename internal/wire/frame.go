// Package wire is the framing under vzcompose's own protocols (agentproto,
// internal/shimproto): frames on a byte stream, calls and notifications on top,
// and one-way or two-way byte streams with an end of their own.
//
// A frame is a 4-byte big-endian word, the kind in its top byte and the length
// of the payload in the lower three, then the payload. Bulk never shares a
// connection with calls: a stream has a connection of its own, so that the
// transport's flow control is the stream's. The end of a stream is a frame,
// since not every transport can close one direction.
//
// The peer is hostile: lengths are claims, and each kind has a limit.
package wire

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Kind says what a frame is.
type Kind byte

// The kinds of frames.
const (
	kindHello    Kind = 1 // first frame of the dialling side: JSON Hello
	kindWelcome  Kind = 2 // its answer: JSON Welcome
	kindRequest  Kind = 3 // JSON request
	kindResponse Kind = 4 // JSON response
	kindCancel   Kind = 5 // JSON cancel: the caller no longer waits
	kindNotice   Kind = 6 // JSON notice, unasked
	kindData     Kind = 7 // bytes of a stream
	kindEOF      Kind = 8 // no more bytes in this direction; empty
	kindAbort    Kind = 9 // the stream broke: JSON errs.Wire
)

// Limits of payloads, in bytes.
const (
	MaxMessage = 1 << 20   // calls, answers, notices
	MaxHello   = 4 << 10   // hello, welcome
	MaxData    = 256 << 10 // one frame of a stream
)

func (k Kind) limit() int {
	switch k {
	case kindHello, kindWelcome:
		return MaxHello
	case kindRequest, kindResponse, kindCancel, kindNotice, kindAbort:
		return MaxMessage
	case kindData:
		return MaxData
	default: // kindEOF and what we do not know
		return 0
	}
}

func (k Kind) known() bool { return k >= kindHello && k <= kindAbort }

const headerLen = 4

func putHeader(b []byte, k Kind, n int) {
	binary.BigEndian.PutUint32(b, uint32(k)<<24|uint32(n))
}

// readHeader reads the head of the next frame and checks it against k's limit.
// A connection that ends between frames is io.EOF, within one
// io.ErrUnexpectedEOF.
func readHeader(r *bufio.Reader) (Kind, int, error) {
	h, err := r.Peek(headerLen) // no array of our own: it would be allocated a frame
	if err != nil {
		if len(h) > 0 {
			err = unexpected(err)
		}
		return 0, 0, err
	}
	w := binary.BigEndian.Uint32(h)
	_, _ = r.Discard(headerLen) // they are there
	k, n := Kind(w>>24), int(w&0xffffff)
	if !k.known() || n > k.limit() {
		return 0, 0, errs.New(errs.DataLoss, "frame of kind %d with %d bytes", k, n)
	}
	return k, n, nil
}

// framer is one connection as frames. Reading belongs to one goroutine; writing
// is for many.
type framer struct {
	c net.Conn
	r *bufio.Reader

	turn chan struct{} // held by who writes a frame, guards buf and torn
	buf  []byte
	torn error // a frame was left unfinished: nothing may follow it
}

func newFramer(c net.Conn) *framer {
	return &framer{c: c, r: bufio.NewReaderSize(c, 4<<10), turn: make(chan struct{}, 1)}
}

func (f *framer) readFrame() (Kind, []byte, error) {
	k, n, err := readHeader(f.r)
	if err != nil {
		return 0, nil, err
	}
	p := make([]byte, n)
	if _, err := io.ReadFull(f.r, p); err != nil {
		return 0, nil, unexpected(err)
	}
	return k, p, nil
}

func (f *framer) writeJSON(k Kind, v any) error {
	return f.writeJSONContext(context.Background(), k, v)
}

// writeJSONContext gives up when ctx ends, with its cause. A message that cannot
// be sent is errs.InvalidArgument or errs.Internal. Where a frame was left
// unfinished the connection is closed.
func (f *framer) writeJSONContext(ctx context.Context, k Kind, v any) error {
	p, err := json.Marshal(v)
	if err != nil {
		return errs.New(errs.Internal, "encode message: %w", err)
	}
	if len(p) > k.limit() {
		return errs.New(errs.InvalidArgument, "message of %d bytes is over the limit of %d", len(p), k.limit())
	}
	select {
	case f.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-f.turn }()
	if f.torn != nil {
		return f.torn
	}
	f.buf = append(f.buf[:0], 0, 0, 0, 0)
	putHeader(f.buf, k, len(p))
	f.buf = append(f.buf, p...)
	n, err := f.writeUntil(ctx, f.buf)
	if err != nil && (n > 0 || ctx.Err() == nil) {
		f.torn = err
		_ = f.c.Close() // who reads it will tell the others
	}
	return err
}

// writeUntil writes b. When ctx ends first the write is broken off.
func (f *framer) writeUntil(ctx context.Context, b []byte) (int, error) {
	if ctx.Done() == nil {
		return f.c.Write(b)
	}
	broken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = f.c.SetWriteDeadline(time.Unix(1, 0))
		close(broken)
	})
	n, err := f.c.Write(b)
	if !stop() {
		<-broken
		_ = f.c.SetWriteDeadline(time.Time{})
		if n < len(b) {
			err = context.Cause(ctx)
		}
	}
	return n, err
}

// expect reads one JSON frame of kind k.
func (f *framer) expect(k Kind, v any) error {
	got, p, err := f.readFrame()
	if err != nil {
		return err
	}
	if got != k {
		return errs.New(errs.DataLoss, "frame of kind %d where %d was due", got, k)
	}
	if err := json.Unmarshal(p, v); err != nil {
		return errs.New(errs.DataLoss, "decode message: %w", err)
	}
	return nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Purpose says what a connection is for.
type Purpose string

// The purposes of a connection.
const (
	Control Purpose = "control" // calls and notices
	Bytes   Purpose = "bytes"   // one stream, named by a token
)

// Hello opens a connection.
type Hello struct {
	Protocol string  `json:"protocol"` // "vzcompose-agent"
	Version  int     `json:"version"`  // of the dialling side
	Purpose  Purpose `json:"purpose"`
	Token    string  `json:"token,omitempty"` // which stream, for Bytes
}

// Welcome answers a Hello.
type Welcome struct {
	Version int    `json:"version"`         // of the listening side
	Build   string `json:"build,omitempty"` // its build, for people
	// Clock is what a clock of the listening side showed when it wrote this, where
	// it has one that counts; the dialling side may know what time that was.
	Clock time.Duration `json:"clock,omitempty"`
	Error *errs.Wire    `json:"error,omitempty"` // set: the connection ends here
}

// dial sends the hello and checks the answer. The caller bounds it by c's
// deadline.
func (f *framer) dial(h Hello) (Welcome, error) {
	if err := f.writeJSON(kindHello, h); err != nil {
		return Welcome{}, fmt.Errorf("say hello: %w", err)
	}
	var w Welcome
	if err := f.expect(kindWelcome, &w); err != nil {
		return Welcome{}, fmt.Errorf("await welcome: %w", unexpected(err))
	}
	if w.Error != nil {
		return w, w.Error.Err()
	}
	if w.Version != h.Version {
		return w, errs.New(errs.Unsupported, "the peer speaks version %d of %s, this program %d", w.Version, h.Protocol, h.Version)
	}
	return w, nil
}
