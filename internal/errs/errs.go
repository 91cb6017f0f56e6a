// Package errs gives every error of vzcompose a class, so that code can decide
// on it and so that the class survives a hop over the wire. It also carries the
// hint that the user is shown beside the message.
//
// A leaf gives class and subject (errs.New(errs.NotFound, "image %q", ref));
// each layer adds a verb phrase with fmt.Errorf("...: %w"). Nothing here logs.
package errs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Class says what kind of thing went wrong.
type Class string

// The classes. Unknown is what an unclassified error has.
const (
	Unknown            Class = ""
	InvalidArgument    Class = "invalid argument"    // what was asked for is malformed
	NotFound           Class = "not found"           // what was named does not exist
	AlreadyExists      Class = "already exists"      // what was to be made is there
	FailedPrecondition Class = "failed precondition" // not legal in the present state
	PermissionDenied   Class = "permission denied"   // the system or a registry said no
	ResourceExhausted  Class = "resource exhausted"  // a limit was reached
	Unavailable        Class = "unavailable"         // the peer is not there (any more)
	DeadlineExceeded   Class = "deadline exceeded"   // a phase took longer than its limit
	Canceled           Class = "canceled"            // somebody asked to stop
	Unsupported        Class = "unsupported"         // this host or version cannot do it
	DataLoss           Class = "data loss"           // stored or received bytes are not what they must be
	Internal           Class = "internal"            // a bug of ours
)

// classes lists what may come over the wire.
var classes = map[Class]bool{
	InvalidArgument: true, NotFound: true, AlreadyExists: true, FailedPrecondition: true,
	PermissionDenied: true, ResourceExhausted: true, Unavailable: true, DeadlineExceeded: true,
	Canceled: true, Unsupported: true, DataLoss: true, Internal: true,
}

type classified struct {
	class Class
	err   error
}

func (e *classified) Error() string { return e.err.Error() }
func (e *classified) Unwrap() error { return e.err }

// New returns an error of class c; format may wrap with %w.
func New(c Class, format string, args ...any) error {
	return &classified{class: c, err: fmt.Errorf(format, args...)}
}

// As gives err the class c, in place of the one it has. It answers nil for nil.
func As(c Class, err error) error {
	if err == nil {
		return nil
	}
	return &classified{class: c, err: err}
}

// ClassOf answers the outermost class in err's chain. Errors of the standard
// library that have an obvious class are recognised.
func ClassOf(err error) Class {
	var c *classified
	switch {
	case err == nil:
		return Unknown
	case errors.As(err, &c):
		return c.class
	case errors.Is(err, context.Canceled):
		return Canceled
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return DeadlineExceeded
	case errors.Is(err, fs.ErrNotExist):
		return NotFound
	case errors.Is(err, fs.ErrExist):
		return AlreadyExists
	case errors.Is(err, fs.ErrPermission):
		return PermissionDenied
	}
	return Unknown
}

// Is reports whether err is of class c.
func Is(err error, c Class) bool { return err != nil && ClassOf(err) == c }

type hinted struct {
	err  error
	hint string
}

func (e *hinted) Error() string { return e.err.Error() }
func (e *hinted) Unwrap() error { return e.err }

// WithHint adds what the user can do about err. It answers nil for nil.
func WithHint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &hinted{err: err, hint: fmt.Sprintf(format, args...)}
}

// HintOf answers the outermost hint in err's chain, or "".
func HintOf(err error) string {
	var h *hinted
	if errors.As(err, &h) {
		return h.hint
	}
	return ""
}

// maxWire bounds the text taken from a peer, in bytes.
const maxWire = 64 << 10

// Wire is an error as it travels: JSON, versioned by the protocol around it.
type Wire struct {
	Class   Class  `json:"class,omitempty"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// ToWire flattens err; nil for nil.
func ToWire(err error) *Wire {
	if err == nil {
		return nil
	}
	return &Wire{Class: ClassOf(err), Message: cut(err.Error()), Hint: cut(HintOf(err))}
}

// Err rebuilds the error. A class this version does not know becomes Unknown.
func (w *Wire) Err() error {
	if w == nil {
		return nil
	}
	err := errors.New(cut(w.Message))
	if classes[w.Class] {
		err = As(w.Class, err)
	}
	if w.Hint != "" {
		err = WithHint(err, "%s", cut(w.Hint))
	}
	return err
}

func cut(s string) string {
	if len(s) > maxWire {
		return s[:maxWire] + " [cut]"
	}
	return s
}
