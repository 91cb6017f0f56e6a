//go:build linux

// Compare brings the same stack of idle busybox containers up and down with
// vzcompose, with machines of QEMU started by hand, with docker compose on
// docker's engine and with docker compose on podman, in one run, in turns, and
// prints what that took as a table. It reports; it gates nothing. README.md says
// what is compared with what, and how to repeat it.
//
// It starts and ends the engines itself, in namespaces and folders of their own,
// and leaves nothing behind: no process, mount, control group or folder. What
// cannot take part is named with its reason and is no error.
package main
