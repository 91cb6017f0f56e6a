package mux

import (
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// counted counts the calls of a channel.
type counted struct {
	*os.File
	reads, writes *atomic.Int64
}

func (c counted) Read(b []byte) (int, error)  { c.reads.Add(1); return c.File.Read(b) }
func (c counted) Write(b []byte) (int, error) { c.writes.Add(1); return c.File.Write(b) }

// TestSteadyFlowAllocatesNothing, on either side.
func TestSteadyFlowAllocatesNothing(t *testing.T) {
	for name, channel := range channels() {
		if name == "pipe" {
			continue // its attempts are goroutines
		}
		for size, runs := range map[int]int{64: 500, 1 << 20: 10} {
			a, b := channel(t)
			p := newPair(t, a, b, Options{})
			near, far := p.stream(p.listen())
			out, in := make([]byte, size), make([]byte, size)
			asked := make(chan struct{})
			go func() {
				for range asked {
					_, _ = io.ReadFull(far, in)
					_, _ = far.Write(in[:1])
				}
			}()
			n := testing.AllocsPerRun(runs, func() {
				asked <- struct{}{}
				_, _ = near.Write(out)
				_, _ = near.Read(out[:1])
			})
			close(asked)
			if n > 0 {
				t.Errorf("%s: %v allocations for %d bytes and an answer", name, n, size)
			}
		}
	}
}

// TestCopies: besides what the channel's read and write copy, bulk is copied
// once on the way in, and on the way out once where the channel does not gather,
// else never.
func TestCopies(t *testing.T) {
	const total = 8 << 20
	for name, most := range map[string]float64{"pipe": 1, "socket": 0, "file": 1} {
		a, b := channels()[name](t)
		p := newPair(t, a, b, Options{})
		near, far := p.stream(p.listen())
		go func() {
			_, _ = near.Write(make([]byte, total))
			_ = near.CloseWrite()
		}()
		if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, far, make([]byte, 64<<10)); n != total || err != nil {
			t.Fatal(n, err)
		}
		out, in := p.host.stats, p.guest.stats
		if out.out != total || in.in != total {
			t.Errorf("%s: %d bytes out, %d in", name, out.out, in.in)
		}
		t.Logf("%s: %.3f copies out, %.3f in", name, float64(out.copiedOut)/total, float64(in.copiedIn)/total)
		if float64(out.copiedOut) > most*total || float64(in.copiedIn) > 1.1*total {
			t.Errorf("%s: %d bytes copied on the way out, %d on the way in", name, out.copiedOut, in.copiedIn)
		}
	}
}

// TestCalls: a small question and its answer are one write and at most one read
// a side, and many frames are one read.
func TestCalls(t *testing.T) {
	a, b := sockets(t)
	host := counted{a, new(atomic.Int64), new(atomic.Int64)}
	p := newPair(t, host, b, Options{})
	near, far := p.stream(p.listen())
	go func() { _, _ = io.Copy(far, far) }()
	write(t, near, []byte("x"))
	expect(t, near, "x")
	reads, writes := host.reads.Load(), host.writes.Load()
	const n = 100
	for range n {
		write(t, near, []byte("question"))
		expect(t, near, "question")
	}
	reads, writes = host.reads.Load()-reads, host.writes.Load()-writes
	if reads > n+1 || writes != n {
		t.Errorf("%d reads and %d writes for %d questions", reads, writes, n)
	}
}

// TestOneCopyToWaitingRead: a small frame goes right to the Read that waits.
func TestOneCopyToWaitingRead(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, p *pair) {
		near, far := p.stream(p.listen())
		for range 10 {
			go func() { _, _ = far.Read(make([]byte, 100)) }()
			synctest.Wait()
			write(t, near, []byte("ten bytes."))
			synctest.Wait()
		}
		p.guest.mu.Lock()
		defer p.guest.mu.Unlock()
		if st := p.guest.stats; st.in != 100 || st.copiedIn != 100 {
			t.Errorf("%d bytes copied of %d", st.copiedIn, st.in)
		}
	})
}

// waiting is a channel as a guest has it: its Read is its own.
type waiting struct{ counted }

func (c waiting) Unwrap() io.ReadWriteCloser { return c.File }

// TestWrapper: frames go to what is wrapped, without a goroutine.
func TestWrapper(t *testing.T) {
	a, b := sockets(t)
	guest := waiting{counted{b, new(atomic.Int64), new(atomic.Int64)}}
	p := newPair(t, a, guest, Options{})
	near, far := p.stream(p.listen())
	write(t, far, []byte("x"))
	expect(t, near, "x")
	if p.guest.attempt == nil || guest.reads.Load() == 0 || guest.writes.Load() != 0 {
		t.Errorf("%d reads, %d writes", guest.reads.Load(), guest.writes.Load())
	}
}

// TestBigWriterStarvesNobody: beside a writer that never stops, others have
// their turns.
func TestBigWriterStarvesNobody(t *testing.T) {
	a, b := channels()["socket"](t)
	p := newPair(t, a, b, Options{})
	l := p.listen()
	big, bigFar := p.stream(l)
	go func() { _, _ = io.Copy(io.Discard, bigFar) }()
	stop := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		b := make([]byte, 4<<20)
		for {
			select {
			case <-stop:
				return
			default:
				_, _ = big.Write(b)
			}
		}
	}()
	small, smallFar := p.stream(l)
	go func() { _, _ = io.Copy(smallFar, smallFar) }()
	for range 200 {
		p.host.mu.Lock()
		before := p.host.stats.out
		p.host.mu.Unlock()
		write(t, small, []byte("x"))
		p.host.mu.Lock()
		ahead := p.host.stats.out - before
		p.host.mu.Unlock()
		// A frame that was under way, and what went between our frame and this line.
		if ahead > 64*turnSize {
			t.Errorf("%d bytes went ahead of one", ahead)
		}
		expect(t, small, "x")
	}
	close(stop)
	wait(t, "the big writer", stopped)
}

func BenchmarkThroughput(b *testing.B) {
	const size = 256 << 10
	b.Run("bare", func(b *testing.B) {
		x, y := channels()["socket"](b)
		benchmark(b, size, x, y)
	})
	for name, channel := range channels() {
		b.Run(name, func(b *testing.B) {
			x, y := channel(b)
			p := newPair(b, x, y, Options{})
			near, far := p.stream(p.listen())
			benchmark(b, size, near, far)
		})
	}
}

func benchmark(b *testing.B, size int, w io.Writer, r io.Reader) {
	out, in := make([]byte, size), make([]byte, 64<<10)
	done := make(chan struct{})
	total := int64(b.N) * int64(size)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		defer close(done)
		for got := int64(0); got < total; {
			n, err := r.Read(in)
			if err != nil {
				return
			}
			got += int64(n)
		}
	}()
	for range b.N {
		if _, err := w.Write(out); err != nil {
			b.Fatal(err)
		}
	}
	<-done
}

func BenchmarkRoundTrip(b *testing.B) {
	trip := func(b *testing.B, near, far io.ReadWriter) {
		go func() {
			p := make([]byte, 64)
			for {
				if _, err := io.ReadFull(far, p); err != nil {
					return
				}
				_, _ = far.Write(p)
			}
		}()
		p := make([]byte, 64)
		b.ReportAllocs()
		for b.Loop() {
			_, _ = near.Write(p)
			_, _ = io.ReadFull(near, p)
		}
	}
	b.Run("bare", func(b *testing.B) {
		x, y := channels()["socket"](b)
		trip(b, x, y)
		_ = x.(net.Conn).Close()
	})
	b.Run("socket", func(b *testing.B) {
		x, y := channels()["socket"](b)
		p := newPair(b, x, y, Options{})
		near, far := p.stream(p.listen())
		trip(b, near, far)
	})
}
