//go:build linux

package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// enter makes the container around this process and makes its root ours. The
// process is in the new pid namespace and in the container's cgroup already,
// which will be the root of its cgroup namespace.
//
// The other namespaces are made only here: that of mounts must have what was
// mounted in the machine since the fork, that of names the machine's.
func (c *containerOrders) enter(cwd string) error {
	if err := unix.Unshare(int(c.Namespaces)); err != nil {
		return fmt.Errorf("unshare the container's namespaces: %w", err)
	}
	root, err := c.bindRoot()
	if err != nil {
		return err
	}
	for i := range c.Mounts {
		if err := c.Mounts[i].mount(root); err != nil {
			return fmt.Errorf("mount %s: %w", c.Mounts[i].Target, classed(err))
		}
	}
	if err := c.makeDevices(root); err != nil {
		return err
	}
	if err := c.name(); err != nil {
		return err
	}
	for _, s := range c.Sysctls {
		if err := s.set(); err != nil {
			return err
		}
	}
	if err := c.protect(root); err != nil {
		return err
	}
	if err := makeCwd(root, cwd); err != nil {
		return err
	}
	return c.pivot(root)
}

// bindRoot cuts the mounts off from the machine's and makes the root a mount.
func (c *containerOrders) bindRoot() (inRoot, error) {
	if err := unix.Mount("", "/", "", c.Propagation, ""); err != nil {
		return inRoot{}, fmt.Errorf("set the propagation of mounts: %w", err)
	}
	if err := unix.Mount(c.Root, c.Root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return inRoot{}, fmt.Errorf("bind the root filesystem: %w", err)
	}
	// pivot_root refuses a parent that shares its mounts.
	if err := unix.Mount("", c.Root, "", unix.MS_PRIVATE, ""); err != nil {
		return inRoot{}, fmt.Errorf("make the root filesystem private: %w", err)
	}
	fd, err := unix.Open(c.Root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return inRoot{}, fmt.Errorf("open the root filesystem: %w", err)
	}
	return inRoot{fd}, nil
}

// mount carries out one mount. Its target is resolved inside the root and then
// named by descriptor, so that no symlink leads the mount elsewhere.
func (o *mountOrder) mount(root inRoot) error {
	target, err := o.makeTarget(root)
	if err != nil {
		return err
	}
	err = unix.Mount(o.Source, fdPath(target), o.Type, o.Flags, o.Data)
	_ = unix.Close(target) // a path descriptor
	if err != nil {
		return err
	}
	if o.Set|o.Clear|o.SetRec|o.ClearRec == 0 && len(o.Propagation) == 0 {
		return nil
	}
	top, err := root.open(o.Target, unix.O_PATH) // the mount itself, which now covers the target
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(top) }()
	if err := setAttributes(top, 0, o.Set, o.Clear); err != nil {
		return err
	}
	if err := setAttributes(top, unix.AT_RECURSIVE, o.SetRec, o.ClearRec); err != nil {
		return err
	}
	for _, p := range o.Propagation {
		if err := unix.Mount("", fdPath(top), "", p, ""); err != nil {
			return fmt.Errorf("set the propagation: %w", err)
		}
	}
	return nil
}

func setAttributes(fd int, flags uint, set, clear uint64) error {
	if set|clear == 0 {
		return nil
	}
	attr := unix.MountAttr{Attr_set: set, Attr_clr: clear}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|flags, &attr); err != nil {
		return fmt.Errorf("set the options: %w", err)
	}
	return nil
}

// makeTarget answers a descriptor of the target, made if missing: a file for a
// file's bind mount, a directory for all else.
func (o *mountOrder) makeTarget(root inRoot) (int, error) {
	if o.Flags&unix.MS_BIND != 0 {
		st, err := os.Stat(o.Source)
		if err != nil {
			return -1, err
		}
		if !st.IsDir() {
			if err := root.touch(o.Target); err != nil {
				return -1, err
			}
			return root.open(o.Target, unix.O_PATH)
		}
	}
	return root.mkdirAll(o.Target, 0o755)
}

// classed gives a failed mount a class where it has none of its own.
func classed(err error) error {
	if errors.Is(err, unix.ENODEV) {
		return errs.New(errs.Unsupported, "the kernel does not know this type of filesystem: %w", err)
	}
	if errs.ClassOf(err) == errs.Unknown {
		return errs.As(errs.FailedPrecondition, err)
	}
	return err
}

// makeDevices makes what the runtime-spec promises (config-linux.md, Default
// Devices and Default Filesystems) where it is missing, and the devices asked
// for. A /dev that is bound from elsewhere is left alone.
func (c *containerOrders) makeDevices(root inRoot) error {
	dev := slices.IndexFunc(c.Mounts, func(m mountOrder) bool { return m.Target == "/dev" })
	if dev < 0 || c.Mounts[dev].Flags&unix.MS_BIND == 0 {
		for _, d := range defaultDevices() {
			if root.missing(d.Path) {
				if err := d.make(root); err != nil {
					return err
				}
			}
		}
		if err := makeDevLinks(root); err != nil {
			return err
		}
	}
	for _, d := range c.Devices {
		if err := d.make(root); err != nil {
			return err
		}
	}
	return nil
}

func defaultDevices() []deviceOrder {
	var ds []deviceOrder
	for _, d := range []struct {
		name         string
		major, minor uint32
	}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}} {
		ds = append(ds, deviceOrder{Path: "/dev/" + d.name, Mode: unix.S_IFCHR | 0o666, Dev: unix.Mkdev(d.major, d.minor)})
	}
	return ds
}

func (d deviceOrder) make(root inRoot) error {
	err := root.at(d.Path, func(dir int, name string) error {
		if err := unix.Mknodat(dir, name, d.Mode, int(d.Dev)); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		// mknod(2) heeds the umask.
		if err := unix.Fchownat(dir, name, int(d.UID), int(d.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != d.Mode&unix.S_IFMT {
			return errs.New(errs.AlreadyExists, "something else is there")
		}
		return unix.Chmod(fdPath(fd), d.Mode&0o7777)
	})
	if err != nil {
		return fmt.Errorf("make device %s: %w", d.Path, err)
	}
	return nil
}

func makeDevLinks(root inRoot) error {
	for _, l := range []struct{ path, to string }{
		{"/dev/fd", "/proc/self/fd"}, {"/dev/stdin", "/proc/self/fd/0"}, {"/dev/stdout", "/proc/self/fd/1"},
		{"/dev/stderr", "/proc/self/fd/2"}, {"/dev/ptmx", "pts/ptmx"},
	} {
		err := root.at(l.path, func(dir int, name string) error {
			dropMultiplexer(dir, name)
			return unix.Symlinkat(l.to, dir, name)
		})
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make link %s: %w", l.path, err)
		}
	}
	return nil
}

// dropMultiplexer removes the kernel's own ptmx, which devtmpfs comes with: a
// container's is that of its devpts.
func dropMultiplexer(dir int, name string) {
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(5, 2) {
		_ = unix.Unlinkat(dir, name, 0) // where it stays it leads to the same terminals
	}
}

func (c *containerOrders) name() error {
	if c.Hostname != "" {
		if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
			return fmt.Errorf("set the host name: %w", err)
		}
	}
	if c.Domainname != "" {
		if err := unix.Setdomainname([]byte(c.Domainname)); err != nil {
			return fmt.Errorf("set the domain name: %w", err)
		}
	}
	return nil
}

// set writes the value through the machine's /proc: the kernel takes the
// namespaces of the writer.
func (s sysctl) set() error {
	f, err := os.OpenFile(filepath.Join("/proc/sys", s.Path), os.O_WRONLY, 0)
	if err != nil {
		return errs.New(errs.InvalidArgument, "sysctl: %w", err)
	}
	defer func() { _ = f.Close() }() // the write told already
	if _, err := f.WriteString(s.Value); err != nil {
		return errs.New(errs.InvalidArgument, "sysctl: %w", err)
	}
	return nil
}

// protect hides the masked paths and makes others read-only. Those that are
// not there need nothing.
func (c *containerOrders) protect(root inRoot) error {
	for _, p := range c.Masked {
		if err := mask(root, p); err != nil {
			return fmt.Errorf("mask %s: %w", p, err)
		}
	}
	for _, p := range c.ReadOnlyPaths {
		if err := makeReadOnly(root, p); err != nil {
			return fmt.Errorf("make %s read-only: %w", p, err)
		}
	}
	return nil
}

func mask(root inRoot, p string) error {
	fd, err := root.open(p, unix.O_PATH)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	dir, err := isDir(fd)
	if err != nil {
		return err
	}
	if dir {
		return unix.Mount("tmpfs", fdPath(fd), "tmpfs", unix.MS_RDONLY, "size=0k,nr_inodes=2")
	}
	return unix.Mount("/dev/null", fdPath(fd), "", unix.MS_BIND, "")
}

func makeReadOnly(root inRoot, p string) error {
	fd, err := root.open(p, unix.O_PATH)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Mount(fdPath(fd), fdPath(fd), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	top, err := root.open(p, unix.O_PATH)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(top) }()
	return setAttributes(top, 0, unix.MOUNT_ATTR_RDONLY, 0)
}

// pivot makes root the root and drops the machine's mounts.
func (c *containerOrders) pivot(root inRoot) error {
	defer func() { _ = unix.Close(root.fd) }()
	if c.ReadOnly {
		if err := setAttributes(root.fd, 0, unix.MOUNT_ATTR_RDONLY, 0); err != nil {
			return fmt.Errorf("make the root filesystem read-only: %w", err)
		}
	}
	if err := unix.Fchdir(root.fd); err != nil {
		return fmt.Errorf("enter the root filesystem: %w", err)
	}
	// The old root lands on top of the new one, where it can be detached
	// without a directory for it (pivot_root(2), NOTES).
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot to the root filesystem: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("drop the machine's mounts: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter the root filesystem: %w", err)
	}
	return nil
}
