package shim

import (
	"cmp"
	"fmt"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/regular"
	"github.com/vzcompose/vzcompose/internal/store"
)

// files reads the secrets and configs of the instance. Their text goes to the
// agent, and nowhere else.
func (s *shim) files() ([]agentproto.File, error) {
	var all []agentproto.File
	room := agentproto.MaxFiles
	for _, f := range s.inst.Files {
		b, err := s.text(f, room)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", cmp.Or(f.What, f.ID), err)
		}
		room -= len(b)
		all = append(all, agentproto.File{ID: f.ID, Data: b, Mode: f.Mode, UID: f.UID, GID: f.GID})
	}
	return all, nil
}

// text answers what a file says, at most room bytes.
func (s *shim) text(f store.File, room int) ([]byte, error) {
	var b []byte
	switch {
	case f.Path != "":
		var err error
		if b, err = regular.Read(f.Path, int64(room)); err != nil {
			return nil, err
		}
	case f.Env != "":
		v, ok := s.launch.Env[f.Env]
		if !ok {
			return nil, errs.WithHint(errs.New(errs.FailedPrecondition, "the variable %s is not set", f.Env),
				"set it where vzcompose up is called")
		}
		b = []byte(v)
	default:
		b = []byte(f.Text)
	}
	if len(b) > room {
		return nil, errs.New(errs.ResourceExhausted, "secrets and configs are more than %d bytes", agentproto.MaxFiles)
	}
	return b, nil
}
