//go:build linux

package guest

import (
	"errors"
	"io/fs"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/users"
)

// readDatabase reads the files below the present root. An image may lack them.
func readDatabase() (users.Database, error) {
	var d users.Database
	var err1, err2 error
	d.Passwd, err1 = readBounded("/etc/passwd", users.MaxFile)
	d.Group, err2 = readBounded("/etc/group", users.MaxFile)
	for _, err := range []error{err1, err2} {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return d, errs.New(errs.InvalidArgument, "read the container's users: %w", err)
		}
	}
	return d, nil
}

// readDatabaseIn reads the files of another root, whatever links it has.
func readDatabaseIn(root inRoot) (d users.Database, err error) {
	for _, f := range []struct {
		name string
		to   *[]byte
	}{{"/etc/passwd", &d.Passwd}, {"/etc/group", &d.Group}} {
		if *f.to, err = root.readFile(f.name, users.MaxFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return d, errs.New(errs.InvalidArgument, "read the container's users: %w", err)
		}
	}
	return d, nil
}

func cutName(s string) string { return s[:min(len(s), 128)] }
