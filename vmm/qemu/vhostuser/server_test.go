//go:build linux

package vhostuser

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm/qemu/vhostuser/vhostusertest"
)

func (e *echo) with(do func()) {
	e.srv.Lock()
	defer e.srv.Unlock()
	do()
}

func TestEcho(t *testing.T) {
	for name, table := range map[string]uint64{"direct": 0, "indirect": tableAt} {
		t.Run(name, func(t *testing.T) {
			_, fe, r := run(t)
			r.Indirect = table
			for i := range 100 {
				text := []byte(strings.Repeat("x", i) + "end")
				copy(fe.RAM[dataAt:], text)
				half := uint32(len(text) / 2)
				r.Add([]vhostusertest.Span{{At: dataAt, Len: half}, {At: dataAt + uint64(half), Len: uint32(len(text)) - half}},
					[]vhostusertest.Span{{At: dataAt + 0x1000, Len: 3}, {At: dataAt + 0x1003, Len: 1000}})
				r.Notify()
				if _, n := take(t, r); int(n) != len(text) || !bytes.Equal(fe.RAM[dataAt+0x1000:][:n], text) {
					t.Fatal(i, n)
				}
			}
			if base := fe.Stop(0); base != 100 {
				t.Error("stopped at", base)
			}
		})
	}
}

func TestConfig(t *testing.T) {
	_, fe, _ := serve(t, true)
	fe.Connect()
	for _, test := range []struct {
		offset, size uint32
		want         string
	}{
		{0, 8, "abcdefgh"}, {6, 4, "gh\x00\x00"}, {256, 0, ""},
	} {
		ask := le.AppendUint32(le.AppendUint32(nil, test.offset), test.size)
		ask = append(ask, make([]byte, 4+test.size)...)
		if got := fe.Ask(vhostusertest.GetConfig, ask); len(got) != 12+int(test.size) || string(got[12:]) != test.want {
			t.Errorf("%+v: %q", test, got)
		}
	}
	huge := append(le.AppendUint32(le.AppendUint32(nil, 0), 1<<31), make([]byte, 4)...)
	if got := fe.Ask(vhostusertest.GetConfig, huge); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

func TestMemoryThatIsRefused(t *testing.T) {
	type table struct{ gpa, size, offset uint64 }
	for name, test := range map[string]struct {
		sealed bool
		table  []table
		class  errs.Class
	}{
		"unsealed":  {false, []table{{0, 4096, 0}}, errs.PermissionDenied},
		"short":     {true, []table{{0, 4096, vhostusertest.RAMBytes - 1}}, errs.InvalidArgument},
		"empty":     {true, []table{{0, 0, 0}}, errs.InvalidArgument},
		"wraps":     {true, []table{{1<<64 - 1, 4096, 0}}, errs.InvalidArgument},
		"offset":    {true, []table{{0, 4096, 1<<64 - 4096}}, errs.InvalidArgument},
		"overlaps":  {true, []table{{0, 8192, 0}, {4096, 4096, 0}}, errs.InvalidArgument},
		"no region": {true, nil, errs.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			_, fe, wait := serve(t, test.sealed)
			fe.Connect()
			payload := le.AppendUint64(nil, uint64(len(test.table)))
			var fds []int
			for _, r := range test.table {
				for _, v := range []uint64{r.gpa, r.size, r.gpa, r.offset} {
					payload = le.AppendUint64(payload, v)
				}
				fds = append(fds, vhostusertest.Descriptor(t, fe.File))
			}
			if fe.TryTell(vhostusertest.SetMemTable, payload, fds...) == nil {
				t.Error("acknowledged")
			}
			if err := wait(); !errs.Is(err, test.class) {
				t.Error(err)
			}
		})
	}
}

func TestQueueBreaksUntilReset(t *testing.T) {
	for name, spoil := range map[string]func(fe *vhostusertest.Frontend, r *vhostusertest.Ring){
		"index":    func(_ *vhostusertest.Frontend, r *vhostusertest.Ring) { r.SetAvail(17) },
		"head":     func(_ *vhostusertest.Frontend, r *vhostusertest.Ring) { r.Offer(16) },
		"next":     desc(dataAt, 1, descNext, 16),
		"loop":     desc(dataAt, 1, descNext, 0),
		"hole":     desc(1<<31, 1, 0, 0),
		"wrap":     desc(1<<64-1, 1<<32-1, 0, 0),
		"end":      desc(1<<32+vhostusertest.RAMBytes/2-1, 2, 0, 0),
		"indirect": desc(dataAt, 15, descIndirect, 0),
		"big":      desc(dataAt, 17*16, descIndirect, 0),
		"linked":   desc(dataAt, 16, descIndirect|descNext, 0),
		"away":     desc(1<<31, 16, descIndirect, 0),
		"nested": func(fe *vhostusertest.Frontend, r *vhostusertest.Ring) {
			le.PutUint64(fe.RAM[dataAt:], dataAt)
			le.PutUint32(fe.RAM[dataAt+8:], 16)
			le.PutUint16(fe.RAM[dataAt+12:], descIndirect)
			desc(dataAt, 16, descIndirect, 0)(fe, r)
		},
		"order": func(fe *vhostusertest.Frontend, r *vhostusertest.Ring) {
			r.SetDesc(1, dataAt, 1, 0, 0)
			desc(dataAt, 1, descNext|descWrite, 1)(fe, r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			e, fe, r := run(t)
			bad := vhostusertest.Eventfd(t)
			fe.Tell(uint32(setVringErr), vhostusertest.U64(0), vhostusertest.Descriptor(t, bad))
			spoil(fe, r)
			r.NotifyAnyway()
			var b [8]byte
			if _, err := bad.Read(b[:]); err != nil {
				t.Fatal(err)
			}
			e.with(func() {
				if len(e.failures) != 1 || e.srv.Queue(0).Ready() {
					t.Error(e.failures)
				}
			})
			fe.Stop(0)
			r.Reset()
			r.Add([]vhostusertest.Span{{At: dataAt, Len: 5}}, []vhostusertest.Span{{At: dataAt, Len: 5}})
			fe.Start(0, r, 0)
			fe.Enable(0, true)
			if _, n := take(t, r); n != 5 {
				t.Error(n)
			}
		})
	}
}

func desc(addr uint64, n uint32, flags, next uint16) func(*vhostusertest.Frontend, *vhostusertest.Ring) {
	return func(_ *vhostusertest.Frontend, r *vhostusertest.Ring) {
		r.SetDesc(0, addr, n, flags, next)
		r.Offer(0)
	}
}

// A chain as long as the ring is legal.
func TestLongestChain(t *testing.T) {
	e, _, r := run(t)
	spans := make([]vhostusertest.Span, 16)
	for i := range spans {
		spans[i] = vhostusertest.Span{At: dataAt + uint64(i), Len: 1}
	}
	for _, table := range []uint64{0, tableAt} {
		r.Indirect = table
		r.Add(spans[:8], spans[8:])
		r.Notify()
		if _, n := take(t, r); n != 8 {
			e.with(func() { t.Error(n, e.failures) })
		}
	}
}

// GET_VRING_BASE waits for what is in flight, and its answer reaches the guest.
func TestStopWaitsForDetachedRequests(t *testing.T) {
	e, fe, r := run(t)
	requests := make(chan *Request, 1)
	e.with(func() { e.detach = func(r *Request) { requests <- r } })
	copy(fe.RAM[dataAt:], "hello")
	r.Add([]vhostusertest.Span{{At: dataAt, Len: 5}}, []vhostusertest.Span{{At: dataAt + 100, Len: 5}})
	r.Notify()
	request := <-requests

	base := make(chan uint16)
	go func() { base <- fe.Stop(0) }()
	await := make(chan struct{})
	go func() { // until the stop is under way
		for stopped := false; !stopped; {
			e.with(func() { stopped = len(e.stopped) > 0 })
		}
		close(await)
	}()
	<-await
	select {
	case <-base:
		t.Fatal("it did not wait")
	default:
	}
	var n uint32
	if err := Protect(func() { n = copyChain(request.Chain) }); err != nil {
		t.Fatal(err)
	}
	request.Done(n)
	if at := <-base; at != 1 {
		t.Error(at)
	}
	if _, n, ok := r.Used(); !ok || n != 5 || string(fe.RAM[dataAt+100:][:5]) != "hello" {
		t.Error(ok, n)
	}
}

// A detached request keeps its memory, whatever becomes of table and device.
func TestDetachedRequestOutlivesTheTable(t *testing.T) {
	e, fe, r := run(t)
	requests := make(chan *Request, 1)
	e.with(func() { e.detach = func(r *Request) { requests <- r } })
	copy(fe.RAM[dataAt:], "hello")
	for _, away := range []func(){fe.Share, fe.Hangup} {
		r.Add([]vhostusertest.Span{{At: dataAt, Len: 5}}, nil)
		r.NotifyAnyway()
		request := <-requests
		away()
		var got []byte
		if err := Protect(func() { got = append(got, request.Readable[0]...) }); err != nil || string(got) != "hello" {
			t.Errorf("%q %v", got, err)
		}
		request.Done(0)
	}
	if err := e.srv.Close(); err != nil {
		t.Error(err)
	}
	if e.srv.mem != nil {
		t.Error("memory is left")
	}
}

func TestCloseDoesNotWaitForRequests(t *testing.T) {
	e, fe, r := run(t)
	requests := make(chan *Request, 1)
	e.with(func() { e.detach = func(r *Request) { requests <- r } })
	r.Add([]vhostusertest.Span{{At: dataAt, Len: 5}}, nil)
	r.Notify()
	request := <-requests
	if err := fe.Send(vhostusertest.GetVringBase, vhostusertest.Version, vhostusertest.State(0, 0)); err != nil {
		t.Fatal(err)
	}
	e.srv.Close()
	request.Done(0)
	if len(request.Readable) != 0 {
		t.Error("slices are left")
	}
}

func TestFaultEndsTheDevice(t *testing.T) {
	fe, c := vhostusertest.New(t, false)
	e := &echo{budget: 64}
	e.srv = NewServer(e)
	e.srv.RequireSealed = false
	served := make(chan error, 1)
	go func() { served <- e.srv.Serve(c) }()
	fe.Connect()
	fe.Share()
	r := vhostusertest.NewRing(fe.RAM, ringAt, 16, fe.GPA)
	fe.Start(0, r, 0)
	fe.Enable(0, true)
	if err := fe.File.Truncate(0); err != nil {
		t.Fatal(err)
	}
	r.Kick.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0})
	if err := <-served; !errs.Is(err, errs.DataLoss) {
		t.Error(err)
	}
}

func TestProtectLetsBugsThrough(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a nil dereference was taken for a fault")
		}
	}()
	var p *Server
	_ = Protect(func() { p.cause = io.EOF })
}

// An interrupt may be lost while the call descriptor is swapped; the new one is
// signalled once.
func TestCallIsSwapped(t *testing.T) {
	_, fe, r := run(t)
	r.Call = vhostusertest.Eventfd(t)
	fe.Tell(vhostusertest.SetVringCall, vhostusertest.U64(0), vhostusertest.Descriptor(t, r.Call))
	if err := r.Wait(); err != nil {
		t.Error(err)
	}
}

func TestDisabledRingIsLeftAlone(t *testing.T) {
	e, fe, r := run(t)
	fe.Enable(0, false)
	r.Add([]vhostusertest.Span{{At: dataAt, Len: 5}}, nil)
	r.NotifyAnyway()
	e.with(func() {
		if e.srv.Queue(0).Ready() || e.chains != 0 || len(e.stopped) != 1 {
			t.Error(e.chains, e.stopped)
		}
	})
	fe.Enable(0, true)
	take(t, r)
}

func TestServesOnce(t *testing.T) {
	e, fe, wait := serve(t, true)
	fe.Connect()
	_, c := vhostusertest.New(t, true)
	if err := e.srv.Serve(c); !errs.Is(err, errs.FailedPrecondition) {
		t.Error(err)
	}
	if _, err := c.Write([]byte("x")); err == nil {
		t.Error("the connection is open")
	}
	fe.Hangup()
	if err := wait(); err != nil {
		t.Error(err)
	}
	e.srv.Close()
	if err := e.srv.Serve(c); !errs.Is(err, errs.Unavailable) {
		t.Error(err)
	}
}

func TestNothingIsLeft(t *testing.T) {
	before := openFiles(t)
	t.Run("", func(t *testing.T) {
		_, fe, r := run(t)
		for range 10 {
			fe.Tell(vhostusertest.SetVringCall, vhostusertest.U64(0), vhostusertest.Descriptor(t, r.Call))
			fe.Tell(vhostusertest.SetVringKick, vhostusertest.U64(0), vhostusertest.Descriptor(t, r.Kick))
			fe.Tell(uint32(setVringErr), vhostusertest.U64(0), vhostusertest.Descriptor(t, r.Kick))
			fe.Tell(uint32(setOwner), nil, vhostusertest.Descriptor(t, r.Kick)) // not asked for
			fe.Share()
		}
	})
	if after := openFiles(t); after != before {
		t.Errorf("%d files, %d before", after, before)
	}
}

func openFiles(t testing.TB) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestMessagesThatEndTheConversation(t *testing.T) {
	for name, send := range map[string]func(fe *vhostusertest.Frontend) error{
		"version":  func(fe *vhostusertest.Frontend) error { return fe.Send(1, 2, nil) },
		"reply":    func(fe *vhostusertest.Frontend) error { return fe.Send(1, 5, nil) },
		"long":     func(fe *vhostusertest.Frontend) error { return fe.Send(1, 1, make([]byte, maxPayload+1)) },
		"unknown":  func(fe *vhostusertest.Frontend) error { return fe.Send(99, 1, nil) },
		"short":    func(fe *vhostusertest.Frontend) error { return fe.Send(uint32(setFeatures), 1, make([]byte, 7)) },
		"features": func(fe *vhostusertest.Frontend) error { return fe.Send(uint32(setFeatures), 1, vhostusertest.U64(1)) },
		"queue": func(fe *vhostusertest.Frontend) error {
			return fe.Send(uint32(setVringNum), 1, vhostusertest.State(2, 16))
		},
		"size": func(fe *vhostusertest.Frontend) error {
			return fe.Send(uint32(setVringNum), 1, vhostusertest.State(0, 2048))
		},
		"kick": func(fe *vhostusertest.Frontend) error {
			return fe.Send(uint32(setVringKick), 1, vhostusertest.U64(0))
		},
		"descriptors": func(fe *vhostusertest.Frontend) error {
			return fe.Send(uint32(setOwner), 1, nil, 0, 0, 0, 0, 0, 0, 0, 0, 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := openFiles(t)
			t.Run("", func(t *testing.T) {
				_, fe, wait := serve(t, true)
				if err := send(fe); err != nil && !errors.Is(err, unix.EPIPE) {
					t.Fatal(err)
				}
				if err := wait(); err == nil {
					t.Error("no error")
				}
			})
			if after := openFiles(t); after != before {
				t.Errorf("%d files, %d before", after, before)
			}
		})
	}
}
