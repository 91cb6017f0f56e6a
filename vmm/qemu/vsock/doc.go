// Package vsock is a virtual socket device on vmm/qemu/vhostuser (VIRTIO 1.2, 5.10
// "Socket Device"): stream sockets between a guest, at its context ID, and this
// process, at the host's. Dial connects to a port of the guest, Listen takes what
// the guest connects to a port of the host.
//
// Connections have half-close, deadlines and back-pressure in both directions. A
// guest that connects to a port without a listener is refused at once. A paused
// machine keeps its connections; a driver that resets the device loses them.
//
// # Trust
//
// The guest is hostile. A header is copied before it is read, and its length is
// a claim that the chain must bear out. A packet that does not fit the state of
// its connection resets that connection; a receive buffer too small for a header
// breaks the queue. Data beyond the credit that was given is a reset, too.
//
// What a guest makes this process keep is bounded: maxConns connections, maxBytes
// of received bytes in all of them, maxBacklog connections that no one has
// accepted, and maxResets answers to packets of no connection. Where those wait
// for receive buffers, the guest's packets are not read. All else that waits for
// a receive buffer is a few bits of its connection.
//
// Non-goals: datagrams and SEQPACKET, more than one guest, migration.
package vsock
