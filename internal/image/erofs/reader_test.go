package erofs

import (
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// reader is an independent reading of the format, for the tests: it trusts
// nothing the writer keeps in memory, only the bytes.
type reader struct {
	b    []byte
	meta uint64
	root uint64
}

type rnode struct {
	nid       uint64
	mode      uint16
	uid, gid  uint32
	mtime     int64
	mtimeNS   uint32
	nlink     uint32
	rdev      uint32
	data      []byte
	xattrs    map[string]string
	inline    bool
	blockAddr uint32
}

func openReader(b []byte) (*reader, error) {
	if len(b)%4096 != 0 || len(b) < 8192 {
		return nil, fmt.Errorf("size %d", len(b))
	}
	le := binary.LittleEndian
	sb := b[1024:]
	if le.Uint32(sb) != 0xE0F5E1E2 || sb[12] != 12 {
		return nil, fmt.Errorf("superblock")
	}
	if got := int(le.Uint32(sb[36:])) * 4096; got != len(b) {
		return nil, fmt.Errorf("superblock says %d bytes, there are %d", got, len(b))
	}
	return &reader{b: b, meta: uint64(le.Uint32(sb[40:])) * 4096, root: uint64(le.Uint16(sb[14:]))}, nil
}

func (r *reader) node(nid uint64) (n rnode, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("inode %d: %v", nid, p)
		}
	}()
	le := binary.LittleEndian
	at := r.meta + nid*32
	h := r.b[at : at+64]
	format := le.Uint16(h)
	if format&1 != 1 {
		return n, fmt.Errorf("compact inode")
	}
	n = rnode{nid: nid, mode: le.Uint16(h[4:]), uid: le.Uint32(h[24:]), gid: le.Uint32(h[28:]),
		mtime: int64(le.Uint64(h[32:])), mtimeNS: le.Uint32(h[40:]), nlink: le.Uint32(h[44:])}
	size := le.Uint64(h[8:])
	at += 64
	if c := uint64(le.Uint16(h[2:])); c > 0 {
		end := at + 12 + (c-1)*4
		n.xattrs = r.xattrs(r.b[at+12 : end])
		at = end
	}
	switch n.mode & 0o170000 {
	case 0o020000, 0o060000:
		n.rdev = le.Uint32(h[16:])
		return n, nil
	case 0o010000:
		return n, nil
	}
	n.blockAddr = le.Uint32(h[16:])
	start := uint64(n.blockAddr) * 4096
	switch format >> 1 {
	case 0:
		n.data = r.b[start : start+size]
	case 2:
		n.inline = true
		whole := size / 4096 * 4096
		if at%4096+size-whole > 4096 {
			return n, fmt.Errorf("inode %d: inline data crosses a block", nid)
		}
		n.data = slices.Concat(r.b[start:start+whole], r.b[at:at+size-whole])
	default:
		return n, fmt.Errorf("layout %d", format>>1)
	}
	return n, nil
}

func (r *reader) xattrs(b []byte) map[string]string {
	prefix := map[byte]string{1: "user.", 2: "system.posix_acl_access", 3: "system.posix_acl_default", 4: "trusted.", 6: "security."}
	m := map[string]string{}
	for len(b) >= 4 {
		nl, vl := int(b[0]), int(binary.LittleEndian.Uint16(b[2:]))
		m[prefix[b[1]]+string(b[4:4+nl])] = string(b[4+nl : 4+nl+vl])
		b = b[min(len(b), (4+nl+vl+3)/4*4):]
	}
	return m
}

// list answers a folder's entries in the order they are stored.
func (r *reader) list(n rnode) (names []string, nids []uint64, err error) {
	le := binary.LittleEndian
	for data := n.data; len(data) > 0; {
		b := data[:min(4096, len(data))]
		data = data[len(b):]
		count := int(le.Uint16(b[8:])) / 12
		for i := range count {
			e := b[12*i:]
			start, end := int(le.Uint16(e[8:])), len(b)
			if i+1 < count {
				end = int(le.Uint16(e[12+8:]))
			}
			name := strings.TrimRight(string(b[start:end]), "\x00")
			kid, err := r.node(le.Uint64(e))
			if err != nil {
				return nil, nil, err
			}
			if want := direntType(kid.mode); e[10] != want {
				return nil, nil, fmt.Errorf("%s: type %d in the folder, %d in the inode", name, e[10], want)
			}
			names, nids = append(names, name), append(nids, le.Uint64(e))
		}
	}
	if !slices.IsSorted(names) {
		return nil, nil, fmt.Errorf("names are not sorted: %q", names)
	}
	return names, nids, nil
}

// walk answers every path of the image, "/" first, and checks link counts,
// parents and order on the way.
func (r *reader) walk() (map[string]rnode, error) {
	all := map[string]rnode{}
	links := map[uint64]uint32{}
	var visit func(p string, nid, parent uint64) error
	visit = func(p string, nid, parent uint64) error {
		n, err := r.node(nid)
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		all[p] = n
		links[nid]++
		if n.mode&0o170000 != 0o040000 {
			return nil
		}
		names, nids, err := r.list(n)
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		subdirs := uint32(0)
		for i, name := range names {
			switch name {
			case ".":
				if nids[i] != nid {
					return fmt.Errorf("%s: . is %d", p, nids[i])
				}
			case "..":
				if nids[i] != parent {
					return fmt.Errorf("%s: .. is %d", p, nids[i])
				}
			default:
				if err := visit(path.Join(p, name), nids[i], nid); err != nil {
					return err
				}
				if all[path.Join(p, name)].mode&0o170000 == 0o040000 {
					subdirs++
				}
			}
		}
		if n.nlink != 2+subdirs {
			return fmt.Errorf("%s: %d links, %d folders", p, n.nlink, subdirs)
		}
		return nil
	}
	if err := visit("/", r.root, r.root); err != nil {
		return nil, err
	}
	for p, n := range all {
		if n.mode&0o170000 != 0o040000 && n.nlink != links[n.nid] {
			return nil, fmt.Errorf("%s: %d links, %d names", p, n.nlink, links[n.nid])
		}
	}
	return all, nil
}

// lines prints the tree, one line a path, for comparison.
func lines(all map[string]rnode) []string {
	var out []string
	for _, p := range slices.Sorted(maps.Keys(all)) {
		n := all[p]
		kind := map[uint16]string{0o100000: "f", 0o040000: "d", 0o120000: "l", 0o020000: "c", 0o060000: "b", 0o010000: "p"}[n.mode&0o170000]
		s := fmt.Sprintf("%s %s %o", kind, p, n.mode&0o7777)
		switch kind {
		case "f":
			s += " " + short(n.data)
		case "l":
			s += " -> " + string(n.data)
		case "c", "b":
			s += fmt.Sprintf(" %d:%d", n.rdev>>8&0xfff, n.rdev&0xff|n.rdev>>12&0xfff00)
		}
		if kind != "d" && n.nlink > 1 {
			s += fmt.Sprintf(" links=%d", n.nlink)
		}
		out = append(out, s)
	}
	return out
}

func short(b []byte) string {
	if len(b) > 16 {
		return fmt.Sprintf("%d bytes", len(b))
	}
	return fmt.Sprintf("%q", b)
}

// image builds an image of the layers and answers its bytes.
func image(t testing.TB, limits Limits, layers ...[]byte) ([]byte, error) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := NewWriter(f, limits)
	for i, l := range layers {
		if err := w.AddLayer(t.Context(), fmt.Sprintf("layer %d", i+1), strings.NewReader(string(l))); err != nil {
			return nil, err
		}
	}
	st, err := w.Finish(t.Context())
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.NewSectionReader(f, 0, st.Size+1))
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(b)) != st.Size {
		t.Fatalf("%d bytes, Finish said %d", len(b), st.Size)
	}
	if err := Check(f, st.Size); err != nil {
		t.Fatal(err)
	}
	return b, nil
}

func mustWalk(t testing.TB, b []byte) map[string]rnode {
	t.Helper()
	r, err := openReader(b)
	if err != nil {
		t.Fatal(err)
	}
	all, err := r.walk()
	if err != nil {
		t.Fatal(err)
	}
	return all
}
