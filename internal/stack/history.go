package stack

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/journal"
)

// History calls each with the entries of the stack's journal, until there are no more,
// each returns an error, or ctx ends. Entries that cannot be read are given to damaged.
func (s *Stack) History(ctx context.Context, o journal.ReadOptions, each func(journal.Entry) error, damaged func(error)) error {
	if err := s.CheckOwner(); err != nil {
		return err
	}
	if err := os.MkdirAll(s.Folder.Stacks(), 0o700); err != nil {
		return err
	}
	r, err := journal.Open(s.Folder.Journal(s.Name), o)
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		e, err := r.Next(ctx)
		switch {
		case errors.Is(err, io.EOF), ctx.Err() != nil:
			return nil
		case errs.Is(err, errs.DataLoss):
			damaged(err)
		case err != nil:
			return err
		default:
			if err := each(e); err != nil {
				return err
			}
		}
	}
}
