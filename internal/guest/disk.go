//go:build linux

package guest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// maxSerial is what a virtio block device has room for (virtio 1.2, 5.2.6).
const maxSerial = 20

var errDisksMissing = errors.New("no such disk in time")

// sysBlock has a folder for each block device.
const sysBlock = "/sys/block"

// finder finds disks by their serial number.
type finder struct {
	sys    string                        // /sys/block
	listen func() (io.ReadCloser, error) // news of devices: a read returns when there are some
	rescan func() error                  // looks for devices that the kernel was not told of; may be nil
}

// find calls found for each wanted disk as it turns up, and returns when all
// have or ctx ends. want is used up.
func (f finder) find(ctx context.Context, want map[string]bool, found func(id, dev string)) error {
	var present map[string]string
	var scanned error
	err := watchDevices(ctx, f.listen, func() bool {
		present = f.serials(func(dev, id string) (more bool) {
			if want[id] {
				delete(want, id)
				found(id, dev)
			}
			return len(want) > 0
		})
		if len(want) > 0 && f.rescan != nil {
			scanned, f.rescan = f.rescan(), nil // what it finds is news
		}
		return len(want) == 0
	})
	if ctx.Err() != nil && len(want) > 0 {
		return errors.Join(missing(want, present, context.Cause(ctx)), scanned)
	}
	return err
}

// watchDevices calls look, and again at all news of devices, until it is content
// or ctx ends, whose cause is answered then.
func watchDevices(ctx context.Context, listen func() (io.ReadCloser, error), look func() bool) error {
	if look() { // what is there already needs no listening
		return nil
	}
	news, err := listen() // before the next look, so that nothing comes in between
	if err != nil {
		return fmt.Errorf("listen for devices: %w", err)
	}
	defer func() { _ = news.Close() }()
	defer context.AfterFunc(ctx, func() { _ = news.Close() })()
	buf := make([]byte, 16<<10)
	for !look() {
		_, err := news.Read(buf)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) { // some were lost: look
			return fmt.Errorf("listen for devices: %w", err)
		}
	}
	return nil
}

// missing says which disks are not there and which are.
func missing(want map[string]bool, present map[string]string, cause error) error {
	var not, are []string
	for id := range want {
		not = append(not, fmt.Sprintf("%q", id))
	}
	for dev, id := range present {
		are = append(are, fmt.Sprintf("%s %q", dev, id))
	}
	slices.Sort(not)
	slices.Sort(are)
	class := errs.ClassOf(cause)
	if errors.Is(cause, errDisksMissing) {
		class = errs.DeadlineExceeded
	}
	return errs.New(class, "find disk %s within %s (there are: %s): %w",
		strings.Join(not, ", "), diskLimit, strings.Join(are, ", "), cause)
}

// serials answers the serial number of each block device that has one, as far as
// found, which is told of each, wants to know: to ask a drive takes it a while.
func (f finder) serials(found func(dev, id string) (more bool)) map[string]string {
	out := map[string]string{}
	entries, err := os.ReadDir(f.sys)
	if err != nil {
		return out // no block layer, no disks
	}
	for _, e := range entries {
		for _, file := range []string{"serial", "device/serial"} { // virtio; nvme
			b, err := os.ReadFile(filepath.Join(f.sys, e.Name(), file))
			if id := strings.TrimSpace(string(b)); err == nil && id != "" {
				out[e.Name()] = id
				if !found(e.Name(), id) {
					return out
				}
				break
			}
		}
	}
	return out
}

// listenUevents opens the kernel's news of devices (NETLINK_KOBJECT_UEVENT).
func listenUevents() (io.ReadCloser, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "uevents"), nil
}

// probe tells the filesystem on dev by its magic number.
func probe(dev string) (string, error) {
	f, err := os.Open(dev)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // only read
	var sb [64]byte                  // both superblocks begin at 1024
	if _, err := f.ReadAt(sb[:], 1024); err != nil {
		return "", errs.New(errs.DataLoss, "read the superblock: %w", err)
	}
	switch {
	case binary.LittleEndian.Uint32(sb[:]) == 0xE0F5E1E2: // fs/erofs/erofs_fs.h
		return "erofs", nil
	case binary.LittleEndian.Uint16(sb[0x38:]) == 0xEF53: // fs/ext4/ext4.h
		return "ext4", nil
	}
	return "", errs.New(errs.DataLoss, "it holds neither erofs nor ext4")
}

func mountExt4(id, dev, at string, flags uintptr) error {
	err := mountDisk(id, dev, at, "ext4", flags, "")
	if err == nil {
		return nil
	}
	fstype, perr := probe(dev)
	if perr == nil && fstype != "ext4" {
		perr = errs.New(errs.DataLoss, "it holds %s, not ext4", fstype)
	}
	if perr != nil {
		return fmt.Errorf("disk %q: %w", id, perr)
	}
	return err
}

func mountDisk(id, dev, at, fstype string, flags uintptr, data string) error {
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(dev, at, fstype, flags, data); err != nil {
		return mountError(fmt.Sprintf("disk %q", id), err)
	}
	return nil
}

// mountError gives a failed mount of what its class: what a filesystem refuses
// about its own bytes is lost data.
func mountError(what string, err error) error {
	switch {
	case errors.Is(err, unix.ENODEV):
		return errs.New(errs.Unsupported, "mount %s: the kernel does not know this filesystem: %w", what, err)
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EACCES), errors.Is(err, unix.EBUSY):
		return errs.New(errs.FailedPrecondition, "mount %s: %w", what, err)
	case errors.Is(err, unix.ENOMEM):
		return errs.New(errs.ResourceExhausted, "mount %s: %w", what, err)
	}
	return errs.New(errs.DataLoss, "mount %s: %w", what, err)
}

// syncAndUnmount unmounts the mounts at targets, in order. One that is in use is
// made read-only, so that nothing is half written.
func syncAndUnmount(targets []string, log func(string, ...any)) {
	unix.Sync()
	for _, t := range targets {
		err := unix.Unmount(t, 0)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			continue // not mounted
		}
		if err != nil {
			log("unmount %s: %v", t, err)
			if err := unix.Mount("", t, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
				log("make %s read-only: %v", t, err)
			}
		}
	}
	unix.Sync()
}

// settleLimit is how long processes may take to die before the power goes off.
const settleLimit = 5 * time.Second
