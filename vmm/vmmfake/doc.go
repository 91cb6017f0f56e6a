// Package vmmfake is a vmm.Driver whose machines are goroutines: an agent that
// answers agentproto over connections in memory, and processes that are Go
// functions. It is for tests of what is above a driver, and passes the suite
// that every driver passes.
//
// What is true of a machine is true here: the agent may be late, a dial waits
// for it, a refused one fails at once, disks are found by their ID, output
// waits in a bounded pipe until a stream is attached, and the end of a machine
// breaks all that is open. A machine can be paused, has network cards with an IP
// stack behind them, and is restored from a template where Options has a folder
// for them. What is not: nothing is mounted or executed, all that is written to a
// disk is that it was mounted, and a signal that a program does not trap ends it
// even where it is the first of its container.
//
// Nothing here waits for wall time, so that tests may run it under
// testing/synctest; a program that ignores its context holds up its machine's
// end.
package vmmfake
