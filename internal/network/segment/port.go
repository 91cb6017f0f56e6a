package segment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"github.com/vzcompose/vzcompose/internal/network/frame"
)

// batch is how many frames are taken from a queue at once: what comes meanwhile
// waits behind them, whoever's turn it is.
const batch = 16

// Port is the place of one machine.
type Port struct {
	s      *Segment
	id     frame.Identity
	c      Conn
	q      *queue
	casts  *rate.Limiter
	counts counts

	ending sync.Once
	over   chan struct{} // closed by end: there is nothing more to write
	pumps  sync.WaitGroup
	done   chan struct{} // closed when no goroutine is left
	err    error         // readable when done is closed
}

func newPort(s *Segment, id frame.Identity, c Conn) *Port {
	frames := min(queueFrames, queueBytes/(s.o.MTU+frame.HeaderSize))
	return &Port{
		s: s, id: id, c: c,
		q:     newQueue(frames),
		casts: rate.NewLimiter(rate.Limit(s.o.Broadcasts), s.o.Burst),
		over:  make(chan struct{}), done: make(chan struct{}),
	}
}

func (p *Port) start() {
	p.pumps.Go(p.read)
	p.pumps.Go(p.write)
	go func() {
		<-p.over
		p.pumps.Wait()
		close(p.done)
	}()
}

// Identity answers whose port it is.
func (p *Port) Identity() frame.Identity { return p.id }

// Detach ends the port, closes its connection and waits until it is gone.
func (p *Port) Detach() {
	p.end(nil)
	<-p.done
}

// Wait answers how the port ended: nil after Detach, errs.AlreadyExists where
// the machine attached anew, else why its connection broke.
func (p *Port) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// end is called by whoever finds first that the port is over.
func (p *Port) end(err error) {
	p.ending.Do(func() {
		p.err = err
		p.s.forget(p)
		p.q.close()
		p.c.Close()
		close(p.over)
	})
}

// A machine that sends without end gives way: after turn frames to the other
// ports, and after penalty lost frames for pause, in which its socket fills up
// and it has to wait itself.
const (
	turn    = 16
	penalty = 64
	pause   = time.Millisecond
)

// read forwards what the machine sends.
func (p *Port) read() {
	lost := 0
	for i := 0; ; i++ {
		if i%turn == 0 {
			runtime.Gosched()
		}
		if lost >= penalty {
			lost = 0
			p.rest()
		}
		buf := p.s.get()
		n, err := p.c.Read(buf.b)
		if err == nil {
			buf.n = n
			if !p.receive(buf) {
				lost++
			}
			p.counts.sentBytes.Add(uint64(n))
			p.counts.sentFrames.Add(1) // last: who sees it sees what became of the frame
		}
		p.s.put(buf)
		if err != nil && !passing(err) {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("the machine's side is closed: %w", err)
			}
			p.end(fmt.Errorf("read frame: %w", err))
			return
		}
	}
}

func (p *Port) rest() {
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-p.over:
	}
}

// receive judges one frame of the machine and forwards it. It answers false
// where the frame came nowhere.
func (p *Port) receive(buf *buffer) bool {
	c, b := &p.counts, buf.b[:buf.n]
	if buf.n > p.s.o.MTU+frame.HeaderSize {
		c.long.Add(1)
		return false
	}
	f := &buf.f
	var fault frame.Fault
	if *f, fault = frame.Parse(b); fault == frame.None {
		fault = p.id.Check(f)
	}
	if fault != frame.None {
		c.faults[fault].Add(1)
		return false
	}
	if f.Dst.Group() && !p.casts.Allow() {
		c.storm.Add(1)
		return false
	}
	there, took := p.s.forward(p, f.Dst, buf)
	if u := p.s.table.Load().uplink; u != nil && (f.Dst == u.mac || f.Dst.Group()) {
		u.deliver(f, b)
		return true
	}
	if !there {
		c.nobody.Add(1)
	}
	return took
}

// offer queues buf for the machine, or loses it and answers false.
func (p *Port) offer(from any, buf *buffer) bool {
	buf.refs.Add(1)
	took := p.q.put(from, buf)
	if !took {
		p.counts.full.Add(1)
		p.s.put(buf)
	}
	return took
}

// write hands the machine what waits for it.
func (p *Port) write() {
	var held [batch]*buffer
	for {
		n := p.q.take(held[:])
		if n == 0 {
			select {
			case <-p.q.wake:
				continue
			case <-p.over:
				return
			}
		}
		for i, buf := range held[:n] {
			err := p.send(buf)
			p.s.put(buf)
			held[i] = nil
			if err != nil {
				p.end(fmt.Errorf("write frame: %w", err))
				return
			}
		}
	}
}

// How a frame is sent again for which there was no room: macOS tells so in place
// of waiting, and room comes soon or never.
const (
	fullTries = 20
	fullPause = 100 * time.Microsecond
)

func (p *Port) send(buf *buffer) error {
	_, err := p.c.Write(buf.b[:buf.n])
	for try := 0; errors.Is(err, syscall.ENOBUFS) && try < fullTries; try++ {
		select {
		case <-time.After(fullPause):
		case <-p.over:
			return nil
		}
		_, err = p.c.Write(buf.b[:buf.n])
	}
	if err != nil && passing(err) {
		p.counts.full.Add(1)
		return nil
	}
	if err == nil {
		p.counts.takenFrames.Add(1)
		p.counts.takenBytes.Add(uint64(buf.n))
	}
	return err
}

// passing reports whether err is about one frame and not about the connection:
// datagram sockets on macOS answer ENOBUFS where those of Linux wait.
func passing(err error) bool {
	for _, e := range []error{syscall.ENOBUFS, syscall.ENOMEM, syscall.EMSGSIZE, syscall.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
