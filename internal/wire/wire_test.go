package wire

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

const protocol = "test"

func greeting() Hello { return Hello{Protocol: protocol, Version: 1} }

// pair answers two ends of a unix socket.
func pair(t testing.TB) (near, far net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
		t.Cleanup(func() { ends[i].Close() })
	}
	return ends[0], ends[1]
}

// noneLeft fails the test if a goroutine of this package is there at its end.
func noneLeft(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		buf := make([]byte, 1<<20)
		var left []string
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); <-time.After(time.Millisecond) {
			left = nil
			for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
				if strings.Contains(g, "internal/wire.(*") && !strings.Contains(g, "testing.tRunner") {
					left = append(left, g)
				}
			}
			if left == nil {
				return
			}
		}
		t.Errorf("goroutines are left:\n%s", strings.Join(left, "\n\n"))
	})
}

// serving answers a client of s, which ends with the test.
func serving(t *testing.T, s *Server, notices func(Notice)) *Client {
	t.Helper()
	noneLeft(t)
	near, far := pair(t)
	s.Protocol, s.Version = protocol, 1
	ended := make(chan error, 1)
	go func() { ended <- s.ServeConn(context.Background(), far) }()
	c, err := NewClient(t.Context(), near, greeting(), notices)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		if err := <-ended; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	return c
}

func echo() Method {
	return Handle(func(_ context.Context, s string) (string, error) { return s, nil })
}

func hang(begun chan<- struct{}, cause chan<- error) Method {
	return func(ctx context.Context, _ json.RawMessage) (any, error) {
		begun <- struct{}{}
		<-ctx.Done()
		cause <- context.Cause(ctx)
		return nil, context.Cause(ctx)
	}
}

func TestManyCallsAtOnceGetTheirOwnAnswers(t *testing.T) {
	c := serving(t, &Server{Methods: map[string]Method{"echo": echo()}}, nil)
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			for j := range 20 {
				want := fmt.Sprint(i, "/", j)
				var got string
				if err := c.Call(t.Context(), "echo", want, &got); err != nil || got != want {
					t.Errorf("got %q, %v; want %q", got, err, want)
				}
			}
		})
	}
	wg.Wait()
}

func TestCancelReachesTheServer(t *testing.T) {
	begun, cause := make(chan struct{}, 1), make(chan error, 1)
	c := serving(t, &Server{Methods: map[string]Method{"hang": hang(begun, cause), "echo": echo()}}, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("changed my mind")
	go func() { <-begun; cancel(why) }()
	if err := c.Call(ctx, "hang", nil, nil); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	if err := <-cause; !errors.Is(err, context.Canceled) {
		t.Errorf("the server saw %v", err)
	}
	if err := c.Call(ctx, "echo", "", nil); !errors.Is(err, why) {
		t.Errorf("a call by somebody who is gone: %v", err)
	}
	if err := c.Call(t.Context(), "echo", "", nil); err != nil {
		t.Errorf("the next call: %v", err)
	}
}

func TestErrorsKeepClassAndHint(t *testing.T) {
	fail := func(context.Context, json.RawMessage) (any, error) {
		return nil, fmt.Errorf("look: %w", errs.WithHint(errs.New(errs.NotFound, "no %s", "web"), "try harder"))
	}
	odd := func(context.Context, json.RawMessage) (any, error) { return make(chan int), nil }
	c := serving(t, &Server{Methods: map[string]Method{"fail": fail, "echo": echo(), "odd": odd}}, nil)
	err := c.Call(t.Context(), "fail", nil, nil)
	if errs.ClassOf(err) != errs.NotFound || errs.HintOf(err) != "try harder" || err.Error() != "look: no web" {
		t.Errorf("got %v (%s, %q)", err, errs.ClassOf(err), errs.HintOf(err))
	}
	var n int
	for _, x := range []struct {
		method         string
		params, result any
		want           errs.Class
	}{
		{"none", nil, nil, errs.Unsupported},
		{"echo", 7, nil, errs.InvalidArgument},
		{"echo", "x", &n, errs.DataLoss},
		{"echo", make(chan int), nil, errs.Internal},
		{"odd", nil, nil, errs.Internal},
	} {
		if err := c.Call(t.Context(), x.method, x.params, x.result); !errs.Is(err, x.want) {
			t.Errorf("%s(%v): got %v (%s), want %s", x.method, x.params, err, errs.ClassOf(err), x.want)
		}
	}
}

func TestMessagesOverTheLimitAreRefusedAndNothingElseBreaks(t *testing.T) {
	grow := Handle(func(_ context.Context, n int) (string, error) { return strings.Repeat("x", n), nil })
	long := func(context.Context, json.RawMessage) (any, error) { // each byte takes six as JSON
		return nil, errs.WithHint(errors.New(strings.Repeat("\x01", 1<<20)), "%s", strings.Repeat("\x01", 1<<20))
	}
	c := serving(t, &Server{Methods: map[string]Method{"echo": echo(), "grow": grow, "long": long}}, nil)
	if err := c.Call(t.Context(), "echo", strings.Repeat("x", MaxMessage), nil); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("a large call: %v (%s)", err, errs.ClassOf(err))
	}
	if err := c.Call(t.Context(), "grow", MaxMessage, nil); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("a large answer: %v (%s)", err, errs.ClassOf(err))
	}
	if err := c.Call(t.Context(), "long", nil, nil); err == nil || len(err.Error()) < 1000 {
		t.Errorf("a long error: %.100v", err)
	}
	var got string
	if err := c.Call(t.Context(), "grow", MaxMessage-1000, &got); err != nil || len(got) != MaxMessage-1000 {
		t.Errorf("one that just fits: %d bytes, %v", len(got), err)
	}
}

func TestOneConnectionHasAtMost256CallsUnderWay(t *testing.T) {
	begun, cause := make(chan struct{}, maxCalls), make(chan error, maxCalls)
	c := serving(t, &Server{Methods: map[string]Method{"hang": hang(begun, cause), "echo": echo()}}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range maxCalls {
		wg.Go(func() { _ = c.Call(ctx, "hang", nil, nil) })
	}
	for range maxCalls {
		<-begun
	}
	if err := c.Call(t.Context(), "echo", "", nil); !errs.Is(err, errs.ResourceExhausted) {
		t.Errorf("got %v", err)
	}
	cancel()
	wg.Wait()
	for range maxCalls {
		<-cause
	}
	// A call's place is free before its answer is out: one that follows an
	// answer is never one too many.
	for err := errors.New(""); err != nil; {
		if err = c.Call(t.Context(), "echo", "", nil); err != nil && !errs.Is(err, errs.ResourceExhausted) {
			t.Fatal(err)
		}
	}
}

// A peer may leave before it has read all replies: that is an end like another.
func TestPeerThatLeavesRepliesUnread(t *testing.T) {
	noneLeft(t)
	near, far := pair(t)
	s := &Server{Protocol: protocol, Version: 1, Methods: map[string]Method{"echo": echo()}}
	ended := make(chan error, 1)
	go func() { ended <- s.ServeConn(context.Background(), far) }()
	f := newFramer(near)
	if _, err := f.dial(Hello{Protocol: protocol, Version: 1, Purpose: Control}); err != nil {
		t.Fatal(err)
	}
	if err := f.writeJSON(kindRequest, request{ID: 1, Method: "echo", Params: json.RawMessage(`"x"`)}); err != nil {
		t.Fatal(err)
	}
	raw, err := near.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Read(func(fd uintptr) bool { // the reply is there, and stays there
		_, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK)
		return !errors.Is(err, syscall.EAGAIN)
	}); err != nil {
		t.Fatal(err)
	}
	if err := near.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the server ended with %v", err)
	}
}

// A peer that asks and never listens costs a bounded number of goroutines, and
// does not outlive the server's end.
func TestPeerThatNeverReadsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		begun := 0
		var mu sync.Mutex // guards begun
		m := func(context.Context, json.RawMessage) (any, error) {
			mu.Lock()
			defer mu.Unlock()
			begun++
			return nil, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		s := &Server{Protocol: protocol, Version: 1, Methods: map[string]Method{"m": m}}
		var running sync.WaitGroup
		running.Go(func() { _ = s.ServeConn(ctx, far) })
		f := newFramer(near)
		if _, err := f.dial(Hello{Protocol: protocol, Version: 1, Purpose: Control}); err != nil {
			t.Fatal(err)
		}
		running.Go(func() {
			for i := uint64(0); f.writeJSON(kindRequest, request{ID: i, Method: "m"}) == nil; i++ {
			}
		})
		synctest.Wait()
		mu.Lock()
		if begun < maxCalls || begun > 2*maxCalls {
			t.Errorf("%d calls were begun for a peer that reads nothing", begun)
		}
		mu.Unlock()
		cancel()
		running.Wait()
	})
}

// A call to a peer that greeted and then stands still ends with its context,
// however full the connection is.
func TestCallToAPeerThatStandsStillEndsWithItsContext(t *testing.T) {
	noneLeft(t)
	near, far := net.Pipe() // without a buffer: the write itself blocks
	go func() {
		f := newFramer(far)
		var h Hello
		_ = f.expect(kindHello, &h)
		_ = f.writeJSON(kindWelcome, Welcome{Version: 1})
	}()
	c, err := NewClient(t.Context(), near, greeting(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	defer c.Close()
	why := errors.New("enough")
	var wg sync.WaitGroup
	for range 3 { // one writes, others wait for their turn
		ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, why)
		defer cancel()
		wg.Go(func() {
			if err := c.Call(ctx, "x", nil, nil); !errors.Is(err, why) {
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait()
	if err := c.Err(); err != nil {
		t.Errorf("nothing was sent, yet the connection ended: %v", err)
	}
}

// half lets a few bytes of the first write after the greeting out, and then
// blocks until the deadline.
type half struct {
	net.Conn
	writes int
}

func (h *half) Write(b []byte) (int, error) {
	if h.writes++; h.writes == 2 {
		n, err := h.Conn.Write(b[:6])
		if err != nil {
			return n, err
		}
		m, err := h.Conn.Write(b[6:])
		return n + m, err
	}
	return h.Conn.Write(b)
}

func TestHalfAFrameEndsTheConnection(t *testing.T) {
	noneLeft(t)
	near, far := net.Pipe()
	got, ended := make(chan error, 1), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		f := newFramer(far)
		var h Hello
		_ = f.expect(kindHello, &h)
		_ = f.writeJSON(kindWelcome, Welcome{Version: 1})
		_, _ = far.Read(make([]byte, 6))
		cancel()
		<-ended
		_, err := far.Read(make([]byte, 1))
		got <- err
	}()
	c, err := NewClient(t.Context(), &half{Conn: near}, greeting(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Call(ctx, "x", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	<-c.Done()
	close(ended)
	if err := <-got; err == nil {
		t.Error("more came after half a frame")
	}
	if err := c.Call(t.Context(), "x", nil, nil); !errs.Is(err, errs.Unavailable) {
		t.Errorf("the next call: %v", err)
	}
}

func TestNoticesComeInOrder(t *testing.T) {
	const n = 1000
	got := make(chan string, n)
	s := &Server{Greet: func(_ context.Context, notify func(string, any) error) {
		for i := range n {
			if err := notify("n", i); err != nil {
				t.Error(err)
			}
		}
	}}
	serving(t, s, func(x Notice) { got <- x.Topic + string(x.Body) })
	for i := range n {
		if x := <-got; x != fmt.Sprint("n", i) {
			t.Fatalf("notice %d is %s", i, x)
		}
	}
}

func TestGreeting(t *testing.T) {
	open := func(string, *Stream) error { return nil }
	for _, x := range []struct {
		name   string
		hello  Hello
		server Server
		want   errs.Class
		text   string
	}{
		{"version", Hello{protocol, 2, Control, ""}, Server{}, errs.Unsupported, "version 1 of test, the peer 2"},
		{"protocol", Hello{"other", 1, Control, ""}, Server{}, errs.Unsupported, `this is test, not "other"`},
		{"long protocol", Hello{strings.Repeat("\x01", 600), 1, Control, ""}, Server{}, errs.Unsupported, "this is test"},
		{"purpose", Hello{protocol, 1, "tea", ""}, Server{}, errs.InvalidArgument, `"tea"`},
		{"no streams", Hello{protocol, 1, Bytes, "t"}, Server{}, errs.InvalidArgument, `"bytes"`},
		{"no token", Hello{protocol, 1, Bytes, ""}, Server{Open: open}, errs.InvalidArgument, `"bytes"`},
	} {
		t.Run(x.name, func(t *testing.T) {
			near, far := pair(t)
			x.server.Protocol, x.server.Version = protocol, 1
			ended := make(chan error, 1)
			go func() { ended <- x.server.ServeConn(t.Context(), far) }()
			_, err := newFramer(near).dial(x.hello)
			if !errs.Is(err, x.want) || !strings.Contains(err.Error(), x.text) {
				t.Errorf("got %v (%s)", err, errs.ClassOf(err))
			}
			if err := <-ended; !errs.Is(err, x.want) {
				t.Errorf("the server: %v", err)
			}
		})
	}
}

func TestPeerOfAnotherVersionThatWelcomesIsRefused(t *testing.T) {
	near, far := net.Pipe()
	go func() {
		f := newFramer(far)
		var h Hello
		_ = f.expect(kindHello, &h)
		_ = f.writeJSON(kindWelcome, Welcome{Version: 2})
	}()
	if _, err := NewClient(t.Context(), near, greeting(), nil); !errs.Is(err, errs.Unsupported) {
		t.Errorf("got %v", err)
	}
	if _, err := far.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is still open")
	}
}

func TestSilentPeerIsLeftWhenTheContextEnds(t *testing.T) {
	why := errors.New("enough")
	for name, dial := range map[string]func(context.Context, net.Conn) error{
		"client": func(ctx context.Context, c net.Conn) error { _, err := NewClient(ctx, c, greeting(), nil); return err },
		"stream": func(ctx context.Context, c net.Conn) error { _, err := DialStream(ctx, c, greeting(), "t"); return err },
		"server": func(ctx context.Context, c net.Conn) error { return (&Server{}).ServeConn(ctx, c) },
	} {
		t.Run(name, func(t *testing.T) {
			near, far := pair(t)
			ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, why)
			defer cancel()
			if err := dial(ctx, near); !errors.Is(err, why) {
				t.Errorf("got %v", err)
			}
			rest := new(bytes.Buffer) // the hello, and then the end
			if _, err := rest.ReadFrom(far); err != nil {
				t.Errorf("the connection was not closed: %v", err)
			}
		})
	}
}

func TestCallsUnderWayStillAnswerWhenTheServerEnds(t *testing.T) {
	noneLeft(t)
	near, far := pair(t)
	begun := make(chan struct{})
	m := func(ctx context.Context, _ json.RawMessage) (any, error) {
		close(begun)
		<-ctx.Done()
		return "last words", nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	s := &Server{Protocol: protocol, Version: 1, Methods: map[string]Method{"m": m}}
	go func() { ended <- s.ServeConn(ctx, far) }()
	c, err := NewClient(t.Context(), near, greeting(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() { <-begun; cancel() }()
	var got string
	if err := c.Call(t.Context(), "m", nil, &got); err != nil || got != "last words" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the server: %v", err)
	}
	<-c.Done()
	if !errs.Is(c.Err(), errs.Unavailable) {
		t.Errorf("the client: %v", c.Err())
	}
}

func TestEndOfTheConnectionFailsWhoWaits(t *testing.T) {
	begun, cause := make(chan struct{}, 1), make(chan error, 1)
	for name, end := range map[string]struct {
		do   func(c *Client, far net.Conn)
		want errs.Class
	}{
		"closed here":  {func(c *Client, _ net.Conn) { c.Close() }, errs.Canceled},
		"closed there": {func(_ *Client, far net.Conn) { far.Close() }, errs.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			noneLeft(t)
			near, far := pair(t)
			s := &Server{Protocol: protocol, Version: 1, Methods: map[string]Method{"hang": hang(begun, cause)}}
			ended := make(chan struct{})
			go func() { defer close(ended); _ = s.ServeConn(t.Context(), far) }()
			c, err := NewClient(t.Context(), near, greeting(), nil)
			if err != nil {
				t.Fatal(err)
			}
			go func() { <-begun; end.do(c, far) }()
			if err := c.Call(t.Context(), "hang", nil, nil); !errs.Is(err, end.want) {
				t.Errorf("got %v", err)
			}
			<-cause // the call's context ended with the connection
			<-ended
			c.Close()
		})
	}
}
