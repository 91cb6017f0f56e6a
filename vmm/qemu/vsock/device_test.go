//go:build linux

package vsock

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// limit returns a context that keeps a test from hanging.
func limit(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func dial(t testing.TB, d *Device, port uint32) net.Conn {
	t.Helper()
	c, err := d.Dial(limit(t), port)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func closeWrite(t testing.TB, c any) {
	t.Helper()
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
}

// stream sends n pseudo-random bytes and the end, in odd pieces, and answers
// their sum.
func stream(t testing.TB, w io.Writer, n int, seed uint64) [32]byte {
	random := rand.NewChaCha8([32]byte{byte(seed)})
	sum := sha256.New()
	b := make([]byte, 100<<10)
	for n > 0 {
		k := min(n, 1+int(random.Uint64()%uint64(len(b))))
		random.Read(b[:k])
		sum.Write(b[:k])
		if _, err := w.Write(b[:k]); err != nil {
			t.Error("write:", err)
			break
		}
		n -= k
	}
	closeWrite(t, w)
	return [32]byte(sum.Sum(nil))
}

func drain(t testing.TB, r io.Reader) [32]byte {
	sum := sha256.New()
	if _, err := io.CopyBuffer(sum, struct{ io.Reader }{r}, make([]byte, 50_000)); err != nil {
		t.Error("read:", err)
	}
	return [32]byte(sum.Sum(nil))
}

// exchange streams n bytes each way at once, and compares.
func exchange(t testing.TB, host, guest io.ReadWriter, n int) {
	t.Helper()
	var out, in, outGot, inGot [32]byte
	var wg sync.WaitGroup
	wg.Go(func() { out = stream(t, host, n, 1) })
	wg.Go(func() { in = stream(t, guest, n, 2) })
	wg.Go(func() { outGot = drain(t, guest) })
	wg.Go(func() { inGot = drain(t, host) })
	wg.Wait()
	if out != outGot || in != inGot {
		t.Error("what came is not what went")
	}
}

func TestStreamBothWays(t *testing.T) {
	for name, indirect := range map[string]bool{"direct": false, "indirect": true} {
		t.Run(name, func(t *testing.T) {
			d, g := boot(t, indirect)
			backlog := g.listen(7)
			host := dial(t, d, 7)
			exchange(t, host, <-backlog, 64<<20)
			if err := host.Close(); err != nil {
				t.Error(err)
			}
			if s := d.Stats(); s.ToGuest.Bytes != 64<<20 || s.FromGuest.Bytes != 64<<20 {
				t.Errorf("%+v", s)
			}
			empty(t, d)
		})
	}
}

func TestManyStreamsAtOnce(t *testing.T) {
	d, g := boot(t, true)
	backlog := g.listen(7)
	l, err := d.Listen(9)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		host := dial(t, d, 7)
		guest := <-backlog
		wg.Go(func() { exchange(t, host, guest, 1<<20); host.Close() })
		fromGuest := g.dial(uint32(1000+i), 9)
		accepted, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { exchange(t, accepted, fromGuest, 1<<20); accepted.Close() })
	}
	wg.Wait()
	empty(t, d)
}

// empty waits until the device holds nothing.
func empty(t testing.TB, d *Device) {
	t.Helper()
	await(t, func() bool {
		d.srv.Lock()
		defer d.srv.Unlock()
		return len(d.conns) == 0 && len(d.alarms) == 0 && d.granted == grants{} &&
			d.line.first == nil && d.resets.size == 0
	})
}

// await waits for a fact.
func await(t testing.TB, fact func() bool) {
	t.Helper()
	ctx := limit(t)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !fact() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("it never came true")
		}
	}
}

func TestGuestDials(t *testing.T) {
	d, g := boot(t, false)
	if c := g.dial(99, 5); c != nil {
		t.Fatal("connected to a port on which nobody listens")
	}
	l, err := d.Listen(5)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Listen(5); !errs.Is(err, errs.AlreadyExists) {
		t.Fatal(err)
	}
	guest := g.dial(100, 5)
	host, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if host.LocalAddr().String() != "2:5" || host.RemoteAddr().String() != "3:100" || l.Addr().Network() != "vsock" {
		t.Error(host.LocalAddr(), host.RemoteAddr())
	}
	exchange(t, host, guest, 1<<20)
	guest.Close() // all of it: what was sent can be read afterwards
	guest.awaitReset()
	if n, err := host.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Error(n, err)
	}
	host.Close()

	unaccepted := g.dial(101, 5)
	l.Close()
	unaccepted.awaitReset()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	empty(t, d)
}

func TestDialFails(t *testing.T) {
	d, g := plug(t, false)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if _, err := d.Dial(ctx, 7); !errs.Is(err, errs.DeadlineExceeded) {
		t.Error("no driver:", err)
	}
	waits := make(chan error, 1)
	go func() {
		_, err := d.Dial(limit(t), 7)
		waits <- err
	}()
	g.start()
	if err := <-waits; !errs.Is(err, errs.Unavailable) {
		t.Error("nobody listens:", err)
	}
	g.fe.Hangup()
	await(t, func() bool { _, err := d.Listen(1); return errs.Is(err, errs.Unavailable) })
	if _, err := d.Dial(context.Background(), 7); !errs.Is(err, errs.Unavailable) {
		t.Error("no machine:", err)
	}
}

func TestGuestDataAfterClose(t *testing.T) {
	d, g := boot(t, false)
	backlog := g.listen(7)
	host := dial(t, d, 7)
	guest := <-backlog
	if _, err := guest.Write(bytes.Repeat([]byte("x"), 100_000)); err != nil {
		t.Fatal(err)
	}
	host.Close()
	if _, err := host.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if err := host.SetDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	io.Copy(io.Discard, guest)
	guest.Close()
	empty(t, d)
}

func TestBytesSurviveTheGuestsClose(t *testing.T) {
	d, g := boot(t, false)
	backlog := g.listen(7)
	host := dial(t, d, 7)
	guest := <-backlog
	guest.Write([]byte("last words"))
	guest.Close()
	guest.awaitReset()
	if got, err := io.ReadAll(host); string(got) != "last words" || err != nil {
		t.Errorf("%q %v", got, err)
	}
	if _, err := host.Write([]byte("x")); !errs.Is(err, errs.Unavailable) {
		t.Error(err)
	}
	host.Close()
	empty(t, d)
}

func TestDeadlines(t *testing.T) {
	d, g := boot(t, false)
	g.listen(7)
	c := dial(t, d, 7)
	c.SetReadDeadline(time.Now().Add(time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	n, err := c.Write(make([]byte, 2*guestBuffer)) // nobody reads
	if !errors.Is(err, os.ErrDeadlineExceeded) || n != guestBuffer {
		t.Error(n, err)
	}
	c.SetDeadline(time.Time{})
	c.Close()
}

func TestEndFailsEverything(t *testing.T) {
	for name, end := range map[string]func(*Device, *guest){
		"hangup": func(_ *Device, g *guest) { g.fe.Hangup() },
		"close":  func(d *Device, _ *guest) { d.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			d, g := boot(t, false)
			g.listen(7)
			l, _ := d.Listen(5)
			reader, writer, timed, closed := dial(t, d, 7), dial(t, d, 7), dial(t, d, 7), dial(t, d, 7)
			timed.SetDeadline(time.Now().Add(time.Hour))
			closed.Close() // it lingers
			results := make(chan error)
			go func() { _, err := l.Accept(); results <- err }()
			go func() { _, err := reader.Read(make([]byte, 1)); results <- err }()
			go func() { _, err := timed.Read(make([]byte, 1)); results <- err }()
			go func() { _, err := writer.Write(make([]byte, 2*guestBuffer)); results <- err }()
			end(d, g)
			for range 4 {
				if err := <-results; !errs.Is(err, errs.Unavailable) {
					t.Error(err)
				}
			}
			d.Close()
			if s := d.Stats(); s.Conns != 0 || len(d.alarms) != 0 {
				t.Errorf("%+v, %d alarms", s, len(d.alarms))
			}
		})
	}
}

func TestPauseKeepsResetDrops(t *testing.T) {
	d, g := boot(t, false)
	backlog := g.listen(7)
	host := dial(t, d, 7)
	guest := <-backlog
	host.Write([]byte("before"))

	base := g.stop()
	paused := make(chan error, 1)
	go func() { _, err := host.Write([]byte(" after")); paused <- err }()
	g.resume(base)
	if err := <-paused; err != nil {
		t.Fatal("pause:", err)
	}
	closeWrite(t, host)
	if got, err := io.ReadAll(guest); string(got) != "before after" || err != nil {
		t.Fatalf("%q %v", got, err)
	}

	g.stop()
	g.start() // a new driver
	if _, err := host.Read(make([]byte, 1)); !errs.Is(err, errs.Unavailable) {
		t.Error("reset:", err)
	}
	host = dial(t, d, 7)
	exchange(t, host, <-backlog, 1<<16)
}

func TestMemoryTableSwappedWhileStreaming(t *testing.T) {
	d, g := boot(t, true)
	backlog := g.listen(7)
	host := dial(t, d, 7)
	guest := <-backlog
	done := make(chan struct{})
	go func() { defer close(done); exchange(t, host, guest, 16<<20) }()
	for i := 0; ; i++ {
		select {
		case <-done:
			t.Log("swapped", i, "times")
			return
		default:
			g.fe.Share()
		}
	}
}
