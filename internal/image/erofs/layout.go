package erofs

import (
	"encoding/binary"
	"slices"
	"strings"
)

// Constants of fs/erofs/erofs_fs.h, for the features used here.
const (
	blockSize   = 4096
	slotSize    = 32 // an inode's number counts slots from the metadata's start
	inodeSize   = 64 // struct erofs_inode_extended
	superOffset = 1024
	direntSize  = 12 // struct erofs_dirent
	magic       = 0xE0F5E1E2
	maxBlocks   = 1<<32 - 1

	compatChecksum = 1
	compatMtime    = 2

	formatExtended = 1
	layoutPlain    = 0 << 1
	layoutInline   = 2 << 1

	// maxTail is the longest tail that is put beside its inode. Longer ones
	// would leave more of a metadata block unused than they save.
	maxTail = blockSize / 2
)

// The file types of a mode, and what directories say for them.
const (
	modeType    = 0o170000
	modeRegular = 0o100000
	modeDir     = 0o040000
	modeSymlink = 0o120000
	modeChar    = 0o020000
	modeBlock   = 0o060000
	modeFifo    = 0o010000
)

func direntType(mode uint16) byte {
	switch mode & modeType {
	case modeRegular:
		return 1
	case modeDir:
		return 2
	case modeChar:
		return 3
	case modeBlock:
		return 4
	case modeFifo:
		return 5
	case modeSymlink:
		return 7
	}
	return 0
}

// inode is one file. Names are in the folders that hold it.
type inode struct {
	mode     uint16
	uid, gid uint32
	mtime    int64 // seconds
	mtimeNS  uint32
	rdev     uint32
	nlink    uint32 // set by place
	size     uint64
	xattrs   []byte // encoded, with its header; nil for none

	block  uint32 // where the data outside the inode starts
	inline bool   // the last part of the data is beside the inode
	tail   []byte // that part
	target string // of a symbolic link

	dir *directory // of a folder only
	nid uint64     // set by place; 0 until then
}

// inlineData is what follows the inode and its attributes.
func (n *inode) inlineData() []byte {
	switch {
	case !n.inline:
		return nil
	case n.mode&modeType == modeSymlink:
		return []byte(n.target)
	}
	return n.tail
}

// fitsInline says whether the part of n's data that fills no block goes beside
// the inode. The kernel wants inode, attributes and such data in one block
// (erofs_map_blocks_flatmode, erofs_fill_symlink).
func (n *inode) fitsInline() bool {
	tail := n.size % blockSize
	return tail > 0 && tail <= maxTail && inodeSize+uint64(len(n.xattrs))+tail <= blockSize
}

// metaSize is the number of bytes n takes in the metadata area.
func (n *inode) metaSize() uint64 {
	s := uint64(inodeSize + len(n.xattrs))
	if n.inline {
		s += n.size % blockSize
	}
	return s
}

// encode writes the inode itself; ino is what 32-bit stat answers.
func (n *inode) encode(b *[inodeSize]byte, ino uint32) {
	clear(b[:])
	le := binary.LittleEndian
	format := uint16(formatExtended | layoutPlain)
	if n.inline {
		format = formatExtended | layoutInline
	}
	le.PutUint16(b[0:], format)
	if len(n.xattrs) > 0 {
		le.PutUint16(b[2:], uint16((len(n.xattrs)-xattrHeaderSize)/4+1))
	}
	le.PutUint16(b[4:], n.mode)
	le.PutUint64(b[8:], n.size)
	union := n.block
	if t := n.mode & modeType; t == modeChar || t == modeBlock {
		union = n.rdev
	}
	le.PutUint32(b[16:], union)
	le.PutUint32(b[20:], ino)
	le.PutUint32(b[24:], n.uid)
	le.PutUint32(b[28:], n.gid)
	le.PutUint64(b[32:], uint64(n.mtime))
	le.PutUint32(b[40:], n.mtimeNS)
	le.PutUint32(b[44:], n.nlink)
}

// superblock answers the block that starts the image. The volume has no id and
// no build time: both would differ between equal inputs.
func superblock(root uint64, inodes int, metaBlock, blocks int64) []byte {
	b := make([]byte, blockSize)
	sb := b[superOffset:]
	le := binary.LittleEndian
	le.PutUint32(sb[0:], magic)
	le.PutUint32(sb[8:], compatChecksum|compatMtime)
	sb[12] = 12 // log2 of blockSize
	le.PutUint16(sb[14:], uint16(root))
	le.PutUint64(sb[16:], uint64(inodes))
	le.PutUint32(sb[36:], uint32(blocks))
	le.PutUint32(sb[40:], uint32(metaBlock))
	le.PutUint32(sb[4:], checksum(sb))
	return b
}

type dirent struct {
	name string
	node *inode
}

// dirents lists a folder in the order that the kernel's binary search needs.
func (n *inode) dirents() []dirent {
	l := make([]dirent, 0, len(n.dir.kids)+2)
	l = append(l, dirent{".", n}, dirent{"..", n.dir.parent})
	for name, e := range n.dir.kids {
		l = append(l, dirent{name, e.node})
	}
	slices.SortFunc(l, func(a, b dirent) int { return strings.Compare(a.name, b.name) })
	return l
}

// direntBlock answers how many entries of l fit a block, and their bytes.
func direntBlock(l []dirent) (count, size int) {
	for _, e := range l {
		need := direntSize + len(e.name)
		if size+need > blockSize {
			break
		}
		count, size = count+1, size+need
	}
	return count, size
}

// dirSize is the byte size of a folder of these entries: whole blocks, and what
// the last one uses.
func dirSize(l []dirent) (size uint64) {
	for len(l) > 0 {
		n, used := direntBlock(l)
		if l = l[n:]; len(l) > 0 {
			used = blockSize
		}
		size += uint64(used)
	}
	return size
}

// encodeDir answers the folder's data: in each block first its entries, then
// their names, without terminators.
func (n *inode) encodeDir() []byte {
	out := make([]byte, 0, n.size)
	le := binary.LittleEndian
	for l := n.dirents(); len(l) > 0; {
		count, used := direntBlock(l)
		nameOff := direntSize * count
		for _, e := range l[:count] {
			out = le.AppendUint64(out, e.node.nid)
			out = le.AppendUint16(out, uint16(nameOff))
			out = append(out, direntType(e.node.mode), 0)
			nameOff += len(e.name)
		}
		for _, e := range l[:count] {
			out = append(out, e.name...)
		}
		if l = l[count:]; len(l) > 0 {
			out = append(out, make([]byte, blockSize-used)...)
		}
	}
	return out
}

// place gives every inode that is reachable its number and its link count,
// breadth first, and answers them in order; dirs are the folders among them.
func (t *tree) place() (inodes, dirs []*inode) {
	// Slot 0 stays empty: programs take file number 0 for "no file".
	pos := uint64(slotSize)
	queue := []*inode{t.root}
	for i := 0; i < len(queue); i++ {
		n := queue[i]
		if n.nid != 0 {
			continue
		}
		if n.dir != nil {
			l := n.dirents()
			n.size, n.nlink = dirSize(l), 2
			n.inline = n.fitsInline()
			dirs = append(dirs, n)
			for _, e := range l {
				switch {
				case e.name == "." || e.name == "..":
					continue
				case e.node.dir != nil:
					n.nlink++
				default:
					e.node.nlink++
				}
				queue = append(queue, e.node)
			}
		}
		size := n.metaSize()
		if pos%blockSize+size > blockSize {
			pos = (pos + blockSize - 1) / blockSize * blockSize
		}
		n.nid = pos / slotSize
		pos = (pos + size + slotSize - 1) / slotSize * slotSize
		inodes = append(inodes, n)
	}
	return inodes, dirs
}
