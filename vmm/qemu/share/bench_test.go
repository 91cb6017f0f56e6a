//go:build linux

package share

import (
	"encoding/binary"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkRequests measures requests without a machine, on shares of either kind.
func BenchmarkRequests(b *testing.B) {
	for _, o := range []Options{{}, remembering(b)} {
		what := "host"
		if o.squash {
			what = "remembering"
		}
		dir, err := os.MkdirTemp(".", "bench-") // a disk, as folders are on
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = os.RemoveAll(dir) })
		if err := os.WriteFile(dir+"/file", nil, 0o644); err != nil {
			b.Fatal(err)
		}
		g := newGuest(b, o.at(dir))
		file := g.mustLookup(root, "file")
		bench := func(name string, do func()) {
			b.Run(what+"/"+name, func(b *testing.B) {
				for b.Loop() {
					do()
				}
			})
		}
		stat := func() { g.must(opGetattr, file, words(uint32(0), uint32(0), uint64(0))) }
		open := func() {
			fh := binary.LittleEndian.Uint64(g.must(opOpen, file, words(uint32(unix.O_RDONLY), uint32(0))))
			g.must(opRelease, file, words(fh, uint32(0), uint32(0), uint64(0)))
		}
		create := func() {
			made := g.must(opCreate, root, words(uint32(unix.O_RDWR), uint32(0o644), uint32(0), uint32(0), "new"))
			node, fh := binary.LittleEndian.Uint64(made), binary.LittleEndian.Uint64(made[128:])
			g.must(opUnlink, root, words("new"))
			g.must(opRelease, node, words(fh, uint32(0), uint32(0), uint64(0)))
			_, _ = g.call(opForget, node, words(uint64(1)))
		}
		bench("stat", stat)
		bench("open", open)
		bench("create", create)
		if o.Owners != "" {
			g.must(opSetattr, file, chown(9, 9))
			g.uid = 9
			bench("stat, remembered", stat)
			bench("create, remembered", create)
		}
	}
}
