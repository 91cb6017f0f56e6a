package erofs

import (
	"encoding/binary"
	"io"
	"io/fs"
	"strings"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// ReadFile reads a regular file of at most limit bytes from an image that a Writer
// made; fs.ErrNotExist. Symbolic links are not followed. The image is not trusted:
// what is damaged is errs.DataLoss.
func ReadFile(r io.ReaderAt, name string, limit int64) ([]byte, error) {
	var sb [32]byte
	if _, err := r.ReadAt(sb[:], superOffset+14); err != nil {
		return nil, errs.New(errs.DataLoss, "read superblock: %w", err)
	}
	le := binary.LittleEndian
	i := reading{r: r, meta: int64(le.Uint32(sb[26:])) * blockSize}
	nid := uint64(le.Uint16(sb[:]))
	for part := range strings.SplitSeq(name, "/") {
		folder, err := i.data(nid, modeDir, maxFolder)
		if err != nil {
			return nil, err
		}
		var found bool
		if nid, found = find(folder, part); !found {
			return nil, fs.ErrNotExist
		}
	}
	return i.data(nid, modeRegular, limit)
}

// maxFolder is the most bytes of a folder that are looked through.
const maxFolder = 4 << 20

type reading struct {
	r    io.ReaderAt
	meta int64 // where inodes start
}

// data reads what a file of a kind has; fs.ErrNotExist where it is of another.
func (i reading) data(nid uint64, kind uint16, limit int64) ([]byte, error) {
	at := i.meta + int64(nid)*slotSize
	var head [inodeSize]byte
	if _, err := i.r.ReadAt(head[:], at); err != nil {
		return nil, errs.New(errs.DataLoss, "read inode %d: %w", nid, err)
	}
	le := binary.LittleEndian
	format, size := le.Uint16(head[:]), int64(le.Uint64(head[8:]))
	switch {
	case le.Uint16(head[4:])&modeType != kind:
		return nil, fs.ErrNotExist
	case format != formatExtended|layoutPlain && format != formatExtended|layoutInline:
		return nil, errs.New(errs.DataLoss, "inode %d has the format %d", nid, format)
	case size < 0 || size > limit:
		return nil, errs.New(errs.ResourceExhausted, "inode %d has %d bytes, more than %d", nid, size, limit)
	}
	b, whole := make([]byte, size), size
	if format == formatExtended|layoutInline {
		whole = size / blockSize * blockSize
	}
	at += inodeSize
	if n := int64(le.Uint16(head[2:])); n > 0 { // attributes
		at += xattrHeaderSize + (n-1)*4
	}
	for _, part := range []struct {
		b  []byte
		at int64
	}{{b[:whole], int64(le.Uint32(head[16:])) * blockSize}, {b[whole:], at}} {
		if n, err := i.r.ReadAt(part.b, part.at); n < len(part.b) {
			return nil, errs.New(errs.DataLoss, "read inode %d: %w", nid, err)
		}
	}
	return b, nil
}

// find returns the inode's number of a name in a folder.
func find(folder []byte, name string) (nid uint64, found bool) {
	le := binary.LittleEndian
	for len(folder) >= direntSize {
		b := folder[:min(blockSize, len(folder))]
		folder = folder[len(b):]
		count := int(le.Uint16(b[8:])) / direntSize
		for n := range count {
			if (n+1)*direntSize > len(b) {
				return 0, false
			}
			start, end := int(le.Uint16(b[n*direntSize+8:])), len(b)
			if n+1 < count && (n+2)*direntSize <= len(b) {
				end = int(le.Uint16(b[(n+1)*direntSize+8:]))
			}
			if start <= end && end <= len(b) && strings.TrimRight(string(b[start:end]), "\x00") == name {
				return le.Uint64(b[n*direntSize:]), true
			}
		}
	}
	return 0, false
}
