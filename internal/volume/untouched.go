package volume

import (
	"encoding/binary"
	"os"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Untouched reports whether the filesystem at path, which Create made, has never
// been mounted, so that nothing can be in it: its superblock says when it was
// and how often (fs/ext4/ext4.h, s_mtime and s_mnt_count).
func Untouched(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var sb [0x3c]byte
	if _, err := f.ReadAt(sb[:], 1024); err != nil {
		return false, errs.New(errs.DataLoss, "read the superblock of %s: %w", path, err)
	}
	if binary.LittleEndian.Uint16(sb[0x38:]) != 0xEF53 {
		return false, errs.New(errs.DataLoss, "%s holds no ext4", path)
	}
	mounted := binary.LittleEndian.Uint32(sb[0x2c:]) != 0 || binary.LittleEndian.Uint16(sb[0x34:]) != 0
	return !mounted, nil
}
