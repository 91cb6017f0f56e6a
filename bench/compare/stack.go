//go:build linux

package main

import (
	"fmt"
	"os"
)

// stackName is the stack's name everywhere.
const stackName = "compare"

// The stack: n idle containers, without a network, which are killed on down.
const (
	boxCPUs   = 1
	boxMemory = 64 // MiB
)

// vzcomposeFile is the stack as vzcompose reads it.
func vzcomposeFile(n int) string {
	return fmt.Sprintf(`defaults: {image: busybox, cpus: %d, memory: %dMiB, stop_grace_period: 0s, command: [sleep, "3600"], interfaces: []}
containers:
  box: {replicas: %d}
`, boxCPUs, boxMemory, n)
}

// composeFile is the stack as docker compose reads it. What the containers are
// accounted to is below cgroup, so that it can be removed afterwards. The limits
// of files and processes are named since podman would raise them, which takes a
// capability that root in a sandbox may lack.
func composeFile(n int, cgroup string) string {
	return fmt.Sprintf(`services:
  box:
    image: busybox
    command: [sleep, "3600"]
    cpus: %d
    mem_limit: %dm
    stop_grace_period: 0s
    network_mode: none
    cgroup_parent: /%s
    ulimits: {nofile: {soft: 1024, hard: 4096}, nproc: {soft: 4096, hard: 4096}}
    scale: %d
`, boxCPUs, boxMemory, cgroup, n)
}

// writer answers what writes the file of a stack of n to path.
func writer(path string, file func(n int) string) func(int) error {
	return func(n int) error { return os.WriteFile(path, []byte(file(n)), 0o644) }
}
