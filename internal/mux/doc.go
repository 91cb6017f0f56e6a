// Package mux carries many streams over one ordered, reliable byte channel,
// such as a virtio serial port: each stream a net.Conn with half-close,
// deadlines and flow control of its own. docs/mux.md is the protocol.
//
// A Session is one end of a channel, Host or Guest. Both may Dial and Listen.
// The guest's end says nothing until the host has: a machine can be saved with
// its Session waiting, and each restored copy meets a fresh one of the host's.
// A channel carries one pair of sessions in its life. The package knows nothing
// of what the streams carry, encrypts nothing and keeps nobody alive.
//
// # Goroutines and time
//
// A Session has one goroutine, which reads, and no timer but the deadlines of
// its streams. Whoever has something to write writes it: there is no writing
// goroutine to hand it to. What nobody may wait for (a dial, an end, credit, an
// answer) goes out in one attempt that does not block, where the channel is a
// *net.UnixConn, a *net.TCPConn or an *os.File that can be polled (or a Wrapper of one). Only what
// such a channel does not take at once, and everything on other channels, costs
// a goroutine, which ends when it is written.
//
// The reader never writes in a way that blocks, and never waits for who reads a
// stream: two sessions cannot wait for each other.
//
// # Trust and bounds
//
// The peer is hostile. Lengths, ids, ports and credits are claims, and a peer
// that breaks the protocol ends the session, with an error that says how. What
// it may make us hold is bounded: 1024 streams, the window of received bytes in
// each (the memory comes and goes with the bytes), the backlog of each
// listener. There is no queue of frames to send: a stream remembers what it
// owes and waits in a line, so a peer that does not read cannot make it grow.
//
// Classes of errors: errs.Unavailable where the peer is not there (any more) or
// nobody listens, errs.ResourceExhausted at a limit, errs.AlreadyExists for a
// port in use; io.EOF, net.ErrClosed and os.ErrDeadlineExceeded as any net.Conn
// has them.
package mux
