package kernel

import (
	"fmt"
	"io"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// cpioWriter writes a newc archive (Documentation/driver-api/early-userspace/
// buffer-format.rst). Equal entries give equal bytes: times are 0, owners root,
// inodes counted.
type cpioWriter struct {
	w   io.Writer
	ino uint32
}

// File types of st_mode, and the permission bits used.
const (
	modeDir  = 0o040755
	modeExec = 0o100755
	modeFile = 0o100644
	modeChar = 0o020600
)

// maxCpioFile is what the format's 32 bits can say, in bytes.
const maxCpioFile = 1<<32 - 1

func (c *cpioWriter) dir(name string) error { return c.entry(name, modeDir, 2, 0, 0, 0, nil) }

func (c *cpioWriter) char(name string, major, minor uint32) error {
	return c.entry(name, modeChar, 1, 0, major, minor, nil)
}

// file writes size bytes of r.
func (c *cpioWriter) file(name string, mode uint32, size int64, r io.Reader) error {
	return c.entry(name, mode, 1, size, 0, 0, r)
}

// close writes the trailer.
func (c *cpioWriter) close() error {
	c.ino = 0
	return c.header("TRAILER!!!", 0, 0, 1, 0, 0, 0)
}

func (c *cpioWriter) entry(name string, mode, nlink uint32, size int64, major, minor uint32, r io.Reader) error {
	if size < 0 || size > maxCpioFile {
		return errs.New(errs.ResourceExhausted, "%s has %d bytes, too many for an initramfs", name, size)
	}
	c.ino++
	if err := c.header(name, c.ino, mode, nlink, uint32(size), major, minor); err != nil {
		return err
	}
	if r == nil {
		return nil
	}
	n, err := io.Copy(c.w, io.LimitReader(r, size))
	if err != nil {
		return err
	}
	if n != size {
		return errs.New(errs.DataLoss, "%s has %d bytes, not %d", name, n, size)
	}
	return c.pad(size)
}

// header writes the fields in the format's order: ino, mode, uid, gid, nlink,
// mtime, filesize, major and minor of the device, rmajor, rminor, namesize
// with its NUL, and a check sum that newc leaves 0.
func (c *cpioWriter) header(name string, ino, mode, nlink, size, major, minor uint32) error {
	h := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		ino, mode, 0, 0, nlink, 0, size, 0, 0, major, minor, len(name)+1, 0, name)
	if _, err := io.WriteString(c.w, h); err != nil {
		return err
	}
	return c.pad(int64(len(h)))
}

// pad fills n bytes up to a multiple of four. Every header and every file
// starts at one, so that n alone tells.
func (c *cpioWriter) pad(n int64) error {
	_, err := c.w.Write(make([]byte, (4-n%4)%4))
	return err
}
