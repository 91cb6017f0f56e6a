//go:build linux

package vsock

const minFIFO = 4 << 10

// fifo is a queue of bytes in a buffer that grows by doubling as it is needed.
// The zero fifo is empty and holds no memory.
type fifo struct {
	buf         []byte
	start, size int
}

// write appends p; the fifo holds limit bytes at most, which is the caller's to
// see to.
func (f *fifo) write(p []byte, limit int) {
	if f.size+len(p) > len(f.buf) {
		f.grow(f.size+len(p), limit)
	}
	end := f.start + f.size
	if end >= len(f.buf) {
		end -= len(f.buf)
	}
	n := copy(f.buf[end:], p)
	copy(f.buf, p[n:])
	f.size += len(p)
}

func (f *fifo) grow(need, limit int) {
	size := max(minFIFO, 2*len(f.buf))
	for size < need {
		size *= 2
	}
	bigger := make([]byte, max(need, min(size, limit)))
	n := f.peek(bigger)
	f.buf, f.start, f.size = bigger, 0, n
}

// peek copies what is there to p, as much as fits.
func (f *fifo) peek(p []byte) int {
	head := f.buf[f.start:min(len(f.buf), f.start+f.size)]
	n := copy(p, head)
	if n == len(head) {
		n += copy(p[n:], f.buf[:f.size-n])
	}
	return n
}

// read moves what is there to p, as much as fits.
func (f *fifo) read(p []byte) int {
	n := f.peek(p)
	f.size -= n
	if f.start += n; f.start >= len(f.buf) {
		f.start -= len(f.buf)
	}
	if f.size == 0 {
		f.start = 0 // the next bytes lie in one piece
	}
	return n
}
