// Package vhostusertest plays the other side of vhost-user for tests of devices:
// a Frontend is QEMU (the control protocol, the memory, the eventfds), and its
// Rings are the driver in the guest. Neither is bound by the rules: tests may
// write all of the memory and send any message.
//
// The driver has its own mapping of the memory, so that what it does to the
// device's is invisible to the race detector, as a guest is.
package vhostusertest
