//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of processor time in /proc: Linux shows it in 1/100 s
// everywhere, whatever the kernel's own.
const clockTick = 10 * time.Millisecond

// usage is what a process takes.
type usage struct {
	pss, rss uint64        // bytes
	cpu      time.Duration // in user and kernel, since its start
}

func (u usage) plus(v usage) usage {
	return usage{pss: u.pss + v.pss, rss: u.rss + v.rss, cpu: u.cpu + v.cpu}
}

// usageOf reads what a process takes now.
func usageOf(pid int) (u usage, err error) {
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return usage{}, err
	}
	if u.pss, err = kibibytes(string(rollup), "Pss"); err != nil {
		return usage{}, err
	}
	if u.rss, err = kibibytes(string(rollup), "Rss"); err != nil {
		return usage{}, err
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return usage{}, err
	}
	u.cpu, err = cpuTime(string(stat))
	return u, err
}

// sum is what several processes take together.
func sum(pids []int) (total usage, err error) {
	for _, pid := range pids {
		u, err := usageOf(pid)
		if err != nil {
			return usage{}, fmt.Errorf("process %d: %w", pid, err)
		}
		total = total.plus(u)
	}
	return total, nil
}

// cpuTime reads utime and stime from /proc/PID/stat. The second field is the
// program's name, in parentheses, with anything in it.
func cpuTime(stat string) (time.Duration, error) {
	const utime, stime = 14 - 3, 15 - 3 // in what follows the second, counted from 0
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) <= stime {
		return 0, errors.New("stat: too short")
	}
	var ticks time.Duration
	for _, f := range []string{fields[utime], fields[stime]} {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("stat: %w", err)
		}
		ticks += time.Duration(n)
	}
	return ticks * clockTick, nil
}

// machinesOf are the machines of shims: their children that are QEMU.
func machinesOf(shims []int) ([]int, error) {
	var machines []int
	for _, shim := range shims {
		children, err := childrenOf(shim)
		if err != nil {
			return nil, err
		}
		before := len(machines)
		for _, pid := range children {
			if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && strings.HasPrefix(string(name), "qemu-system") {
				machines = append(machines, pid)
			}
		}
		if len(machines) != before+1 {
			return nil, fmt.Errorf("shim %d has %d machines", shim, len(machines)-before)
		}
	}
	return machines, nil
}

// childrenOf are the children of all threads of a process.
func childrenOf(pid int) ([]int, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil, err
	}
	var children []int
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // that thread is gone
		}
		for _, word := range strings.Fields(string(b)) {
			n, err := strconv.Atoi(word)
			if err != nil {
				return nil, err
			}
			children = append(children, n)
		}
	}
	return children, nil
}
