//go:build linux

package qemu

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"
)

// maxFuzzedRAM bounds what a fuzzed template has of RAM, in bytes.
const maxFuzzedRAM = 64 << 10

// FuzzTemplate puts parts together to a file, with a footer that is right, and
// reads it as a restore does. With mend, the header's checksums are right too.
// What is taken has nothing but its extents, and can be written again.
func FuzzTemplate(f *testing.F) {
	for _, pages := range [][]int{nil, {0}, {3}, {0, 2}, {0, 1, 3}} {
		p, h := cut(f, save(f, ramWith(4*page, pages...), []byte("state")))
		for _, mend := range []bool{false, true} {
			f.Add(p.ram, p.index, p.state, p.head, []byte(nil), mend)
			f.Add(p.ram, p.index, p.state, p.head, []byte("x"), mend)
			f.Add(p.ram, append(p.index, p.index...), p.state, p.head, []byte(nil), mend)
			f.Add(p.ram, encodeIndex(extent{page, 2 * page, 0}, extent{2 * page, page, 0}), p.state, p.head, []byte(nil), mend)
		}
		h.Memory, h.Extents, h.State = -1, 1<<62, -1
		if err := p.sign(h); err != nil {
			f.Fatal(err)
		}
		f.Add(p.ram, p.index, p.state, p.head, []byte(nil), false)
	}
	f.Fuzz(func(t *testing.T, ram, index, state, head, tail []byte, mend bool) {
		if len(ram) > maxFuzzedRAM {
			return
		}
		p := parts{ram, index, state, head, tail}
		var h header
		if mend && json.Unmarshal(head, &h) == nil {
			if err := p.sign(h); err != nil {
				t.Fatal(err)
			}
		}
		file, err := memoryFile("template")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := file.Write(p.join()); err != nil {
			t.Fatal(err)
		}
		gotRAM, gotState, extents, err := take(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
		if err != nil {
			if !isTemplateFault(err) {
				t.Fatalf("not a template's fault: %v", err)
			}
			return
		}
		at := int64(0)
		for _, e := range extents {
			if !allZero(gotRAM[at:e.at]) {
				t.Fatalf("RAM before %#x that no extent has", e.at)
			}
			at = e.at + e.length
		}
		if !allZero(gotRAM[at:]) {
			t.Fatalf("RAM after %#x that no extent has", at)
		}
		againRAM, againState, _, err := take(save(t, gotRAM, gotState))
		if err != nil || !bytes.Equal(againRAM, gotRAM) || !bytes.Equal(againState, gotState) {
			t.Fatalf("written again it is another: %v", err)
		}
	})
}
