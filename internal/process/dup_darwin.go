package process

import "golang.org/x/sys/unix"

// dup makes to another name of fd.
func dup(fd, to int) error { return unix.Dup2(fd, to) }
