package engine

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/regular"
	"github.com/vzcompose/vzcompose/internal/seccomp"
	"github.com/vzcompose/vzcompose/internal/store"
	"github.com/vzcompose/vzcompose/spec"
)

// seccompOf is what the record says of a container's system calls. The profile's
// text is taken in, so that every start until the next change has the same.
func seccompOf(c spec.Container) (*store.Seccomp, error) {
	switch s := c.Seccomp; {
	case s.Profile == spec.SeccompUnconfined, s.Profile == "" && c.Privileged:
		return &store.Seccomp{Unconfined: true}, nil
	case s.Profile == "":
		return nil, nil
	default:
		text, err := readProfile(s)
		if err != nil {
			return nil, fmt.Errorf("seccomp profile %s: %w", s.Profile, err)
		}
		return &store.Seccomp{Path: s.Profile, Profile: text}, nil
	}
}

func readProfile(s spec.Seccomp) ([]byte, error) {
	b, err := regular.Read(s.Profile, seccomp.MaxProfile)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	if hex.EncodeToString(sum[:]) != s.Digest {
		return nil, errs.WithHint(errs.New(errs.FailedPrecondition, "the file has changed since the stack file was read"), "run it again")
	}
	if _, err := seccomp.Decode(b); err != nil { // as spec has seen it
		return nil, errs.As(errs.InvalidArgument, err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, b); err != nil {
		return nil, errs.As(errs.InvalidArgument, err)
	}
	return compact.Bytes(), nil
}

// filterOf makes the filter of an instance for the machine that it is about to
// get; without a program where nothing is filtered.
func filterOf(rec store.Instance, from *bootFiles) (*seccomp.Filter, error) {
	if rec.OCIRuntime != "" {
		return &seccomp.Filter{}, nil // what it loads is its own; it is not told of any
	}
	profile, what := seccomp.Default(), "the default seccomp profile"
	if s := rec.Seccomp; s != nil {
		if s.Unconfined {
			return &seccomp.Filter{}, nil
		}
		what = "seccomp profile " + s.Path
		var err error
		if profile, err = seccomp.Decode(s.Profile); err != nil {
			return nil, errs.New(errs.InvalidArgument, "%s: %w", what, err)
		}
	}
	t := seccomp.Target{Arch: runtime.GOARCH, Kernel: from.version, Vsock: rec.Vsock}
	if rec.Runtime != nil && rec.Runtime.Process != nil && rec.Runtime.Process.Capabilities != nil {
		t.Caps = rec.Runtime.Process.Capabilities.Bounding
	}
	f, err := seccomp.Compile(profile, t)
	if err != nil {
		return nil, errs.New(errs.FailedPrecondition, "%s: %w", what, err)
	}
	return f, nil
}
