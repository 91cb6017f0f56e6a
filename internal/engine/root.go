package engine

import (
	"context"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/event"
	"github.com/vzcompose/vzcompose/internal/image"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/spec"
)

// renewRoot builds the root filesystem of an instance again where it is gone or
// damaged: it is made from an image, a tar or a folder, and the same comes of it,
// or it is an error. A device or file of the user's own is not touched.
func (s *Stack) renewRoot(ctx context.Context, rec store.Instance) error {
	if image.Whole(rec.Root) {
		return nil
	}
	if rec.Image != "" {
		_, err := s.o.Images.RootFS(ctx, rec.Image, nil)
		return err
	}
	c, err := spec.DecodeContainer(rec.Spec)
	if err != nil || c.RootFS == nil || c.RootFS.Block != "" {
		return nil // the boot reports what is wrong with it
	}
	var now store.Instance
	if _, err := s.root(ctx, c, &now, func(event.Progress) {}); err != nil {
		return err
	}
	if now.Root != rec.Root {
		return errs.WithHint(errs.New(errs.DataLoss, "%s is gone or damaged, and what it was made from has changed", rec.Root),
			"up --force-recreate %s makes the container anew", rec.Container)
	}
	return nil
}
