//go:build !linux

package spec

import "golang.org/x/sys/unix"

const rusageThread = unix.RUSAGE_SELF
