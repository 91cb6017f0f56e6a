//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// places are the files and folders of a run.
type places struct {
	program string // vzcompose
	cache   string // what make deps and deps.sh fill
	work    string // of this run, removed at its end
}

func (p places) compose() string { return filepath.Join(p.cache, "bin", "docker-compose") }
func (p places) kernel() string  { return filepath.Join(p.cache, "kernel.deb") }
func (p places) image() string   { return filepath.Join(p.cache, "images", "busybox.tar") }

// hostLine says what the numbers were measured on. acceleration is doctor's word
// of it.
func hostLine(acceleration string) string {
	cpu := "unknown processors"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if name := field(string(b), "model name"); name != "" {
			cpu = name
		}
	}
	memory := ""
	if n, err := memInfo("MemTotal"); err == nil {
		memory = fmt.Sprintf(", %.0f GiB of memory", float64(n)/(1<<30))
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		release = []byte("unknown")
	}
	return fmt.Sprintf("Host: %d × %s%s, Linux %s, %s; machines by %s.", runtime.NumCPU(), cpu, memory,
		strings.TrimSpace(string(release)), runtime.GOARCH, acceleration)
}

// memInfo answers a line of /proc/meminfo, in bytes.
func memInfo(name string) (uint64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	return kibibytes(string(b), name)
}

// field answers the value of the first line "name : value"; "" if there is none.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// kibibytes answers the value of a line "name: 123 kB", in bytes.
func kibibytes(text, name string) (uint64, error) {
	var n uint64
	if _, err := fmt.Sscanf(field(text, name), "%d kB", &n); err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return n << 10, nil
}
