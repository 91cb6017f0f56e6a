//go:build linux

package guest

import (
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
)

// moduleOf is the module that makes a device of the machine.
func moduleOf(device string) string {
	switch device {
	case "/dev/fuse":
		return "fuse"
	case "/dev/net/tun":
		return "tun"
	}
	return "" // it is there, or there is none
}

// addDevices notes what devices of the machine a container is to have.
func (o *orders) addDevices(all []agentproto.Device) error {
	switch {
	case len(all) > maxPaths:
		return errs.New(errs.InvalidArgument, "container with %d devices", len(all))
	case len(all) > 0 && o.Container == nil:
		return errs.New(errs.InvalidArgument, "devices for a process in the container")
	}
	for _, d := range all {
		if !absolute(d.Source) || path.Clean(d.Source) != d.Source || !strings.HasPrefix(d.Source, "/dev/") {
			return errs.New(errs.InvalidArgument, "%.200q is no device of the machine", d.Source)
		}
		if !absolute(d.Path) {
			return errs.New(errs.InvalidArgument, "device path %.200q is not absolute", d.Path)
		}
		o.Container.wanted = append(o.Container.wanted, d)
	}
	return nil
}

// findDevices looks up what the container is to have of the machine's devices.
func (a *agent) findDevices(c *containerOrders) error {
	for _, d := range c.wanted {
		if m := moduleOf(d.Source); m != "" {
			if err := a.modules.need(m); err != nil {
				return errs.New(errs.FailedPrecondition, "device %s: load the module %s: %w", d.Source, m, err)
			}
		}
		var st unix.Stat_t
		if err := unix.Stat(d.Source, &st); err != nil {
			return errs.WithHint(errs.New(errs.NotFound, "device %s: %w", d.Source, err), "devices are those of the machine's kernel, not of the host")
		}
		kind := st.Mode & unix.S_IFMT
		if kind != unix.S_IFCHR && kind != unix.S_IFBLK {
			return errs.New(errs.InvalidArgument, "device %s: it is none", d.Source)
		}
		// devtmpfs gives nearly all to root alone. The container asked for it.
		c.Devices = append(c.Devices, deviceOrder{Path: d.Path, Mode: kind | 0o666, Dev: uint64(st.Rdev)})
	}
	return nil
}
