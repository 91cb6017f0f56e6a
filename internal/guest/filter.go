//go:build linux

package guest

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
)

// filter is a program for seccomp(2). The host made it; only the kernel looks
// into it.
type filter struct {
	Program []byte `json:"program"`
	Flags   uint32 `json:"flags,omitempty"`
}

const filterFlags = unix.SECCOMP_FILTER_FLAG_LOG | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW

// parseFilter checks what is the agent's to check: the size, and that no flag
// changes how loading works.
func parseFilter(f *agentproto.Filter) (*filter, error) {
	if f == nil {
		return nil, nil
	}
	if n := len(f.Program); n == 0 || n > agentproto.MaxFilter || n%unix.SizeofSockFilter != 0 {
		return nil, errs.New(errs.InvalidArgument, "a seccomp filter of %d bytes", n)
	}
	if f.Flags&^filterFlags != 0 {
		return nil, errs.New(errs.InvalidArgument, "a seccomp filter with the flags %#x", f.Flags)
	}
	return &filter{Program: f.Program, Flags: f.Flags}, nil
}

// loader is a filter that is ready to be loaded by one system call.
type loader struct {
	program unix.SockFprog
	flags   uintptr
}

// ready answers a loader of f, which may be nil.
func (f *filter) ready() *loader {
	if f == nil {
		return nil
	}
	code := make([]unix.SockFilter, len(f.Program)/unix.SizeofSockFilter)
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&code[0])), len(f.Program)), f.Program)
	return &loader{unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}, uintptr(f.Flags)}
}

// load has the filter hold for this thread and what it becomes, or with every
// for the others of the process too. It needs the no-new-privileges bit or
// CAP_SYS_ADMIN. It takes no memory, so that it can be the last thing before an
// execve. A nil l has nothing to load.
func (l *loader) load(every bool) unix.Errno {
	if l == nil {
		return 0
	}
	flags := l.flags
	if every {
		flags |= unix.SECCOMP_FILTER_FLAG_TSYNC
	}
	r, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&l.program)))
	if e == 0 && r != 0 { // the thread that could not have it
		e = unix.ESRCH
	}
	return e
}

func loadError(e unix.Errno) error {
	switch {
	case errors.Is(e, unix.ENOSYS), errors.Is(e, unix.EOPNOTSUPP):
		return errs.New(errs.Unsupported, "load the seccomp filter: the kernel has no filters of system calls: %w", e)
	case errors.Is(e, unix.EINVAL):
		return errs.New(errs.InvalidArgument, "load the seccomp filter: the kernel does not take its program: %w", e)
	}
	return fmt.Errorf("load the seccomp filter: %w", e)
}

// rights are the capabilities until the execve: those of the process, and what
// loading its filter takes. The execve makes the sets anew from the bounding and
// the ambient one, and so takes that back (capabilities(7), Transformation of
// capabilities during execve()).
func (p *processOrders) rights() capSets {
	s := p.Caps
	if p.Filter != nil && !p.NoNewPrivileges {
		s.Effective |= 1 << unix.CAP_SYS_ADMIN
		s.Permitted |= 1 << unix.CAP_SYS_ADMIN
	}
	return s
}

// confine loads the filter for an init, which stays: for all its threads, so
// that the container cannot have one of them make a call for it.
func (p *processOrders) confine() error {
	if p.Filter == nil {
		return nil
	}
	if e := p.Filter.ready().load(true); e != 0 {
		return loadError(e)
	}
	if err := p.Caps.apply(); err != nil { // without the right to load
		return fmt.Errorf("the init under the container's seccomp filter: %w", err)
	}
	return nil
}
