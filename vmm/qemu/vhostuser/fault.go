//go:build linux

package vhostuser

import (
	"runtime"
	"runtime/debug"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Protect runs fn and answers an error where it touched memory that is not
// there (a SIGBUS behind the end of a file, a SIGSEGV in what was unmapped).
// Any other panic goes on. It is for what a Request does outside the lock; with
// the lock held there is Server.Guard.
func Protect(fn func()) (err error) {
	before := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(before)
		switch p := recover().(type) {
		case nil:
		case fault:
			err = errs.New(errs.DataLoss, "guest memory is not there: %w", p)
		default:
			panic(p)
		}
	}()
	fn()
	return nil
}

// fault is what a memory fault panics with: package runtime/debug,
// SetPanicOnFault. A nil dereference has no address and stays a bug.
type fault interface {
	runtime.Error
	Addr() uintptr
}

// Guard runs fn, which may touch guest memory. A fault ends the device: its
// rings are dead when Guard returns, and Serve ends with the reason. The lock
// is held.
func (s *Server) Guard(fn func()) {
	if err := Protect(fn); err != nil {
		s.fail(err)
	}
}
