package vz

import (
	"errors"
	"fmt"
	"os"

	vzf "github.com/Code-Hex/vz/v3"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// The binding's codes are those that classify knows: an index of anything but 0
// does not compile.
var (
	_ = [1]struct{}{}[vzf.ErrorInvalidVirtualMachineConfiguration-codeConfiguration]
	_ = [1]struct{}{}[vzf.ErrorVirtualMachineLimitExceeded-codeLimit]
)

// explain gives an error of the framework its class and hint.
func explain(err error) error {
	var ns *vzf.NSError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ns):
		return classify(err, ns.Domain, ns.Code, ns.LocalizedDescription+" "+ns.UserInfo)
	case errors.Is(err, vzf.ErrUnsupportedOSVersion), errors.Is(err, vzf.ErrBuildTargetOSVersion):
		return errs.As(errs.Unsupported, err)
	}
	return err
}

// configure makes the framework's configuration of d, validated.
//
// The machine has no memory balloon: inflating one gives macOS nothing back,
// and the binding's MemoryBalloonDevices must never be called, since it
// releases what it does not own.
func configure(d *devices, frames []*os.File) (*vzf.VirtualMachineConfiguration, error) {
	if _, err := os.Stat(d.initramfs); err != nil { // the loader would say no more than "invalid"
		return nil, err
	}
	loader, err := vzf.NewLinuxBootLoader(d.kernel, vzf.WithCommandLine(d.cmdline), vzf.WithInitrd(d.initramfs))
	if err != nil {
		return nil, fmt.Errorf("load kernel: %w", err)
	}
	c, err := vzf.NewVirtualMachineConfiguration(loader, d.cpus, d.memory)
	if err != nil {
		return nil, err
	}
	for _, add := range []func(*vzf.VirtualMachineConfiguration, *devices) error{addPlatform, addDisks, addShares, addConsole, addSocket, addEntropy} {
		if err := add(c, d); err != nil {
			return nil, err
		}
	}
	if err := addCards(c, d.cards, frames); err != nil {
		return nil, err
	}
	ok, err := c.Validate()
	if err != nil {
		return nil, fmt.Errorf("validate machine: %w", err)
	}
	if !ok { // without an error, where the framework is not available at all
		return nil, errs.New(errs.Unsupported, "validate machine: this host cannot run virtual machines")
	}
	return c, nil
}

func addPlatform(c *vzf.VirtualMachineConfiguration, d *devices) error {
	p, err := vzf.NewGenericPlatformConfiguration()
	if err != nil {
		return fmt.Errorf("make platform: %w", err)
	}
	if d.nested {
		if err := p.SetNestedVirtualizationEnabled(true); err != nil {
			return fmt.Errorf("have machines in the machine: %w", err)
		}
	}
	c.SetPlatformVirtualMachineConfiguration(p)
	return nil
}

// addShares gives each share a device of its own, also where one folder is shared
// twice: that one of the two is read-only is a property of the device, which the
// framework holds on the host's side.
func addShares(c *vzf.VirtualMachineConfiguration, d *devices) error {
	var all []vzf.DirectorySharingDeviceConfiguration
	for _, f := range d.shares {
		folder, err := vzf.NewSharedDirectory(f.path, f.readOnly)
		if err != nil {
			return fmt.Errorf("share %s: %w", f.tag, err)
		}
		share, err := vzf.NewSingleDirectoryShare(folder)
		if err != nil {
			return fmt.Errorf("share %s: %w", f.tag, err)
		}
		device, err := vzf.NewVirtioFileSystemDeviceConfiguration(f.tag)
		if err != nil {
			return fmt.Errorf("make the device of share %s: %w", f.tag, err)
		}
		device.SetDirectoryShare(share)
		all = append(all, device)
	}
	c.SetDirectorySharingDevicesVirtualMachineConfiguration(all)
	return nil
}

// addCards gives each card the machine's end of its frame socket.
func addCards(c *vzf.VirtualMachineConfiguration, cards []card, frames []*os.File) error {
	var all []*vzf.VirtioNetworkDeviceConfiguration
	for i, k := range cards {
		socket, err := vzf.NewFileHandleNetworkDeviceAttachment(frames[i])
		if err != nil {
			return fmt.Errorf("use the frame socket of card %d: %w", i, err)
		}
		// Networks may have a larger one than the framework's 1500; what a machine
		// uses the agent sets.
		if err := socket.SetMaximumTransmissionUnit(maxMTU); err != nil {
			return fmt.Errorf("let card %d have long frames: %w", i, err)
		}
		device, err := vzf.NewVirtioNetworkDeviceConfiguration(socket)
		if err != nil {
			return fmt.Errorf("make card %d: %w", i, err)
		}
		mac, err := vzf.NewMACAddress(k.mac)
		if err != nil {
			return fmt.Errorf("address of card %d: %w", i, err)
		}
		device.SetMACAddress(mac)
		all = append(all, device)
	}
	c.SetNetworkDevicesVirtualMachineConfiguration(all)
	return nil
}

func addDisks(c *vzf.VirtualMachineConfiguration, d *devices) error {
	var all []vzf.StorageDeviceConfiguration
	for _, k := range d.disks {
		image, err := vzf.NewDiskImageStorageDeviceAttachmentWithCacheAndSync(k.path, k.readOnly,
			vzf.DiskImageCachingModeCached, vzf.DiskImageSynchronizationModeFsync)
		if err != nil {
			return fmt.Errorf("open disk %s: %w", k.id, err)
		}
		block, err := vzf.NewVirtioBlockDeviceConfiguration(image)
		if err != nil {
			return fmt.Errorf("make disk %s: %w", k.id, err)
		}
		if err := block.SetBlockDeviceIdentifier(k.id); err != nil {
			return fmt.Errorf("name disk %s: %w", k.id, err)
		}
		all = append(all, block)
	}
	c.SetStorageDevicesVirtualMachineConfiguration(all)
	return nil
}

func addConsole(c *vzf.VirtualMachineConfiguration, d *devices) error {
	if d.console == "" {
		return nil // the kernel does without
	}
	file, err := vzf.NewFileSerialPortAttachment(d.console, true)
	if err != nil {
		return fmt.Errorf("open console: %w", err)
	}
	port, err := vzf.NewVirtioConsoleDeviceSerialPortConfiguration(file)
	if err != nil {
		return fmt.Errorf("make console: %w", err)
	}
	c.SetSerialPortsVirtualMachineConfiguration([]*vzf.VirtioConsoleDeviceSerialPortConfiguration{port})
	return nil
}

func addSocket(c *vzf.VirtualMachineConfiguration, _ *devices) error {
	s, err := vzf.NewVirtioSocketDeviceConfiguration()
	if err != nil {
		return fmt.Errorf("make virtual socket device: %w", err)
	}
	c.SetSocketDevicesVirtualMachineConfiguration([]vzf.SocketDeviceConfiguration{s})
	return nil
}

func addEntropy(c *vzf.VirtualMachineConfiguration, _ *devices) error {
	e, err := vzf.NewVirtioEntropyDeviceConfiguration()
	if err != nil {
		return fmt.Errorf("make entropy device: %w", err)
	}
	c.SetEntropyDevicesVirtualMachineConfiguration([]*vzf.VirtioEntropyDeviceConfiguration{e})
	return nil
}
