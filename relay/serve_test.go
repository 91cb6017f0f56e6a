package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// echo serves an echo on a listener of its own and answers its dial.
func echo(t *testing.T) func(context.Context) (net.Conn, error) {
	t.Helper()
	l := listen(t)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				// Without splice(2), whose pooled pipes would count as left behind.
				io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
			})
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", l.Addr().String())
	}
}

func serve(ctx context.Context, l net.Listener, dial func(context.Context) (net.Conn, error), o Options) chan error {
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, dial, o) }()
	return ended
}

// talk sends a line through addr and reads it back.
func talk(addr, text string) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if err == nil && string(got) != text {
		err = fmt.Errorf("got %q", got)
	}
	return err
}

func TestAThousandConnectionsLeaveNothing(t *testing.T) {
	goroutines, fds := runtime.NumGoroutine(), openFDs(t)
	t.Run("serve", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		l := listen(t)
		ended := serve(ctx, l, echo(t), Options{MaxConns: 100})
		var clients sync.WaitGroup
		for w := range 20 {
			clients.Go(func() {
				for i := range 50 {
					if err := talk(l.Addr().String(), fmt.Sprint("hello ", w, i)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		clients.Wait()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	// Serve has waited; the runtime may still be putting goroutines away.
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		if runtime.NumGoroutine() <= goroutines && openFDs(t) <= fds {
			return
		}
		runtime.Gosched()
	}
	stacks := make([]byte, 64<<10)
	stacks = stacks[:runtime.Stack(stacks, true)]
	t.Errorf("goroutines %d → %d, descriptors %d → %d\n%s", goroutines, runtime.NumGoroutine(), fds, openFDs(t), stacks)
}

func TestServeOutlivesFailedDials(t *testing.T) {
	l := listen(t)
	good := echo(t)
	var dials atomic.Int32
	failures := make(chan error, 10)
	serve(t.Context(), l, func(ctx context.Context) (net.Conn, error) {
		if dials.Add(1) <= 2 {
			return nil, syscall.ECONNREFUSED
		}
		return good(ctx)
	}, Options{OnError: func(err error) { failures <- err }})
	for range 2 {
		// The reset may come as early as connect(2).
		c, err := net.Dial("tcp", l.Addr().String())
		if err == nil {
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a failed dial must look like a reset, got %v", err)
		}
		if err := <-failures; !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("got %v", err)
		}
	}
	if err := talk(l.Addr().String(), "third time"); err != nil {
		t.Error(err)
	}
}

func TestTheEndOfServeEndsDialsAndConnections(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	l := listen(t)
	good := echo(t)
	var dials atomic.Int32
	dialling := make(chan struct{})
	ended := serve(ctx, l, func(ctx context.Context) (net.Conn, error) {
		if dials.Add(1) == 1 {
			return good(ctx)
		}
		close(dialling)
		<-ctx.Done() // a peer that never answers
		return nil, ctx.Err()
	}, Options{OnError: func(err error) { t.Error("the end is not an error of a connection:", err) }})

	open, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	open.Write([]byte("x"))
	if _, err := io.ReadFull(open, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	waiting, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	<-dialling
	cancel()
	<-ended
	for _, c := range []net.Conn{open, waiting} {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("a connection outlived Serve")
		}
	}
}

// scripted is a listener that answers Accept from a list, then blocks.
type scripted struct {
	answers chan any // error or net.Conn
	closed  chan struct{}
	once    sync.Once
}

func (s *scripted) Accept() (net.Conn, error) {
	select {
	case a := <-s.answers:
		if err, ok := a.(error); ok {
			return nil, &net.OpError{Op: "accept", Err: err}
		}
		return a.(net.Conn), nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}
func (s *scripted) Close() error   { s.once.Do(func() { close(s.closed) }); return nil }
func (s *scripted) Addr() net.Addr { return &net.UnixAddr{Name: "script", Net: "unix"} }

func script(answers ...any) *scripted {
	s := &scripted{answers: make(chan any, len(answers)), closed: make(chan struct{})}
	for _, a := range answers {
		s.answers <- a
	}
	return s
}

func TestWantOfDescriptorsIsWaitedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		l := script(syscall.EMFILE, syscall.ENFILE, syscall.EMFILE, far)
		begin := time.Now()
		var told atomic.Int32
		dialled := make(chan time.Duration, 1)
		ctx, cancel := context.WithCancel(t.Context())
		ended := serve(ctx, l, func(context.Context) (net.Conn, error) {
			dialled <- time.Since(begin)
			return nil, errors.New("enough")
		}, Options{MaxConns: 1, OnError: func(error) { told.Add(1) }})
		if d := <-dialled; d != 5*time.Millisecond+10*time.Millisecond+20*time.Millisecond {
			t.Errorf("waited %v", d)
		}
		synctest.Wait()
		if told.Load() != 2 { // the lack, and the dial
			t.Errorf("told of %d errors", told.Load())
		}
		near.Close()
		cancel()
		<-ended
	})
}

func TestABrokenListenerEndsServe(t *testing.T) {
	for _, want := range []error{net.ErrClosed, syscall.EBADF} {
		if err := Serve(t.Context(), script(want), nil, Options{}); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
}

func TestADialHasALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer near.Close()
		ctx, cancel := context.WithCancel(t.Context())
		failures := make(chan error, 1)
		ended := serve(ctx, script(far), func(ctx context.Context) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, Options{OnError: func(err error) { failures <- err }})
		begin := time.Now()
		if err := <-failures; !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != defaultDialTimeout {
			t.Errorf("got %v after %v", err, time.Since(begin))
		}
		cancel()
		<-ended
	})
}

func TestServesShareALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := make(chan struct{}, 1)
		ctx, cancel := context.WithCancel(t.Context())
		var dials atomic.Int32
		dial := func(context.Context) (net.Conn, error) {
			dials.Add(1)
			c, _ := net.Pipe()
			return c, nil
		}
		var near [2]net.Conn
		var ended [2]chan error
		for i := range near {
			var far net.Conn
			near[i], far = net.Pipe()
			ended[i] = serve(ctx, script(far), dial, Options{Shared: shared})
		}
		synctest.Wait()
		if dials.Load() != 1 {
			t.Fatalf("%d dials with one place for both", dials.Load())
		}
		near[0].Close()
		near[1].Close()
		synctest.Wait()
		if dials.Load() != 2 || len(shared) != 0 {
			t.Errorf("%d dials, %d places taken when all have ended", dials.Load(), len(shared))
		}
		cancel()
		<-ended[0]
		<-ended[1]
	})
}

func TestMaxConnsHoldsBackTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, oneFar := net.Pipe()
		two, twoFar := net.Pipe()
		var dials atomic.Int32
		ctx, cancel := context.WithCancel(t.Context())
		ended := serve(ctx, script(oneFar, twoFar), func(context.Context) (net.Conn, error) {
			dials.Add(1)
			c, _ := net.Pipe()
			return c, nil
		}, Options{MaxConns: 1})
		synctest.Wait()
		if dials.Load() != 1 {
			t.Fatalf("%d dials with one slot", dials.Load())
		}
		one.Close()
		synctest.Wait()
		if dials.Load() != 2 {
			t.Fatalf("%d dials after the slot was free", dials.Load())
		}
		two.Close()
		cancel()
		<-ended
	})
}
