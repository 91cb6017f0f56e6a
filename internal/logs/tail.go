package logs

import (
	"bytes"
	"fmt"
	"os"
)

// place puts the cursor where the reading begins.
func (r *Reader) place() error {
	ns, err := segments(r.cur.dir)
	if err != nil {
		return err
	}
	if r.o.Tail < 0 {
		return r.placeSince(ns)
	}
	t := tail{o: &r.o, left: r.o.Tail, seen: map[streamKey]bool{}}
	for i := len(ns) - 1; i >= 0; i-- {
		off, found, err := t.file(segmentPath(r.cur.dir, ns[i]))
		if os.IsNotExist(err) {
			break // rotated away: what is left begins behind it
		}
		if err != nil {
			return fmt.Errorf("read log backwards: %w", err)
		}
		if found {
			return r.cur.start(ns[i], off)
		}
	}
	return nil
}

// placeSince passes over files that were last written before Since.
func (r *Reader) placeSince(ns []int) error {
	first := 0
	for _, n := range ns {
		info, err := os.Stat(segmentPath(r.cur.dir, n))
		if err != nil || r.o.Since.IsZero() || !info.ModTime().Before(r.o.Since) {
			break
		}
		first = n
	}
	if first == 0 {
		return nil
	}
	// The last of them stays the place: more may be written to it.
	info, err := os.Stat(segmentPath(r.cur.dir, first))
	if err != nil {
		return nil
	}
	end := info.Size()
	if f, err := os.Open(segmentPath(r.cur.dir, first)); err == nil {
		end, err = lastNewline(f, end)
		f.Close()
		if err != nil {
			return fmt.Errorf("read log backwards: %w", err)
		}
	}
	return r.cur.start(first, end)
}

// start places the cursor at off of file n, which may be gone by now.
func (c *cursor) start(n int, off int64) error {
	f, err := os.Open(segmentPath(c.dir, n))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open log file: %w", err)
	}
	c.f, c.number, c.off = f, n, off
	return nil
}

type streamKey struct {
	stream string
	boot   int
}

// tail counts lines from the end. A line is counted at its last piece: one that
// is not partial, or the last there is of its stream.
type tail struct {
	o    *ReadOptions
	left int
	seen map[streamKey]bool
}

// maxStreams bounds seen, which a damaged file could fill.
const maxStreams = 1024

// line reports whether the reading begins behind this line.
func (t *tail) line(line []byte) bool {
	r, err := decode(line)
	if err != nil || !t.o.match(&r) {
		return false
	}
	key := streamKey{r.Stream, r.Boot}
	ends := !r.Partial || !t.seen[key]
	if len(t.seen) < maxStreams {
		t.seen[key] = true
	}
	if !ends {
		return false
	}
	t.left--
	return t.left < 0
}

// file goes back through one file, a block at a time. It answers the offset to
// begin at, where that is in this file.
func (t *tail) file(path string) (off int64, found bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, false, err
	}
	// A torn last line is not there yet.
	at, err := lastNewline(f, info.Size())
	if err != nil || at == 0 {
		return 0, false, err
	}
	var rest []byte // of a line whose begin is before at; without its newline
	block := make([]byte, backBlock)
	end := at - 1 // the newline that ends the line under way
	at = end
	for {
		n := min(at, backBlock)
		if _, err := f.ReadAt(block[:n], at-n); err != nil {
			return 0, false, err
		}
		at -= n
		part := block[:n]
		for {
			i := bytes.LastIndexByte(part, '\n')
			if i < 0 {
				break
			}
			if t.line(append(part[i+1:len(part):len(part)], rest...)) {
				return end + 1, true, nil
			}
			rest = rest[:0]
			end = at + int64(i)
			part = part[:i]
		}
		if len(rest)+len(part) > maxLine {
			rest = rest[:0] // no record: its begin will not decode
		}
		rest = append(bytes.Clone(part), rest...)
		if at == 0 {
			if t.line(rest) {
				return end + 1, true, nil
			}
			return 0, false, nil
		}
	}
}
