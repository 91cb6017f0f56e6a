package segment

import (
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/vzcompose/vzcompose/internal/network/frame"
)

// fullConn has no room for a while, as macOS says it.
type fullConn struct {
	brokenConn
	full int // writes that find no room
	sent int
}

func (c *fullConn) Write(b []byte) (int, error) {
	if c.full > 0 {
		c.full--
		return 0, &net.OpError{Op: "write", Err: os.NewSyscallError("write", syscall.ENOBUFS)}
	}
	c.sent++
	return len(b), nil
}

// A frame waits a little for room, and is lost where none comes; the port stays.
func TestWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for full, want := range map[int]int{0: 1, 1: 1, fullTries: 1, fullTries + 1: 0, 10 * fullTries: 0} {
			c := &fullConn{full: full}
			p := &Port{c: c, over: make(chan struct{})}
			if err := p.send(&buffer{b: make([]byte, frame.HeaderSize), n: frame.HeaderSize}); err != nil || c.sent != want || p.counts.full.Load() != uint64(1-want) {
				t.Errorf("no room for %d writes: %v, %d sent, %d lost", full, err, c.sent, p.counts.full.Load())
			}
		}
		over := make(chan struct{})
		close(over)
		p := &Port{c: &fullConn{full: 5}, over: over}
		if err := p.send(&buffer{b: make([]byte, frame.HeaderSize), n: frame.HeaderSize}); err != nil {
			t.Errorf("a port that ends: %v", err)
		}
	})
}
