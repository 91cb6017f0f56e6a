//go:build linux

package guest

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ring keeps the last bytes of the agent's own log.
type ring struct {
	born time.Time

	mu  sync.Mutex // guards the following
	max int
	b   []byte
}

func newRing(limit int) *ring { return &ring{born: time.Now(), max: limit} }

// printf adds a line with the time since the agent's start.
func (r *ring) printf(format string, args ...any) {
	line := fmt.Sprintf("[%10.6f] "+format+"\n", append([]any{time.Since(r.born).Seconds()}, args...)...)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.b = append(r.b, line...)
	if len(r.b) > 2*r.max {
		r.b = slices.Clone(r.b[len(r.b)-r.max:])
	}
}

// bytes answers the tail.
func (r *ring) bytes() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.b[max(0, len(r.b)-r.max):])
}

// maxKernelLog bounds the kernel's tail, in bytes.
const maxKernelLog = 64 << 10

// kernelLog answers the tail of the kernel's ring, nil where it cannot be read.
func kernelLog() []byte {
	b := make([]byte, maxKernelLog)
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, b)
	if err != nil {
		return nil
	}
	return b[:n]
}
