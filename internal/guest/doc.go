// Package guest is everything PID 1 does in a machine. It boots the bare
// machine (mounts, modules, the vsock listener), makes it the machine of one
// instance when the host says so, runs the container and further processes in
// it, carries their streams, reaps every process and ends in a power-off on
// every path.
//
// It is free of policy: what runs, as whom, where and with which limits is in
// the host's messages (agentproto). It accepts connections of the host only.
//
// A process is started in two steps. The agent starts itself again as the
// stage ("vzinit"), in the container's pid namespace, and hands it orders and
// descriptors on a socket; the stage makes or joins the other namespaces, does
// there what must be done from within, reports a failure with its class, and
// becomes the process by execve. Nothing waits for a child but the one reaper.
//
// Where the host names an OCI runtime the stage becomes that, in the machine's
// namespaces, for each of its steps; the reaper adopts the processes it leaves.
//
// The stage of the container's first process is started ahead and waits as a
// spare, so that a machine that is restored from a template has it ready.
//
// Output has no ring of the agent's own: the pipe is the bounded buffer. It is
// read only while a stream is attached, so nothing is dropped and a process
// that nobody reads from blocks.
//
// The package is for Linux; elsewhere it is empty.
package guest
