package store

import (
	"path/filepath"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// dataFolder follows the XDG base directory specification.
func dataFolder(lookup func(string) (string, bool)) (string, error) {
	if d, ok := lookup("XDG_DATA_HOME"); ok && filepath.IsAbs(d) {
		return filepath.Join(d, "vzcompose"), nil
	}
	if d, ok := lookup("HOME"); ok && d != "" {
		return filepath.Join(d, ".local", "share", "vzcompose"), nil
	}
	return "", errs.WithHint(errs.New(errs.FailedPrecondition, "neither VZCOMPOSE_HOME nor HOME is set"),
		"set VZCOMPOSE_HOME to a folder for images and stacks")
}
