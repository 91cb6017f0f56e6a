package engine

import "golang.org/x/sys/unix"

// HostMemory answers how many bytes of memory the host has: macOS gives back
// what it caches when it is asked for more. 0: not known.
func HostMemory() uint64 {
	n, err := unix.SysctlUint64("hw.memsize")
	if err != nil {
		return 0
	}
	return n
}
