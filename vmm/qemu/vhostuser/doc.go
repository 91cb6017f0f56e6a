// Package vhostuser is the back end of vhost-user devices: it speaks QEMU's
// control protocol on a socket, maps the guest's memory and runs split
// virtqueues on it, so that a virtio device can live in a process of ours. The
// device itself (vmm/qemu/vsock is one) implements Device.
//
// The sources are the Vhost-user Protocol specification of QEMU
// (docs/interop/vhost-user.rst) and VIRTIO 1.2: 2.7 "Split Virtqueues", 2.7.5.3
// "Indirect Descriptors", 2.7.7 "Used Buffer Notification Suppression". Of the
// protocol it takes MQ, REPLY_ACK and CONFIG; of the rings INDIRECT_DESC, and
// not EVENT_IDX, which did not pay. The host must be little-endian.
//
// # Trust
//
// The guest is hostile: it may write all of its memory, rings included, at any
// instant, and kick at any rate. A descriptor is copied before it is looked at,
// an index is compared before it is used, a chain has at most as many links as
// the ring has entries, and an address is translated without arithmetic that
// can wrap. A guest that breaks the rules breaks its own queue, until it resets
// the device. The front end (QEMU) is trusted only a little more: its messages
// are bounded, the memory it hands over must be there in full and sealed against
// shrinking, and what still faults is caught and ends the device, not the
// process.
//
// # Locking
//
// A Server is a lock: it is held during every call of a Device's methods, and a
// device takes it around its own work. Guest memory may be touched only with
// the lock held and in Guard, or as the slices of a detached Request, which
// hold their memory until Done. One kick does a bounded amount of work: Kicked
// answers that there is more, the lock is released, and it is called again.
//
// Non-goals: packed rings, migration logs, shadow memory, in-flight recovery,
// reconnection. The package is empty where vhost-user does not exist.
package vhostuser
