// Package vsock is a virtio socket device (VIRTIO 1.2, 5.10 "Socket Device") as
// a vhost-user back end: the host's end of a machine's virtual sockets, in this
// process, so that neither root nor a kernel module is needed and nobody but
// the holder of the Device reaches the machine. Only streams exist.
//
// A Device serves one front end (one QEMU) once. The host dials guest ports and
// listens on host ports; the connections are net.Conn with CloseWrite. They
// live through a pause of the machine and end with a reset of its driver, with
// the front end, or with Close.
//
// # Trust and bounds
//
// The guest is hostile. Its packets are decoded from a private copy of the
// header, every length in them is a claim that is checked against the buffer it
// came in and against the credit it was given, and what it may make the host
// hold is bounded: 4096 connections, 128 of them not yet accepted a listener,
// 256 KiB of received bytes a connection and 64 MiB in all, where the credit of
// new connections shrinks as the total nears its bound. One kick is worked on
// for a bounded number of packets. There is no queue of packets to send: a
// connection remembers which packets it owes (conn.due) and waits in a line for
// the guest's buffers; answers to packets of no connection are counted, and
// when there are too many, the guest's packets wait.
//
// Classes of errors: errs.Unavailable where the peer is not there (any more),
// errs.ResourceExhausted at a limit, errs.AlreadyExists for a port in use;
// io.EOF, net.ErrClosed and os.ErrDeadlineExceeded as any net.Conn has them.
//
// The package is empty where vhost-user does not exist.
package vsock
