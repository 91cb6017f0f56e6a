//go:build linux

package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// removeCgroups removes the control group name and all below it, from every
// hierarchy of the host that has it. root is where they are mounted. Nothing may
// run in them any more.
func removeCgroups(root, name string) error {
	// One hierarchy (v2), or a folder for each (v1).
	tops := []string{filepath.Join(root, name)}
	each, err := filepath.Glob(filepath.Join(root, "*", name))
	if err != nil {
		return err
	}
	var errs []error
	for _, top := range append(tops, each...) {
		errs = append(errs, removeFolders(top))
	}
	return errors.Join(errs...)
}

// removeFolders removes a tree's folders, the deepest first. The files of a
// control group go with it and cannot be removed.
func removeFolders(top string) error {
	var folders []string
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			folders = append(folders, path)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, f := range slices.Backward(folders) {
		errs = append(errs, os.Remove(f))
	}
	return errors.Join(errs...)
}
