//go:build linux

package qemu

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	testKey = "0123456789abcdef01234567"
	page    = 4 << 10
)

// ramWith is size bytes of RAM with data in those pages.
func ramWith(size int, pages ...int) []byte {
	ram := make([]byte, size)
	for _, p := range pages {
		for i := range page {
			ram[p*page+i] = byte(p + i | 1)
		}
	}
	return ram
}

// wholeIndex is the index of RAM that has no holes.
func wholeIndex(ram []byte) []extent { return indexRAM(ram, []span{{0, int64(len(ram))}}) }

// Of a memory file with holes the index is that of its bytes, and they stay holes.
func TestIndexLeavesHoles(t *testing.T) {
	const size = 64 << 20
	f, err := newRAM(size)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range []int64{0, 1, 5, 5000, 5001, 9000, size/page - 1} {
		if _, err := f.WriteAt(ramWith(page, 0), p*page); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.WriteAt(make([]byte, page), 12000*page); err != nil { // allocated, and zero
		t.Fatal(err)
	}
	ram, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(ram) }()
	data, err := dataOf(f, size)
	if err != nil {
		t.Fatal(err)
	}
	index := indexRAM(ram, data)
	var fi unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &fi); err != nil {
		t.Fatal(err)
	}
	if allocated := fi.Blocks * 512; allocated > 1<<20 {
		t.Errorf("%d bytes are allocated", allocated)
	}
	if whole := wholeIndex(ram); !slices.Equal(index, whole) {
		t.Errorf("index %v, of the bytes %v", index, whole)
	}
}

// save writes a template into a folder of its own, and answers its path.
func save(t testing.TB, ram, state []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), testKey+templateSuffix)
	head := header{Key: testKey, Made: time.Unix(1, 0).UTC(), CPUs: 1, Kernel: "vmlinux", QEMU: "qemu"}
	if err := writeTemplate(path, draftOf(testKey), head, ram, wholeIndex(ram), state, nil); err != nil {
		t.Fatal(err)
	}
	return path
}

// take reads a template with all the checks of a restore.
func take(path string) (ram, state []byte, index []extent, err error) {
	tpl, err := openTemplate(path, testKey)
	if err != nil {
		return nil, nil, nil, err
	}
	defer tpl.close()
	if err := tpl.checkRAM(); err != nil {
		return nil, nil, nil, err
	}
	f, err := tpl.openState()
	if err != nil {
		return nil, nil, nil, err
	}
	defer f.Close()
	if state, err = io.ReadAll(f); err != nil {
		return nil, nil, nil, err
	}
	ram = make([]byte, tpl.head.Memory)
	_, err = tpl.f.ReadAt(ram, 0)
	return ram, state, tpl.index, err
}

func TestATemplateIsReadAsItWasWritten(t *testing.T) {
	const size = 4 << 20
	last := size/page - 1
	all := make([]int, size/page)
	for i := range all {
		all[i] = i
	}
	for name, c := range map[string]struct {
		pages   []int
		extents int
	}{
		"nothing":               {nil, 0},
		"the first page":        {[]int{0}, 1},
		"the last page":         {[]int{last}, 1},
		"a gap of seven pages":  {[]int{3, 11}, 1},
		"a gap of eight pages":  {[]int{3, 12}, 2},
		"a gap up to the end":   {[]int{last - 5}, 1},
		"data, holes and gaps":  {[]int{0, 1, 5, 100, 101, 109, 118, 600, last}, 5},
		"everything":            {all, size / maxExtentLength},
		"a megabyte and a page": {all[7 : 7+maxExtentLength/page+1], 2},
	} {
		t.Run(name, func(t *testing.T) {
			ram, state := ramWith(size, c.pages...), []byte("state of the devices")
			path := save(t, ram, state)
			gotRAM, gotState, index, err := take(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(gotRAM, ram) || !bytes.Equal(gotState, state) {
				t.Error("what was read is not what was written")
			}
			if len(index) != c.extents {
				t.Errorf("%d extents, want %d: %v", len(index), c.extents, index)
			}
			fi, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			data := int64(0)
			for _, e := range index {
				data += e.length
			}
			if got, most := used(fi), data+4*page; got > most {
				t.Errorf("the file takes %d bytes, want at most %d: its holes are not", got, most)
			}
			left, err := os.ReadDir(filepath.Dir(path))
			if err != nil || len(left) != 1 {
				t.Errorf("beside the template: %v, %v", left, err)
			}
		})
	}
}

// anatomy is where the parts of a template begin.
type anatomy struct{ index, state, head, footer, size int64 }

func dissect(t testing.TB, path string) (a anatomy, h header) {
	t.Helper()
	tpl, err := openTemplate(path, testKey)
	if err != nil {
		t.Fatal(err)
	}
	defer tpl.close()
	fi, err := tpl.f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	h = tpl.head
	a.index = h.Memory
	a.state = a.index + int64(h.Extents)*extentSize
	a.head = a.state + h.State
	a.size = fi.Size()
	a.footer = a.size - int64(footerSize)
	return a, h
}

// wantFault expects that a template at path is refused for what it is.
func wantFault(t *testing.T, what, path string) {
	t.Helper()
	switch _, _, _, err := take(path); {
	case err == nil:
		t.Errorf("%s: it was taken", what)
	case !isTemplateFault(err):
		t.Errorf("%s: got %v, want a template's fault", what, err)
	}
}

// xor flips bits of the byte at an offset, in place: holes stay.
func xor(t *testing.T, path string, at int64, mask byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= mask
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

// sample is a template with data, holes and a page at the very end.
func sample(t testing.TB) string {
	const size = 1 << 20
	return save(t, ramWith(size, 0, 1, 30, 32, 100, size/page-1), []byte(strings.Repeat("state ", 20)))
}

// Every bit of what is not RAM, and of RAM those at the edges.
func TestAFlippedBitIsFound(t *testing.T) {
	path := sample(t)
	a, _ := dissect(t, path)
	for at := a.index; at < a.size; at++ {
		for bit := range 8 {
			xor(t, path, at, 1<<bit)
			wantFault(t, "a bit after the RAM", path)
			xor(t, path, at, 1<<bit)
		}
	}
	_, _, index, err := take(path)
	if err != nil {
		t.Fatalf("it was to be as before: %v", err)
	}
	edges := []int64{2 * page, a.index/2 + 17, a.index - page - 1} // in holes
	for _, e := range index {
		edges = append(edges, e.at, e.at+e.length/2, e.at+e.length-1)
		if e.at > 0 {
			edges = append(edges, e.at-1)
		}
		if e.at+e.length < a.index {
			edges = append(edges, e.at+e.length)
		}
	}
	for _, at := range edges {
		xor(t, path, at, 0x10)
		wantFault(t, "a bit of the RAM", path)
		xor(t, path, at, 0x10)
	}
	if _, _, _, err := take(path); err != nil {
		t.Errorf("zeros that are written are as good as a hole: %v", err)
	}
}

func TestATemplateOfAnotherLengthIsRefused(t *testing.T) {
	path := sample(t)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := dissect(t, path)
	put := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cuts := []int64{0, 1, 7, int64(footerSize), page - 1, page, a.index / 2}
	for at := a.index - 1; at < a.size; at++ {
		cuts = append(cuts, at)
	}
	for _, at := range cuts {
		if err := os.Truncate(path, at); err != nil {
			t.Fatal(err)
		}
		wantFault(t, "cut off", path)
		put(whole)
	}
	for what, b := range map[string][]byte{
		"a byte more":           append(slices.Clone(whole), 0),
		"a page more":           append(slices.Clone(whole), make([]byte, page)...),
		"twice":                 append(slices.Clone(whole), whole...),
		"a page more before it": append(make([]byte, page), whole...),
		"a page less of RAM":    whole[page:],
		"only what follows RAM": whole[a.index:],
		"only the footer":       whole[a.footer:],
		"the version before":    append(slices.Clone(whole[:a.size-1]), templateMagic[len(templateMagic)-1]-1),
		"the version after":     append(slices.Clone(whole[:a.size-1]), templateMagic[len(templateMagic)-1]+1),
		"zeros":                 make([]byte, a.size),
		"text":                  []byte(strings.Repeat("not a template\n", 1000)),
		"no byte":               {},
	} {
		put(b)
		wantFault(t, what, path)
	}
	put(whole)
	if _, _, _, err := take(path); err != nil {
		t.Errorf("the whole again: %v", err)
	}
	if _, err := openTemplate(path, "another"); !isTemplateFault(err) {
		t.Errorf("of another machine: got %v, want a template's fault", err)
	}
	if _, err := openTemplate(path+".none", testKey); err == nil || isTemplateFault(err) {
		t.Errorf("one that is not there: got %v, want another error", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	wantFault(t, "a folder", path)
}

// parts are those of a template, to put together what writeTemplate never would.
type parts struct {
	ram, index, state, head, tail []byte
}

// cut takes a template apart.
func cut(t testing.TB, path string) (parts, header) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	a, h := dissect(t, path)
	return parts{ram: b[:a.index], index: b[a.index:a.state], state: b[a.state:a.head], head: b[a.head:a.footer]}, h
}

// join is the file of p, with a footer that is right.
func (p parts) join() []byte {
	b := slices.Concat(p.ram, p.index, p.state, p.head)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(p.head)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(p.head, crcTable))
	return append(append(b, templateMagic...), p.tail...)
}

// sign makes h right for p as far as checksums go, and p's.
func (p *parts) sign(h header) error {
	h.IndexCRC, h.StateCRC = crc32.Checksum(p.index, crcTable), crc32.Checksum(p.state, crcTable)
	var err error
	p.head, err = json.Marshal(h)
	return err
}

func encodeIndex(extents ...extent) []byte {
	var b []byte
	for _, e := range extents {
		b = binary.LittleEndian.AppendUint64(b, uint64(e.at))
		b = binary.LittleEndian.AppendUint64(b, uint64(e.length))
		b = binary.LittleEndian.AppendUint32(b, e.crc)
	}
	return b
}

// What has the right checksums, and makes no sense.
func TestAForgedTemplateIsRefused(t *testing.T) {
	path := sample(t)
	whole, _ := cut(t, path)
	_, _, index, err := take(path)
	if err != nil {
		t.Fatal(err)
	}
	memory := int64(len(whole.ram))
	for what, forge := range map[string]func(p *parts, h *header, index []extent) []extent{
		"RAM of no bytes":         func(_ *parts, h *header, x []extent) []extent { h.Memory = 0; return x },
		"RAM of less than none":   func(_ *parts, h *header, x []extent) []extent { h.Memory = -memory; return x },
		"RAM of the least number": func(_ *parts, h *header, x []extent) []extent { h.Memory = math.MinInt64; return x },
		"RAM of most bytes":       func(_ *parts, h *header, x []extent) []extent { h.Memory = math.MaxInt64 &^ (page - 1); return x },
		"RAM of many bytes":       func(_ *parts, h *header, x []extent) []extent { h.Memory = 1 << 50; return x },
		"RAM and a half page":     func(_ *parts, h *header, x []extent) []extent { h.Memory += page / 2; return x },
		"a page less of RAM":      func(_ *parts, h *header, x []extent) []extent { h.Memory -= page; return x },
		"most extents":            func(_ *parts, h *header, x []extent) []extent { h.Extents = math.MaxInt; return x },
		"extents by overflow":     func(_ *parts, h *header, x []extent) []extent { h.Extents += math.MaxInt/extentSize + 1; return x },
		"less than no extents":    func(_ *parts, h *header, x []extent) []extent { h.Extents = -1; return x },
		"no extents":              func(_ *parts, h *header, x []extent) []extent { h.Extents = 0; return x },
		"as many as there are pages": func(_ *parts, h *header, x []extent) []extent {
			h.Extents = int(memory / page)
			return x
		},
		"state of no bytes":       func(p *parts, h *header, x []extent) []extent { p.state, h.State = nil, 0; return x },
		"state of less than none": func(_ *parts, h *header, x []extent) []extent { h.State = -1; return x },
		"state of most bytes":     func(_ *parts, h *header, x []extent) []extent { h.State = math.MaxInt64; return x },
		"too much state": func(p *parts, h *header, x []extent) []extent {
			p.state, h.State = make([]byte, maxState+1), maxState+1
			return x
		},
		"data of less than none": func(_ *parts, h *header, x []extent) []extent { h.Data = -1; return x },
		"more data than RAM":     func(_ *parts, h *header, x []extent) []extent { h.Data = memory + 1; return x },
		"another sum of data":    func(_ *parts, h *header, x []extent) []extent { h.Data++; return x },
		"another machine's":      func(_ *parts, h *header, x []extent) []extent { h.Key = "another"; return x },

		"an extent twice":      func(_ *parts, h *header, x []extent) []extent { return append(x[:1:1], x...) },
		"extents turned round": func(_ *parts, _ *header, x []extent) []extent { slices.Reverse(x); return x },
		"extents that overlap": func(_ *parts, _ *header, x []extent) []extent { x[1].at = x[0].at + x[0].length - 1; return x },
		"an extent that is missing": func(_ *parts, h *header, x []extent) []extent {
			h.Data -= x[1].length
			return slices.Delete(x, 1, 2)
		},
		"an extent of no bytes":        func(_ *parts, h *header, x []extent) []extent { h.Data -= x[0].length; x[0].length = 0; return x },
		"an extent of less than none":  func(_ *parts, _ *header, x []extent) []extent { x[0].length = -page; return x },
		"an extent of too many bytes":  func(_ *parts, h *header, _ []extent) []extent { return []extent{{0, maxExtentLength + page, 0}} },
		"an extent beyond RAM":         func(_ *parts, _ *header, x []extent) []extent { x[len(x)-1].at = memory; return x },
		"an extent over the end":       func(_ *parts, _ *header, x []extent) []extent { x[len(x)-1].at++; return x },
		"an extent before RAM":         func(_ *parts, _ *header, x []extent) []extent { x[0].at = -page; return x },
		"an extent at the last number": func(_ *parts, _ *header, x []extent) []extent { x[len(x)-1].at = math.MaxInt64; return x },
		"half an extent": func(p *parts, _ *header, x []extent) []extent {
			p.tail = nil
			p.index = p.index[:extentSize/2]
			return nil
		},
	} {
		t.Run(what, func(t *testing.T) {
			p, h := cut(t, path)
			out := filepath.Join(t.TempDir(), "forged")
			extents := h.Extents
			x := forge(&p, &h, slices.Clone(index))
			if x != nil {
				p.index = encodeIndex(x...)
			}
			if h.Extents == extents { // not forged itself
				h.Extents = len(p.index) / extentSize
			}
			if err := p.sign(h); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(out, p.join(), 0o600); err != nil {
				t.Fatal(err)
			}
			wantFault(t, what, out)
		})
	}
	for what, head := range map[string]string{
		"no header": "", "null": "null", "a list": "[]", "half of one": `{"key":"` + testKey + `"`, "other types": `{"memory":"1"}`,
		"a fraction": `{"memory":1.5}`, "a number too large": `{"memory":99999999999999999999}`, "too long": `{"key":"` + strings.Repeat("x", maxHeader) + `"}`,
	} {
		p := whole
		p.head = []byte(head)
		if err := os.WriteFile(path, p.join(), 0o600); err != nil {
			t.Fatal(err)
		}
		wantFault(t, "a header that is "+what, path)
	}
}

// A few bytes on disk may say that they are a large file: what is taken of
// memory to read them has a bound.
func TestAnIndexOfAHugeFileIsNotRead(t *testing.T) {
	const memory, extents = 1 << 42, 1 << 27
	path := filepath.Join(t.TempDir(), "huge")
	p := parts{state: []byte("s")}
	if err := p.sign(header{Key: testKey, Memory: memory, Extents: extents, State: 1}); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(p.join(), memory+extents*extentSize); err != nil {
		t.Skipf("no files of this size here: %v", err)
	}
	_, err = openTemplate(path, testKey)
	if !isTemplateFault(err) || !strings.Contains(err.Error(), "makes no sense") {
		t.Errorf("an index of 2.5 GiB: got %v, want that its header makes no sense", err)
	}
}

func TestARAMOfTooManyPiecesIsNotSaved(t *testing.T) {
	head := header{Key: testKey}
	if _, err := encodeTrailer(head, make([]extent, maxExtents+1), 1<<40, []byte("s"), nil); err == nil {
		t.Error("it was encoded, and could not be read")
	}
	if _, err := encodeTrailer(head, make([]extent, maxExtents), 1<<40, []byte("s"), nil); err != nil {
		t.Error(err)
	}
}
