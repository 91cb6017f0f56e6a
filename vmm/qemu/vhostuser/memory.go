//go:build linux

package vhostuser

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

const (
	// maxRegions is how many regions a table has at most without
	// CONFIGURE_MEM_SLOTS: vhost-user.rst, "Memory regions description".
	maxRegions = 8
	// maxRegion bounds size and offset of a region, so that no sum of two of
	// them overflows, in uint64 or in int.
	maxRegion = math.MaxInt >> 2
)

// region is one mapped piece of guest memory.
type region struct {
	gpa, uva, size uint64 // guest physical and front-end virtual address; bytes
	ram            []byte // size bytes; ram[0] is at gpa
	mapping        []byte // what was mapped for it, page aligned; nil: not ours
}

// memory is an immutable table of regions, ordered by guest physical address.
// The server's lock guards refs: one is the server's, one each detached
// request's. The last to go unmaps it.
type memory struct {
	regions []region
	refs    int
}

// regionMessage is a region as SET_MEM_TABLE describes it.
type regionMessage struct{ gpa, size, uva, offset uint64 }

// parseRegions decodes the payload of SET_MEM_TABLE.
func parseRegions(m *message) ([]regionMessage, error) {
	if err := m.need(8); err != nil {
		return nil, err
	}
	n := le.Uint32(m.payload)
	if n == 0 || n > maxRegions || int(n) != len(m.fds) {
		return nil, errs.New(errs.InvalidArgument, "memory table of %d regions and %d descriptors", n, len(m.fds))
	}
	if err := m.need(8 + 32*int(n)); err != nil {
		return nil, err
	}
	regions := make([]regionMessage, n)
	for i := range regions {
		p := m.payload[8+32*i:]
		regions[i] = regionMessage{le.Uint64(p), le.Uint64(p[8:]), le.Uint64(p[16:]), le.Uint64(p[24:])}
	}
	return regions, nil
}

// mapMemory maps the regions of a table; fds stay the caller's. With sealed it
// refuses files that could be shrunk under the mapping.
func mapMemory(regions []regionMessage, fds []int, sealed bool) (_ *memory, err error) {
	m := &memory{refs: 1}
	defer func() {
		if err != nil {
			m.release()
		}
	}()
	for i, r := range regions {
		mapped, err := mapRegion(r, fds[i], sealed)
		if err != nil {
			return nil, fmt.Errorf("map memory region %d: %w", i, err)
		}
		m.regions = append(m.regions, mapped)
	}
	slices.SortFunc(m.regions, func(a, b region) int { return cmp.Compare(a.gpa, b.gpa) })
	for i := 1; i < len(m.regions); i++ {
		if before := &m.regions[i-1]; before.gpa+before.size > m.regions[i].gpa {
			return nil, errs.New(errs.InvalidArgument, "memory regions at %#x and %#x overlap", before.gpa, m.regions[i].gpa)
		}
	}
	return m, nil
}

func mapRegion(r regionMessage, fd int, sealed bool) (region, error) {
	if r.size == 0 || r.size > maxRegion || r.offset > maxRegion || r.gpa+r.size < r.gpa || r.uva+r.size < r.uva {
		return region{}, errs.New(errs.InvalidArgument, "%d bytes at %#x, offset %d", r.size, r.gpa, r.offset)
	}
	if err := checkFile(fd, r.offset+r.size, sealed); err != nil {
		return region{}, err
	}
	page := pageSize(fd)
	start := r.offset &^ (page - 1)
	lead := r.offset - start
	length := (lead + r.size + page - 1) &^ (page - 1)
	mapping, err := unix.Mmap(fd, int64(start), int(length),
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return region{}, fmt.Errorf("mmap: %w", err)
	}
	end := lead + r.size
	return region{gpa: r.gpa, uva: r.uva, size: r.size, ram: mapping[lead:end:end], mapping: mapping}, nil
}

// checkFile refuses a file that has less than size bytes, or may have less
// later: an access beyond its end is a SIGBUS.
func checkFile(fd int, size uint64, sealed bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size < 0 || uint64(st.Size) < size {
		return errs.New(errs.InvalidArgument, "region ends at %d, its file at %d", size, st.Size)
	}
	if !sealed {
		return nil
	}
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil {
		return errs.As(errs.PermissionDenied, fmt.Errorf("read seals: %w", err))
	}
	if seals&unix.F_SEAL_SHRINK == 0 {
		return errs.New(errs.PermissionDenied, "memory file is not sealed against shrinking (seals %#x)", seals)
	}
	return nil
}

// pageSize answers the size in bytes of the pages that back fd.
func pageSize(fd int) uint64 {
	page := uint64(os.Getpagesize())
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil || int64(st.Type) != unix.HUGETLBFS_MAGIC {
		return page
	}
	if huge := uint64(st.Bsize); huge > page && huge&(huge-1) == 0 && huge <= 1<<34 {
		return huge
	}
	return page
}

// release gives one reference up. The server's lock is held.
func (m *memory) release() {
	if m.refs--; m.refs > 0 {
		return
	}
	for _, r := range m.regions {
		if r.mapping != nil {
			_ = unix.Munmap(r.mapping) // it was mapped like this: it cannot fail
		}
	}
	m.regions = nil
}

// appendRange adds to pieces the slices that make up n bytes at gpa, or answers
// false if a part of them is not memory.
func (m *memory) appendRange(pieces [][]byte, gpa uint64, n uint32) ([][]byte, bool) {
	for left := uint64(n); left > 0; {
		r := m.at(gpa)
		if r == nil {
			return pieces, false
		}
		off := gpa - r.gpa
		k := min(left, r.size-off)
		pieces = append(pieces, r.ram[off:off+k:off+k])
		gpa += k
		left -= k
	}
	return pieces, true
}

// at answers the region that holds the byte at gpa, or nil.
func (m *memory) at(gpa uint64) *region {
	for i := range m.regions {
		if r := &m.regions[i]; gpa >= r.gpa && gpa-r.gpa < r.size {
			return r
		}
	}
	return nil
}

// physical answers the n bytes at a guest physical address if they lie in one
// region, otherwise nil.
func (m *memory) physical(gpa, n uint64) []byte {
	r := m.at(gpa)
	if r == nil {
		return nil
	}
	return r.slice(gpa-r.gpa, n)
}

// virtual does the same for an address in the front end's space. Rings have
// such addresses, descriptors have physical ones.
func (m *memory) virtual(uva, n uint64) []byte {
	for i := range m.regions {
		if r := &m.regions[i]; uva >= r.uva && uva-r.uva < r.size {
			return r.slice(uva-r.uva, n)
		}
	}
	return nil
}

// slice answers n bytes from off < r.size, or nil where the region ends before.
func (r *region) slice(off, n uint64) []byte {
	if n > r.size-off {
		return nil
	}
	return r.ram[off : off+n : off+n]
}
