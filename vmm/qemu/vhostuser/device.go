//go:build linux

package vhostuser

// Feature bits of VIRTIO 1.2, 6 "Reserved Feature Bits", and of vhost-user.
const (
	featureIndirect = 1 << 28
	featureProtocol = 1 << 30 // VHOST_USER_F_PROTOCOL_FEATURES
	featureVersion1 = 1 << 32

	ringFeatures = featureIndirect | featureProtocol | featureVersion1
)

// Protocol feature bits: vhost-user.rst, "Protocol features".
const (
	protocolMQ       = 1 << 0
	protocolReplyAck = 1 << 3
	protocolConfig   = 1 << 9

	protocolFeatures = protocolMQ | protocolReplyAck | protocolConfig
)

// Device is what stands behind the queues. The server's lock is held, and guest
// memory may be touched (see Guard), in every call.
type Device interface {
	// Queues is how many queues the device has; always the same.
	Queues() int
	// Features are the device's own feature bits; those of rings and transport
	// are the server's.
	Features() uint64
	// Config is the device's configuration space, at most 256 bytes.
	Config() []byte
	// Started says that queue q can be used from now on. Chains may be waiting
	// already, and no kick may come for them.
	Started(q int)
	// Stopped says that no chain can be taken from queue q any more: the
	// machine is paused, the driver has reset the device, or the front end has
	// gone. Which it was shows at the next Started (Queue.Position). Detached
	// requests can still be answered.
	Stopped(q int)
	// Kicked says that the driver has put chains in queue q. It does a bounded
	// amount of work; if it answers true, others get the lock, then it is called
	// again.
	Kicked(q int) (more bool)
}
