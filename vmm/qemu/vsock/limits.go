//go:build linux

package vsock

const (
	// maxConns bounds the connections of a device, those included that have
	// ended with bytes still to be read.
	maxConns = 4096
	// maxBacklog bounds the connections of a listener that nobody has accepted.
	maxBacklog = 128
	// maxResets bounds the answers owed to packets of no connection.
	maxResets = 256
	// batch is how many packets are worked on before others get the lock.
	batch = 64

	// fullBuffer is the receive buffer of a connection, in bytes. More does not
	// help: current kernels use no more than the size of their own.
	fullBuffer = 256 << 10
	// leastBuffer is what every connection gets.
	leastBuffer = 4 << 10
	// maxBuffered bounds what all receive buffers may come to hold.
	maxBuffered = 64 << 20
	// maxExtra is what is there to grant beyond the least.
	maxExtra = maxBuffered - maxConns*leastBuffer
	// share is how many times the largest grant must be left for it to be given.
	share = 32
)

// grants counts the receive buffers that connections were promised. A promise
// cannot be taken back, because the guest may have sent that much already; so
// each new one is smaller as less is left, and all of them together never pass
// maxBuffered.
type grants struct {
	count int
	extra int // bytes beyond count*leastBuffer
}

// take answers the size of a new connection's receive buffer, in bytes; false
// when there are too many.
func (g *grants) take() (uint32, bool) {
	if g.count >= maxConns {
		return 0, false
	}
	extra := min(fullBuffer-leastBuffer, (maxExtra-g.extra)/share) &^ (leastBuffer - 1)
	g.count++
	g.extra += extra
	return uint32(leastBuffer + extra), true
}

func (g *grants) giveBack(size uint32) {
	g.count--
	g.extra -= int(size) - leastBuffer
}

// bytes is how much is promised.
func (g *grants) bytes() int { return g.count*leastBuffer + g.extra }
