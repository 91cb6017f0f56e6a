// Package seccomp makes filters of system calls: it reads profiles in the form
// that container engines use, has one of its own that holds where nothing is
// said, and assembles either into a program for the kernel of a machine
// (Documentation/userspace-api/seccomp_filter.rst). All of it runs on the host;
// the agent only loads what comes out.
//
// It reads no files and knows nothing of stacks. What a profile says is bounded
// before memory is taken for it.
package seccomp

//go:generate go run gen.go
