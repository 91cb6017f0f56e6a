package vz

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/undo"
)

// openShares finds what is shared, and makes a folder for each file that is shared
// alone, in which there is another link of it and nothing else. The guest writes to
// the file itself, then; where somebody puts another file in its place on the
// host, the guest goes on with the old one, as it does with Docker's binds.
//
// The folders are gone when un is run, for which the machine must be no more.
func openShares(all []folder, un *undo.Stack) error {
	for i := range all {
		if err := all[i].open(un); err != nil {
			return fmt.Errorf("share %s: %w", all[i].tag, err)
		}
	}
	return nil
}

func (f *folder) open(un *undo.Stack) error {
	path, err := filepath.EvalSymlinks(f.path) // once, now: what it leads to later is nobody's wish
	if err != nil {
		return err
	}
	fi, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case fi.IsDir():
		f.path = path
		return nil
	case !fi.Mode().IsRegular():
		return errs.New(errs.InvalidArgument, "%s is neither a folder nor a file", f.path)
	}
	f.file = path
	f.path, err = f.alone(path, un)
	return err
}

// alone is a folder with nothing in it but a link of a file. It is made
// beside the console, in the folder of the instance, so that what a process leaves
// that is killed goes with that.
func (f *folder) alone(file string, un *undo.Stack) (string, error) {
	dir, err := os.MkdirTemp(f.place, sharePrefix+f.tag+"-*")
	if err != nil {
		return "", err
	}
	un.Push("make a folder for "+file, func(context.Context) error { return os.RemoveAll(dir) })
	if err := os.Link(file, filepath.Join(dir, filepath.Base(file))); err != nil {
		return "", errs.WithHint(errs.New(errs.FailedPrecondition, "a file alone is shared by another link of it, which cannot be made: %w", err),
			"bind the folder that it is in, or have it on the volume of VZCOMPOSE_HOME")
	}
	return dir, nil
}

const sharePrefix = "share-"
