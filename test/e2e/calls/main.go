//go:build linux

// Command calls makes system calls that no tool of a small image makes, and says
// what the kernel answered. TestConformSeccomp runs it in containers.
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// newest is a number that no kernel has.
const newest = 1000

func main() {
	var all []string
	say := func(name string, err error) {
		answer := "other"
		switch {
		case err == nil || errors.Is(err, unix.Errno(0)):
			answer = "0"
		case errors.Is(err, unix.EPERM):
			answer = "EPERM"
		case errors.Is(err, unix.ENOSYS):
			answer = "ENOSYS"
		}
		all = append(all, name+" "+answer)
	}
	_, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_PROCESS_KEYRING, true)
	say("keyctl", err)
	_, err = unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	say("vsock", err)
	_, _, e := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0) // of no arguments: never made
	say("clone3", e)
	_, _, e = unix.RawSyscall(newest, 0, 0, 0)
	say("newest", e)
	_, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	say("unix", err)
	_, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	say("inet", err)
	done := make(chan struct{})
	go close(done)
	<-done
	say("thread", nil)
	fmt.Fprintln(os.Stdout, strings.Join(all, ", "))
}
