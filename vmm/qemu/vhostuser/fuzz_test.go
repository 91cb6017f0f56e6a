//go:build linux

package vhostuser

import (
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/vmm/qemu/vhostuser/vhostusertest"
)

// FuzzQueue takes the input as the first bytes of a small memory that begins
// with the rings: 16 descriptors, available ring, used ring.
func FuzzQueue(f *testing.F) {
	const (
		size    = 16
		gpa     = 0x4000
		availAt = size * descSize
		usedAt  = availAt + 4 + 2*size
		memory  = 4096
	)
	seed := make([]byte, usedAt)
	for i := range size {
		d := seed[descSize*i:]
		le.PutUint64(d, gpa+1024+uint64(i))
		le.PutUint32(d[8:], 8)
		le.PutUint16(d[12:], uint16(i%5))
		le.PutUint16(d[14:], uint16(i+1)%size)
	}
	le.PutUint16(seed[availAt+2:], 3)
	f.Add(seed)
	f.Add(seed[:availAt])
	f.Fuzz(func(t *testing.T, in []byte) {
		ram, err := unix.Mmap(-1, 0, memory, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Munmap(ram)
		copy(ram, in)
		e := &echo{budget: size}
		e.srv = NewServer(e)
		if err := e.srv.StartOffline(ram, gpa, []Ring{{Size: size, Desc: 0, Avail: availAt, Used: usedAt}}); err != nil {
			t.Fatal(err)
		}
		// the device writes to the rings too, and may be given work for ever
		for range 8 {
			if !e.srv.KickOffline(0) {
				break
			}
		}
		if e.srv.cause != nil {
			t.Fatal(e.srv.cause)
		}
		if e.chains > 8*size {
			t.Fatal("more chains than the budget", e.chains)
		}
	})
}

// FuzzMessage sends the input as messages: request, number of descriptors,
// length, payload.
func FuzzMessage(f *testing.F) {
	message := func(script []byte, request request, fds byte, payload []byte) []byte {
		script = append(script, byte(request), fds, byte(len(payload)))
		return append(script, payload...)
	}
	seed := message(nil, setProtocolFeatures, 0, vhostusertest.U64(protocolFeatures))
	seed = message(seed, setFeatures, 0, vhostusertest.U64(ringFeatures))
	table := le.AppendUint64(nil, 1)
	for _, v := range []uint64{0, 1 << 16, 0, 0} {
		table = le.AppendUint64(table, v)
	}
	seed = message(seed, setMemTable, 1, table)
	seed = message(seed, setVringNum, 0, vhostusertest.State(0, 16))
	seed = message(seed, setVringBase, 0, vhostusertest.State(0, 0))
	addr := vhostusertest.State(0, 0)
	for _, v := range []uint64{0, 0x2000, 0x1000, 0} {
		addr = le.AppendUint64(addr, v)
	}
	seed = message(seed, setVringAddr, 0, addr)
	seed = message(seed, setVringCall, 2, vhostusertest.U64(0))
	seed = message(seed, setVringKick, 2, vhostusertest.U64(0))
	seed = message(seed, setVringEnable, 0, vhostusertest.State(0, 1))
	seed = message(seed, setMemTable, 1, table)
	seed = message(seed, getVringBase, 0, vhostusertest.State(0, 0))
	seed = message(seed, getConfig, 0, make([]byte, 20))
	f.Add(seed)
	f.Add([]byte{1, 0, 0, 99, 8, 0})
	f.Fuzz(fuzzMessages)
}

func fuzzMessages(t *testing.T, script []byte) {
	before := openFiles(t)
	t.Run("", func(t *testing.T) {
		e, fe, wait := serve(t, true)
		event := vhostusertest.Eventfd(t)
		var replies sync.WaitGroup
		replies.Go(func() {
			for _, err := fe.Receive(); err == nil; _, err = fe.Receive() {
			}
		})
		for len(script) >= 3 {
			n := min(int(script[2]), len(script)-3)
			var fds []int
			for range script[1] % 10 {
				if script[1]%2 == 1 {
					fds = append(fds, vhostusertest.Descriptor(t, fe.File))
				} else {
					fds = append(fds, vhostusertest.Descriptor(t, event))
				}
			}
			if len(fds) == 2 {
				fds = fds[:1]
			}
			if fe.Send(uint32(script[0]), vhostusertest.Version, script[3:3+n], fds...) != nil {
				break
			}
			script = script[3+n:]
		}
		fe.Hangup()
		_ = wait()
		replies.Wait()
		if e.srv.mem != nil || len(e.started) != len(e.stopped) {
			t.Errorf("started %v, stopped %v", e.started, e.stopped)
		}
	})
	if after := openFiles(t); after != before {
		t.Errorf("%d files, %d before", after, before)
	}
}
