//go:build linux

package share

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/durable"
)

// The layout of a table: levels of buckets of slots. The bucket of a file in each
// level follows from its identity, and the file is in any slot of those. A level is
// there when the file is longer than its offset; the next one begins when a bucket is
// full in all levels before. So nothing is ever moved, and a slot is changed by one
// write, which other processes see whole or recognise as torn.
const (
	slotSize    = 64
	bucketSlots = 8
	bucketSize  = slotSize * bucketSlots
	levels      = 6
	firstLevel  = 128 // buckets; each level has four times as many as the one before
)

// table remembers what the host's filesystem cannot hold without root: owners, modes
// and device numbers of a folder's files as the container set them. Processes that
// share the folder have the table's file open at a time. A nil table is empty and
// remembers nothing.
type table struct {
	f   *os.File
	dev uint64 // the folder's filesystem, whose number may be another after a reboot

	levels int // that there may be

	mu     sync.Mutex  // held with the lock on the file, which is for other tables
	syncMu sync.Mutex  // held while a sync is under way
	dirty  atomic.Bool // there is something to sync
}

// inode tells a file from all others that there are or were on the host.
type inode struct {
	dev, ino uint64
	birth    uint64 // nanoseconds; 0 where the filesystem does not tell
}

// record is what a table has of a file.
type record struct {
	uid, gid uint32
	mode     uint32 // with S_IFMT, and the bits that the host's file has not
	host     uint32 // permission bits of the host's file when mode was set
	rdev     uint32
}

// openTable opens the table of a folder in dir, and creates it unless readOnly. A nil
// table without an error means that there is none to read.
func openTable(dir, folder string, st *status, readOnly bool) (*table, error) {
	path := filepath.Join(dir, tableName(folder, st))
	flags := os.O_RDWR
	if !readOnly {
		flags |= os.O_CREATE
		if err := durable.MkdirAll(dir); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(path, flags|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		if readOnly && os.IsNotExist(err) {
			return nil, nil
		}
		return nil, err
	}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		_ = f.Close() // nothing was written
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	t := &table{f: f, dev: st.Dev, levels: levels}
	now := time.Now()
	err = errors.Join(t.lock(unix.F_RDLCK, useByte), os.Chtimes(path, now, now), durable.SyncDir(dir))
	if errors.Is(err, fs.ErrNotExist) { // it was old, and another share has just removed it
		_ = f.Close() // nothing was written
		return openTable(dir, folder, st, readOnly)
	}
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, err
	}
	sweep(dir, now.Add(-unused))
	return t, nil
}

// unused is how long a table is kept that no share uses: its folder may be gone, or
// may be on a disk that is not there today.
const unused = 365 * 24 * time.Hour

// sweep removes tables that no share uses or has opened since. What fails is tried
// again by the next share.
func sweep(dir string, since time.Time) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil || !fi.Mode().IsRegular() || fi.ModTime().After(since) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		lock := unix.Flock_t{Type: unix.F_WRLCK, Start: useByte, Len: 1}
		if unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock) == nil {
			_ = os.Remove(path)
		}
		_ = f.Close() // nothing was written
	}
}

// tableName is by the folder's inode, so that a folder that is renamed keeps its
// owners, and by its path on a filesystem that does not tell inodes' births.
func tableName(folder string, st *status) string {
	if st.birth != 0 {
		return fmt.Sprintf("%x-%x", st.Ino, st.birth)
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(folder)) // never fails
	return fmt.Sprintf("%x", h.Sum64())
}

func (t *table) close() {
	if t != nil {
		_ = t.f.Close() // what must be on the disk was synced
	}
}

// inode returns the identity of a file of the folder.
func (t *table) inode(st *status) inode {
	i := inode{dev: st.Dev, ino: st.Ino, birth: st.birth}
	if i.dev == t.dev {
		i.dev = 0
	}
	return i
}

// bucket returns the offset of a file's bucket in a level.
func (i inode) bucket(level int) int64 {
	at, n := int64(0), uint64(firstLevel)
	for range level {
		at, n = at+int64(n)*bucketSize, n*4
	}
	h := i.ino ^ i.birth*0x9e3779b97f4a7c15 ^ i.dev*0xc2b2ae3d27d4eb4f ^ uint64(level)<<56
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return at + int64((h^h>>31)%n)*bucketSize
}

// find returns what is remembered of a file.
func (t *table) find(st *status) (record, bool) {
	if t == nil {
		return record{}, false
	}
	i := t.inode(st)
	s := t.scan(i)
	if s.torn { // in the middle of a change, or damaged
		if err := t.locked(unix.F_RDLCK, func() error { s = t.scan(i); return nil }); err != nil {
			return record{}, false
		}
	}
	return s.record, s.found
}

// update has change decide what is remembered of a file, from what is, and whether
// anything is; change may be called twice. unix.EDQUOT: the table is full.
func (t *table) update(st *status, change func(r record, found bool) (_ record, keep bool)) error {
	if t == nil {
		change(record{}, false)
		return nil
	}
	i := t.inode(st)
	if s := t.scan(i); !s.found && !s.torn { // nothing to remember, as of most files
		if _, keep := change(record{}, false); !keep {
			return nil
		}
	}
	return t.locked(unix.F_WRLCK, func() error {
		s := t.scan(i)
		r, keep := change(s.record, s.found)
		slot := make([]byte, slotSize)
		at := s.at
		if keep {
			r.encode(i, slot)
			if at < 0 {
				at = s.free
			}
			if at < 0 {
				return unix.EDQUOT
			}
		}
		if at < 0 || keep && s.found && r == s.record {
			return nil
		}
		if _, err := t.f.WriteAt(slot, at); err != nil {
			return errno(err)
		}
		t.dirty.Store(true)
		return nil
	})
}

// forget drops what is remembered of a file.
func (t *table) forget(st *status) {
	// An entry that stays is of no other file, and takes room alone.
	_ = t.update(st, func(record, bool) (record, bool) { return record{}, false })
}

// errno is the system's reason of an error of package os.
func errno(err error) error {
	var code unix.Errno
	if errors.As(err, &code) {
		return code
	}
	return unix.EIO
}

// locked runs do while no other table of the file changes it (unix.F_RDLCK), or uses
// it (unix.F_WRLCK).
func (t *table) locked(kind int16, do func() error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.lock(kind, changeByte); err != nil {
		return err
	}
	defer func() { _ = t.lock(unix.F_UNLCK, changeByte) }() // it ends with the process at the latest
	return do()
}

// Locks are on single bytes of a table's file, whatever is there.
const (
	changeByte = 0 // held during a change
	useByte    = 1 // shared by those who have the table open
)

func (t *table) lock(kind int16, at int64) error {
	for {
		err := unix.FcntlFlock(t.f.Fd(), unix.F_OFD_SETLKW, &unix.Flock_t{Type: kind, Start: at, Len: 1})
		if err != unix.EINTR {
			return err
		}
	}
}

// sync brings what was remembered to the disk.
func (t *table) sync() error {
	if t == nil {
		return nil
	}
	t.syncMu.Lock() // who comes later waits for who is at it: it may be about its change
	defer t.syncMu.Unlock()
	if !t.dirty.Swap(false) {
		return nil
	}
	if err := unix.Fdatasync(int(t.f.Fd())); err != nil {
		t.dirty.Store(true)
		return err
	}
	return nil
}

// scanned is what a scan found of a file.
type scanned struct {
	record record
	found  bool
	torn   bool  // a slot of the file has a wrong sum
	at     int64 // of the file's slot, or -1
	free   int64 // of a slot that may be written over, or -1
}

// scan looks for a file in its buckets.
func (t *table) scan(i inode) scanned {
	s := scanned{at: -1, free: -1}
	var b [bucketSize]byte
	for level := range t.levels {
		begin := i.bucket(level)
		n, _ := t.f.ReadAt(b[:], begin) // what cannot be read is not there
		for at := 0; at+slotSize <= n; at += slotSize {
			slot, offset := b[at:at+slotSize], begin+int64(at)
			whole := sumOf(slot) == binary.LittleEndian.Uint64(slot)
			if i.is(slot) {
				s.at = offset
				if s.found, s.torn = whole, !whole; whole {
					s.record = decode(slot)
				}
				return s
			}
			if !whole && s.free < 0 {
				s.free = offset
			}
		}
		if n < bucketSize { // the file ends here
			if s.free < 0 {
				s.free = begin + int64(n)/slotSize*slotSize
			}
			return s
		}
	}
	return s
}

// A slot in bytes: its sum, dev, ino and birth of 8 bytes each, then uid, gid, mode,
// host and rdev of 4, and zeros. The 33rd bit of the sum is the version, and tells a
// slot from one that was never written.

func sumOf(slot []byte) uint64 { return 1<<32 | uint64(crc32.ChecksumIEEE(slot[8:])) }

func (i inode) is(slot []byte) bool {
	le := binary.LittleEndian
	return le.Uint64(slot) != 0 && le.Uint64(slot[16:]) == i.ino && le.Uint64(slot[24:]) == i.birth && le.Uint64(slot[8:]) == i.dev
}

func (r record) encode(i inode, slot []byte) {
	le := binary.LittleEndian
	for n, v := range []uint64{i.dev, i.ino, i.birth} {
		le.PutUint64(slot[8+8*n:], v)
	}
	for n, v := range []uint32{r.uid, r.gid, r.mode, r.host, r.rdev} {
		le.PutUint32(slot[32+4*n:], v)
	}
	le.PutUint64(slot, sumOf(slot))
}

func decode(slot []byte) record {
	at := func(n int) uint32 { return binary.LittleEndian.Uint32(slot[32+4*n:]) }
	return record{uid: at(0), gid: at(1), mode: at(2), host: at(3), rdev: at(4)}
}
