//go:build linux

package vsock

// fifo is a queue of bytes that grows as it must, up to what its owner allows.
type fifo struct {
	b     []byte
	first int // index of the first byte
	n     int // bytes
}

const (
	fifoStep = 4 << 10  // bytes of the smallest buffer
	fifoKept = 64 << 10 // bytes that an empty queue keeps at most
)

// reserve makes room for n more bytes.
func (f *fifo) reserve(n int) {
	if f.n+n <= len(f.b) {
		return
	}
	size := max(2*len(f.b), fifoStep)
	for size < f.n+n {
		size *= 2
	}
	b := make([]byte, size)
	k := copy(b, f.b[f.first:min(len(f.b), f.first+f.n)])
	copy(b[k:], f.b[:f.n-k])
	f.b, f.first = b, 0
}

// put appends p, for which there must be room.
func (f *fifo) put(p []byte) {
	at := f.first + f.n
	if at >= len(f.b) {
		at -= len(f.b)
	}
	k := copy(f.b[at:], p)
	copy(f.b, p[k:])
	f.n += len(p)
}

// take moves bytes to p.
func (f *fifo) take(p []byte) (n int) {
	for f.n > 0 && n < len(p) {
		k := copy(p[n:], f.b[f.first:min(len(f.b), f.first+f.n)])
		n += k
		f.n -= k
		if f.first += k; f.first == len(f.b) {
			f.first = 0
		}
	}
	if f.n == 0 && len(f.b) > fifoKept {
		*f = fifo{}
	}
	return n
}
