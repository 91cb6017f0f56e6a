package vmmfake

import (
	"context"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
)

func notYet[T any](what string) (t T, err error) {
	return t, errs.New(errs.Unsupported, "this agent does not %s", what)
}

func (*agent) Resize(context.Context, agentproto.Resize) (agentproto.Empty, error) {
	return notYet[agentproto.Empty]("resize")
}

func (*agent) Stat(context.Context, agentproto.Stat) (agentproto.FileInfo, error) {
	return notYet[agentproto.FileInfo]("stat")
}

func (*agent) Read(context.Context, agentproto.Read) (agentproto.Empty, error) {
	return notYet[agentproto.Empty]("read")
}

func (*agent) Write(context.Context, agentproto.Write) (agentproto.Empty, error) {
	return notYet[agentproto.Empty]("write")
}
