// Package qemu boots machines with QEMU: with KVM where it really works, by
// emulation where it does not. Everything a machine is connected to goes over
// file descriptors that its parent made: its monitor, its virtual sockets (a
// vhost-user device of our own, in this process) and its console. It needs
// neither root, a kernel module nor a daemon.
//
// A machine dies with the process that booted it (PR_SET_PDEATHSIG), and that
// process is its only way in.
package qemu
