package store

import (
	"path/filepath"

	"github.com/vzcompose/vzcompose/internal/errs"
)

func dataFolder(lookup func(string) (string, bool)) (string, error) {
	if d, ok := lookup("HOME"); ok && d != "" {
		return filepath.Join(d, "Library", "Application Support", "vzcompose"), nil
	}
	return "", errs.WithHint(errs.New(errs.FailedPrecondition, "neither VZCOMPOSE_HOME nor HOME is set"),
		"set VZCOMPOSE_HOME to a folder for images and stacks")
}
