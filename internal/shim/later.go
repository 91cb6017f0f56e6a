package shim

import (
	"context"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/shimproto"
	"github.com/vzcompose/vzcompose/internal/state"
)

func (h handler) Relay(context.Context, state.Relay) (shimproto.Empty, error) {
	return shimproto.Empty{}, errs.New(errs.Unsupported, "this shim does not relay")
}

func (h handler) Unrelay(context.Context, shimproto.Unrelay) (shimproto.Empty, error) {
	return shimproto.Empty{}, errs.New(errs.Unsupported, "this shim does not relay")
}

func (h handler) Reload(context.Context, shimproto.Empty) (shimproto.Empty, error) {
	return shimproto.Empty{}, errs.New(errs.Unsupported, "this shim does not reload")
}
