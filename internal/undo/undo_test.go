package undo

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestEveryStepRunsNewestFirstOnALiveContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var ran []string
	var s Stack
	for _, name := range []string{"lock", "disk", "machine"} {
		s.Push(name, func(ctx context.Context) error {
			ran = append(ran, name)
			if ctx.Err() != nil {
				t.Errorf("%s ran on a cancelled context", name)
			}
			if name == "disk" {
				return errors.New("busy")
			}
			return nil
		})
	}
	err := s.Run(ctx, time.Second)
	if got := strings.Join(ran, " "); got != "machine disk lock" {
		t.Errorf("order %q", got)
	}
	if err == nil || !strings.Contains(err.Error(), "undo disk: busy") {
		t.Errorf("err %v", err)
	}
	if err := s.Run(ctx, time.Second); err != nil || len(ran) != 3 {
		t.Error("a second Run did something")
	}
}

func TestReleaseKeepsWhatWasMade(t *testing.T) {
	var s Stack
	s.PushFunc("x", func() { t.Error("undone after Release") })
	s.Release()
	if err := s.Run(t.Context(), time.Second); err != nil {
		t.Error(err)
	}
}
