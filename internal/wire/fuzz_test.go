package wire

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// tape is a connection that plays b and swallows what is written.
type tape struct{ *bytes.Reader }

func (tape) Write(b []byte) (int, error)      { return len(b), nil }
func (tape) Close() error                     { return nil }
func (tape) LocalAddr() net.Addr              { return nil }
func (tape) RemoteAddr() net.Addr             { return nil }
func (tape) SetDeadline(time.Time) error      { return nil }
func (tape) SetReadDeadline(time.Time) error  { return nil }
func (tape) SetWriteDeadline(time.Time) error { return nil }

func frame(k Kind, v any) []byte {
	p, ok := v.([]byte)
	if !ok {
		p, _ = json.Marshal(v)
	}
	b := make([]byte, headerLen, headerLen+len(p))
	putHeader(b, k, len(p))
	return append(b, p...)
}

func seeds() [][]byte {
	hello := frame(kindHello, Hello{protocol, 1, Control, ""})
	call := frame(kindRequest, request{1, "echo", json.RawMessage(`"x"`)})
	return [][]byte{
		nil, {0}, hello[:7], hello,
		bytes.Join([][]byte{hello, call, call, frame(kindCancel, cancellation{1})}, nil),
		append(bytes.Clone(hello), frame(kindData, []byte("x"))...),
		append(frame(kindHello, Hello{protocol, 1, Bytes, "t"}), frame(kindData, []byte("abc"))...),
		append(frame(kindWelcome, Welcome{Version: 1}), frame(kindNotice, Notice{"t", json.RawMessage(`{}`)})...),
		append(frame(kindWelcome, Welcome{Version: 1}), frame(kindResponse, []byte(`{"id":1,"result":"x"}`))...),
		append(frame(kindWelcome, Welcome{Version: 1}), frame(kindResponse, []byte(`{"id":1,"error":{}}`))...),
		append(frame(kindData, []byte("abc")), frame(kindEOF, []byte{})...),
		append(frame(kindData, []byte{}), frame(kindAbort, []byte(`null`))...),
		{byte(kindRequest), 0xff, 0xff, 0xff}, {byte(kindEOF), 0, 0, 1}, {0xff, 0, 0, 0},
	}
}

// FuzzFrames feeds bytes of a peer to a server, a client and a stream: each
// ends, with an error or in order, and none panics.
func FuzzFrames(f *testing.F) {
	for _, s := range seeds() {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Second, errors.New("it did not end"))
		defer cancel()
		s := &Server{Protocol: protocol, Version: 1, Methods: map[string]Method{"echo": echo()},
			Open: func(_ string, st *Stream) error { _, _ = io.Copy(io.Discard, st); return st.Close() }}
		_ = s.ServeConn(ctx, tape{bytes.NewReader(b)})

		if c, err := NewClient(ctx, tape{bytes.NewReader(b)}, greeting(), func(Notice) {}); err == nil {
			var r any
			_ = c.Call(ctx, "echo", "x", &r)
			select {
			case <-c.Done():
			case <-ctx.Done():
			}
			_ = c.Close()
		}

		st := newStream(newFramer(tape{bytes.NewReader(b)}))
		if n, err := io.Copy(io.Discard, st); n > int64(len(b)) {
			t.Errorf("%d bytes of %d, %v", n, len(b), err)
		}
		if ctx.Err() != nil {
			t.Error(context.Cause(ctx))
		}
	})
}
