// Package vz boots machines on macOS with Virtualization.framework. The
// machines live in this process and end with it: whoever boots one must be a
// process of its own for that (the shim).
//
// What can be decided without the framework is decided in files that compile
// everywhere and are tested everywhere: the devices of a machine, the waiting
// of a dial, the end of a listener, what an error means. The files for darwin
// are thin and hold the calls of the framework's binding.
//
// A floor of macOS 13, on Apple silicon. The program must be signed with the
// entitlement com.apple.security.virtualization after every build. Disks are
// fixed at boot: the driver is no vmm.Attacher.
package vz
