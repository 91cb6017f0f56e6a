//go:build linux

package vsock

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func TestGrants(t *testing.T) {
	var g grants
	var sizes []uint32
	for {
		size, ok := g.take()
		if !ok {
			break
		}
		if n := len(sizes); n > 0 && size > sizes[n-1] || size < leastBuffer || g.bytes() > maxBuffered {
			t.Fatalf("connection %d gets %d, %d in all", n, size, g.bytes())
		}
		sizes = append(sizes, size)
	}
	if len(sizes) != maxConns || sizes[0] != fullBuffer || sizes[99] != fullBuffer {
		t.Errorf("%d connections, the hundredth with %d bytes", len(sizes), sizes[99])
	}
	for _, size := range sizes {
		g.giveBack(size)
	}
	if g != (grants{}) {
		t.Errorf("%+v is left", g)
	}
}

// The oracle is a slice.
func TestFIFO(t *testing.T) {
	const limit = 20 << 10 // not a power of two
	random := rand.New(rand.NewPCG(3, 4))
	var f fifo
	var want []byte
	var next byte
	for range 20_000 {
		if n := random.IntN(9000); random.IntN(2) == 0 && len(want)+n <= limit {
			p := make([]byte, n)
			for i := range p {
				p[i] = next
				next++
			}
			f.write(p, limit)
			want = append(want, p...)
		} else {
			p := make([]byte, n)
			k := f.read(p)
			if k != min(n, len(want)) || !bytes.Equal(p[:k], want[:k]) {
				t.Fatalf("read %d of %d", k, len(want))
			}
			want = want[k:]
		}
		if f.size != len(want) || len(f.buf) > limit {
			t.Fatal(f.size, len(want), len(f.buf))
		}
	}
}

func TestHeaderRoundTrip(t *testing.T) {
	h := header{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	var b [headerSize]byte
	h.encode(&b)
	var got header
	if got.decode(&b); got != h {
		t.Errorf("%+v", got)
	}
}
