package errs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
)

func TestClassAndHintSurviveWrappingAndWire(t *testing.T) {
	leaf := New(NotFound, "image %q", "web")
	err := fmt.Errorf("create web-1: %w", WithHint(leaf, "run %s", "pull"))
	back := ToWire(err).Err()
	for _, e := range []error{err, back} {
		if ClassOf(e) != NotFound || HintOf(e) != "run pull" || e.Error() != `create web-1: image "web"` {
			t.Errorf("got %v (%s, %q)", e, ClassOf(e), HintOf(e))
		}
	}
}

func TestStandardErrorsHaveClasses(t *testing.T) {
	for err, want := range map[error]Class{
		context.Canceled: Canceled, context.DeadlineExceeded: DeadlineExceeded,
		fs.ErrNotExist: NotFound, fs.ErrPermission: PermissionDenied, errors.New("x"): Unknown,
	} {
		if got := ClassOf(fmt.Errorf("open: %w", err)); got != want {
			t.Errorf("%v: got %q, want %q", err, got, want)
		}
	}
}

func TestHostileWire(t *testing.T) {
	w := &Wire{Class: "made up", Message: strings.Repeat("x", 1<<20)}
	err := w.Err()
	if ClassOf(err) != Unknown || len(err.Error()) > maxWire+16 {
		t.Errorf("class %q, %d bytes", ClassOf(err), len(err.Error()))
	}
	if (*Wire)(nil).Err() != nil || ToWire(nil) != nil || As(NotFound, nil) != nil || WithHint(nil, "x") != nil {
		t.Error("nil must stay nil")
	}
}
