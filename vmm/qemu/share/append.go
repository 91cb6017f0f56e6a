//go:build linux

package share

import (
	"os"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// writeCache marks what the guest's kernel writes back from its memory
// (FUSE_WRITE_CACHE of include/uapi/linux/fuse.h).
const writeCache = 1 << 0

// write puts data where the guest says, or at the end of a file that is open for
// appending: the guest's kernel says where it believes the end to be, and another
// machine may have appended since.
func write(f *os.File, in *fuse.WriteIn, data []byte) (int, error) {
	if in.Flags&unix.O_APPEND == 0 || in.WriteFlags&writeCache != 0 {
		return unix.Pwrite(int(f.Fd()), data, int64(in.Offset))
	}
	return unix.Pwritev2(int(f.Fd()), [][]byte{data}, 0, unix.RWF_APPEND)
}
