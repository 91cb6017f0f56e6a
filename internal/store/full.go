package store

import (
	"encoding/json"
	"os"
	"syscall"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// overwriteJSON writes v into the blocks that the file at path has already: a full
// disk takes that where it takes no new file. It is not whole or not at all as
// WriteFile is, should the host lose its power just then; the record would be of
// what is not true any more otherwise, and for long.
func overwriteJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return errs.New(errs.Internal, "encode %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	const block = 512 // bytes, of st_blocks
	if st, ok := fi.Sys().(*syscall.Stat_t); !ok || int64(st.Blocks)*block < int64(len(b)) {
		return errs.New(errs.ResourceExhausted, "%s has no room for %d bytes", path, len(b))
	}
	for int64(len(b)) < fi.Size() { // what is left of the old record must not follow
		b = append(b, '\n')
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		return err
	}
	return f.Sync()
}
