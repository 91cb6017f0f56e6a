package engine

import (
	"bufio"
	"fmt"
	"os"
)

// HostMemory answers how many bytes of memory the host can give to machines
// now: MemAvailable of proc(5). 0: not known.
func HostMemory() uint64 {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		var kib uint64
		if n, err := fmt.Sscanf(sc.Text(), "MemAvailable: %d kB", &kib); n == 1 && err == nil {
			return kib << 10
		}
	}
	return 0
}
