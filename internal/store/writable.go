package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// CheckWritable returns which of the home's folders cannot be written to: a home of
// another user, or on a filesystem that is mounted read-only, can still be opened.
func (h Home) CheckWritable() error {
	var all []error
	for _, dir := range []string{h.Dir, h.Images(), h.Kernels(), h.Templates(), h.Stacks(), filepath.Join(h.Dir, "volumes"), h.Pool().Dir} {
		f, err := os.CreateTemp(dir, ".check-*")
		switch {
		case errors.Is(err, os.ErrNotExist): // it is made when it is needed
		case err != nil:
			all = append(all, fmt.Errorf("write to %s: %w", dir, errors.Unwrap(err)))
		default:
			all = append(all, f.Close(), os.Remove(f.Name()))
		}
	}
	if err := errors.Join(all...); err != nil {
		return errs.WithHint(errs.As(errs.FailedPrecondition, err), "make it writable, or set VZCOMPOSE_HOME to another folder")
	}
	return nil
}
