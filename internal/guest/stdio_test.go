//go:build linux

package guest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/wire"
)

// streamBench is a registry of streams with a host's side.
type streamBench struct {
	t *testing.T
	s *streams
}

// dial answers the host's end of a stream called token.
func (b streamBench) dial(token string) *wire.Stream {
	b.t.Helper()
	host, guest := net.Pipe()
	srv := agentproto.NewServer(noAgent{}, "", func(tok string, st *wire.Stream) error { return b.s.open(tok, st) }, nil)
	go func() { _ = srv.ServeConn(context.Background(), guest) }()
	st, err := agentproto.OpenStream(context.Background(), host, token)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = st.Close() })
	return st
}

// noAgent is an agent that nobody calls.
type noAgent struct{ agentproto.Agent }

func newStreamBench(t *testing.T) streamBench { return streamBench{t, newStreams()} }

func (b streamBench) stdio(in, out, err string) *stdio {
	b.t.Helper()
	s, e := b.s.newStdio(in, out, err)
	if e != nil {
		b.t.Fatal(e)
	}
	b.t.Cleanup(func() { s.closeChild(); s.exited(); s.release() })
	return s
}

func TestOutputWaitsForItsStream(t *testing.T) {
	b := newStreamBench(t)
	s := b.stdio("", "o", "")
	if _, err := s.child[1].WriteString("early "); err != nil {
		t.Fatal(err)
	}
	st := b.dial("o")
	p := make([]byte, 6)
	if _, err := io.ReadFull(st, p); err != nil || string(p) != "early " {
		t.Fatalf("%q %v", p, err)
	}
	if _, err := s.child[1].WriteString("late"); err != nil {
		t.Fatal(err)
	}
	s.closeChild()
	s.exited()
	rest, err := io.ReadAll(st)
	if string(rest) != "late" || err != nil {
		t.Errorf("%q %v", rest, err)
	}
}

// A stream that breaks loses nothing that it has not carried.
func TestOutputGoesOnWithTheNextStream(t *testing.T) {
	b := newStreamBench(t)
	s := b.stdio("", "o", "")
	first := b.dial("o")
	_, _ = s.child[1].WriteString("one")
	p := make([]byte, 3)
	if _, err := io.ReadFull(first, p); err != nil {
		t.Fatal(err)
	}
	_ = first.Close()
	go func() {
		_, _ = s.child[1].Write(bytes.Repeat([]byte("x"), 3<<20)) // more than the pipe
		s.closeChild()
		s.exited()
	}()
	got, err := io.ReadAll(b.dial("o"))
	if len(got) != 3<<20 || err != nil {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	again, err := io.ReadAll(b.dial("o")) // the end is told to whoever asks
	if len(again) != 0 || err != nil {
		t.Errorf("%d bytes, %v", len(again), err)
	}
}

// The newest stream of a token holds, even if the host never hung up the other.
func TestNewestStreamTakesOver(t *testing.T) {
	b := newStreamBench(t)
	s := b.stdio("", "o", "")
	stuck := b.dial("o") // never read: a write to it waits
	_, _ = s.child[1].WriteString("hello")
	s.closeChild()
	s.exited()
	got, err := io.ReadAll(b.dial("o"))
	if string(got) != "hello" || err != nil {
		t.Errorf("%q %v", got, err)
	}
	if _, err := stuck.Read(make([]byte, 8)); err == nil {
		t.Error("the former stream goes on")
	}
}

// A background child that holds the pipe does not hold up the end.
// A reader that goes away for good is what it is to a pipe: who writes gets EPIPE.
// One that is only cut off may come again.
func TestOutputNobodyWillRead(t *testing.T) {
	b := newStreamBench(t)
	s := b.stdio("", "o", "")
	wrote := make(chan error)
	go func() {
		for {
			if _, err := s.child[1].Write(make([]byte, 4096)); err != nil {
				wrote <- err
				return
			}
		}
	}()
	cut := b.dial("o")
	if _, err := cut.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	_ = cut.Close()
	st := b.dial("o")
	if _, err := io.ReadFull(st, make([]byte, 2*pipeSize)); err != nil {
		t.Fatal(err)
	}
	if err := st.Abort(errs.New(errs.Canceled, "enough")); err != nil {
		t.Error(err)
	}
	if err := <-wrote; !errors.Is(err, unix.EPIPE) {
		t.Errorf("write: %v", err)
	}
}

// A process may end, and be forgotten, before the streams that were opened for it
// come: they get what it has written, and its end. They are not awaited for ever.
func TestStreamsThatComeAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStreamBench(t)
		s := b.stdio("i", "o", "e")
		_, _ = s.child[1].WriteString("last words")
		s.closeChild()
		s.exited()
		s.retire()
		out := b.dial("o")
		if got, err := io.ReadAll(out); string(got) != "last words" || err != nil {
			t.Errorf("%q %v", got, err)
		}
		_ = out.Close()
		if _, err := b.dial("i").Read(make([]byte, 1)); err == nil {
			t.Error("an input that nobody reads has something to say")
		}
		time.Sleep(unclaimedLimit)
		synctest.Wait()
		if n := len(b.s.ends); n != 0 {
			t.Errorf("%d tokens are kept", n)
		}
	})
}

func TestOutputEndsWithItsProcess(t *testing.T) {
	b := newStreamBench(t)
	s := b.stdio("", "o", "")
	st := b.dial("o")
	_, _ = s.child[1].WriteString("last words")
	s.exited() // and child[1] stays open
	got, err := io.ReadAll(st)
	if string(got) != "last words" || err != nil {
		t.Errorf("%q %v", got, err)
	}
}

func TestInputEnds(t *testing.T) {
	b := newStreamBench(t)
	st := b.dial("i") // before its process
	s := b.stdio("i", "", "")
	want := bytes.Repeat([]byte("0123456789"), 100_000)
	go func() { _, _ = st.Write(want); _ = st.CloseWrite() }()
	got, err := io.ReadAll(s.child[0])
	if !bytes.Equal(got, want) || err != nil {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestInputSurvivesACut(t *testing.T) {
	b := newStreamBench(t)
	s := b.stdio("i", "", "")
	first := b.dial("i")
	if _, err := first.Write([]byte("one ")); err != nil {
		t.Fatal(err)
	}
	_ = first.Close()
	second := b.dial("i")
	go func() { _, _ = second.Write([]byte("two")); _ = second.CloseWrite() }()
	got, err := io.ReadAll(s.child[0])
	if string(got) != "one two" || err != nil {
		t.Errorf("%q %v", got, err)
	}
}

// A process that does not read its input is no reason for anything.
func TestInputNobodyReads(t *testing.T) {
	b := newStreamBench(t)
	s := b.stdio("i", "", "")
	_ = s.child[0].Close()
	st := b.dial("i")
	if _, err := st.Write(make([]byte, 4<<20)); err != nil {
		t.Errorf("the host sees %v", err)
	}
	if err := st.CloseWrite(); err != nil {
		t.Error(err)
	}
}

func TestInputBlockedWriterEndsWithItsProcess(t *testing.T) {
	b := newStreamBench(t)
	s := b.stdio("i", "", "")
	st := b.dial("i")
	done := make(chan error, 1)
	go func() { _, err := st.Write(make([]byte, 4<<20)); done <- err }()
	p := make([]byte, 1)
	if _, err := io.ReadFull(s.child[0], p); err != nil { // it has begun
		t.Fatal(err)
	}
	s.exited() // with child[0] still held by another
	<-done
}

func TestTokensAreTakenOnce(t *testing.T) {
	b := newStreamBench(t)
	_, err := b.s.newStdio("same", "same", "")
	wantClass(t, err, errs.AlreadyExists, "token")
	if len(b.s.ends) != 0 {
		t.Errorf("left: %v", b.s.ends)
	}
	_, err = b.s.newStdio(strings.Repeat("x", maxToken+1), "", "")
	wantClass(t, err, errs.InvalidArgument, "token of")
}

func TestUnclaimedStreamsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newStreamBench(t)
		var all []*wire.Stream
		for i := range maxUnclaimed {
			all = append(all, b.dial(fmt.Sprint("t", i)))
		}
		synctest.Wait() // all of them are registered
		_, err := b.dial("over").Read(make([]byte, 1))
		wantClass(t, err, errs.ResourceExhausted, "wait for their process")
		time.Sleep(unclaimedLimit + time.Second)
		for _, s := range all {
			if _, err := s.Read(make([]byte, 1)); err == nil {
				t.Error("an unclaimed stream goes on")
			}
		}
		synctest.Wait()
		if len(b.s.unclaimed) != 0 {
			t.Errorf("%d are left", len(b.s.unclaimed))
		}
	})
}

// No chunk costs an allocation.
func TestOutputDoesNotAllocate(t *testing.T) {
	s := newStreams()
	ours, theirs, err := pipe(false)
	if err != nil {
		t.Fatal(err)
	}
	o := newOutput(ours, &s.buffers)
	defer func() { _, _ = ours.Close(), theirs.Close() }()
	data := make([]byte, chunk)
	_, _ = theirs.Write(data)
	if err := o.fill(false); err != nil {
		t.Fatal(err)
	}
	n := testing.AllocsPerRun(100, func() {
		_, _ = theirs.Write(data)
		if err := o.fill(true); err != nil {
			t.Fatal(err)
		}
	})
	if n > 4 { // closures, not the chunk
		t.Errorf("%v allocations a chunk", n)
	}
}

func TestRealStreams(t *testing.T) {
	b := newBench(t)
	b.sleeper()
	t.Run("both at once", func(t *testing.T) {
		r, err := b.exec(nil, "sh", "-c", "dd if=/dev/zero bs=64k count=200 2>/dev/null & dd if=/dev/zero bs=64k count=200 >&2 2>/dev/null; wait")
		if err != nil || len(r.out) != 200<<16 || len(r.err) != 200<<16 {
			t.Errorf("%d %d %v", len(r.out), len(r.err), err)
		}
	})
	t.Run("stdin echoed", func(t *testing.T) {
		text := strings.Repeat("binary\x00\xff", 1<<17)
		r, err := b.run(agentproto.Start{ID: "cat", Process: processSpec("cat")}, strings.NewReader(text))
		if err != nil || sha256.Sum256([]byte(r.out)) != sha256.Sum256([]byte(text)) {
			t.Errorf("%d bytes, %v", len(r.out), err)
		}
	})
	t.Run("reader that stops early", func(t *testing.T) {
		r, err := b.run(agentproto.Start{ID: "head", Process: processSpec("head", "-c1")}, strings.NewReader(strings.Repeat("y", 1<<20)))
		if err != nil || r.out != "y" || r.exit.Code != 0 {
			t.Errorf("%+v %v", r, err)
		}
	})
	t.Run("background child", func(t *testing.T) {
		r, err := b.exec(nil, "sh", "-c", "sleep 100 & echo started")
		if err != nil || r.out != "started\n" {
			t.Errorf("%+v %v", r, err)
		}
	})
	t.Run("many at once", func(t *testing.T) { manyAtOnce(t, b) })
}

func manyAtOnce(t *testing.T, b *bench) {
	type one struct {
		r   result
		err error
	}
	const n = 20
	results := make(chan one, n)
	for range n {
		go func() {
			r, err := b.exec(nil, "sh", "-c", "seq 1 20000; exit 7")
			results <- one{r, err}
		}()
	}
	sums := map[[32]byte]int{}
	for range n {
		o := <-results
		if o.err != nil || o.r.exit.Code != 7 {
			t.Fatalf("%+v %v", o.r.exit, o.err)
		}
		sums[sha256.Sum256([]byte(o.r.out))]++
	}
	if len(sums) != 1 {
		t.Errorf("%d different outputs", len(sums))
	}
}

func TestPipesLookOrdinary(t *testing.T) {
	ours, theirs, err := pipe(false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = ours.Close(), theirs.Close() }()
	flags, err := unix.FcntlInt(theirs.Fd(), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK != 0 {
		t.Errorf("flags %x, %v", flags, err)
	}
	if _, err := ours.Read(nil); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
}
