package switchproto

import (
	"context"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Tries to join again are spaced out, and the outage is reported once, with its end.
func TestMembershipTriesSparingly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var starts []time.Duration
		var lost []error
		back := 0
		m := &Membership{ready: make(chan bool, 1), done: make(chan struct{}), o: MemberOptions{
			Path: "/does/not/exist",
			Start: func(context.Context) error {
				starts = append(starts, time.Since(begin))
				return errs.New(errs.Unavailable, "fork: no memory")
			},
			Lost: func(err error) { lost = append(lost, err) },
			Back: func() { back++ },
		}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if c := m.again(ctx); c != nil {
			t.Error("it has joined")
		}
		if n := len(starts); n < 300 || n > 400 {
			t.Errorf("%d processes were started in an hour", n)
		}
		if starts[0] != 0 || starts[1] != minBackoff {
			t.Errorf("the first tries were after %s", starts[:3])
		}
		if len(lost) != 1 || back != 0 {
			t.Errorf("reported %v, back %d times", lost, back)
		}
	})
}

// A switch that is lost is replaced, of which nobody need hear; one that cannot be
// joined for a while is reported, and so is its end.
func TestMembershipReportsAnOutage(t *testing.T) {
	path, _ := serve(t, time.Hour)
	lost, back := make(chan error, 9), make(chan struct{}, 9)
	refused := make(chan bool, 1) // has whether starts are refused
	refused <- false
	m, err := Become(t.Context(), MemberOptions{Path: path, Join: web(), Frames: []*os.File{pair(t)},
		Start: func(context.Context) error {
			no := <-refused
			refused <- no
			if no {
				return errs.New(errs.Unavailable, "no switch")
			}
			return nil
		},
		Lost: func(err error) { lost <- err }, Back: func() { back <- struct{}{} }})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Leave()
	away := path + ".away"
	if err := os.Rename(path, away); err != nil {
		t.Fatal(err)
	}
	<-refused
	refused <- true
	taker := dial(t, away) // takes its place, which ends the connection
	if err := taker.Join(t.Context(), web(), []*os.File{pair(t)}); err != nil {
		t.Fatal(err)
	}
	if err := <-lost; !errs.Is(err, errs.Unavailable) {
		t.Errorf("reported %v", err)
	}
	if err := os.Rename(away, path); err != nil {
		t.Fatal(err)
	}
	<-back
	if len(lost) > 0 {
		t.Errorf("reported again: %v", <-lost)
	}
}
