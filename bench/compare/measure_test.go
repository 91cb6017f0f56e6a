//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

// diary is what contenders of a test did, in order.
type diary []string

// pretender brings nothing up and says so.
type pretender struct {
	name  string
	diary *diary
	n     int
	lacks int   // how many of n do not run
	fail  error // of up
}

func (p *pretender) prepare(n int) error { p.n = n; return nil }

func (p *pretender) up(context.Context) error {
	*p.diary = append(*p.diary, fmt.Sprintf("%s up %d", p.name, p.n))
	return p.fail
}

func (p *pretender) running(context.Context) (int, error) { return p.n - p.lacks, nil }

func (p *pretender) down(context.Context) error {
	*p.diary = append(*p.diary, p.name+" down")
	return nil
}

type convergingPretender struct{ pretender }

func (*convergingPretender) converges() {}

func TestContendersTakeTurns(t *testing.T) {
	var d diary
	c := comparison{rounds: 2, progress: io.Discard, entrants: []entrant{
		{name: "a", contender: &convergingPretender{pretender{name: "a", diary: &d}}},
		{name: "b", missing: "not here"},
		{name: "c", contender: &pretender{name: "c", diary: &d}},
	}}
	all, err := c.run(t.Context(), []int{3})
	if err != nil {
		t.Fatal(err)
	}
	once := "a up %d, a up %[1]d, a down, c up %[1]d, c down"
	want := strings.Join([]string{fmt.Sprintf(once, 1), fmt.Sprintf(once, 3), fmt.Sprintf(once, 3)}, ", ")
	if got := strings.Join(d, ", "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if len(all) != 2 || len(all[0].up) != 2 || len(all[0].again) != 2 || len(all[1].again) != 0 || len(all[1].down) != 2 {
		t.Errorf("measured %+v", all)
	}
}

func TestALargeStackHasFewerRounds(t *testing.T) {
	var d diary
	c := comparison{rounds: 5, progress: io.Discard, entrants: []entrant{{name: "a", contender: &pretender{name: "a", diary: &d}}}}
	all, err := c.run(t.Context(), []int{largeStack - 1, largeStack})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 2 || len(all[0].up) != 5 || len(all[1].up) != largeRounds {
		t.Errorf("measured %+v", all)
	}
}

func TestWhoFailsIsTakenDownAndLeftOut(t *testing.T) {
	for name, bad := range map[string]*pretender{
		"up of 1: no":                 {fail: errors.New("no")},
		"0 of 1 run after up":         {lacks: 1},
		"-1 of 1 run after up":        {lacks: 2},
		"up of 1: no disk\nno memory": {fail: errors.Join(errors.New("no disk"), errors.New("no memory"))},
	} {
		t.Run(name, func(t *testing.T) {
			var d diary
			bad.name, bad.diary = "bad", &d
			c := comparison{rounds: 2, progress: io.Discard, entrants: []entrant{
				{name: "bad", contender: bad},
				{name: "good", contender: &pretender{name: "good", diary: &d}},
			}}
			all, err := c.run(t.Context(), []int{4})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(d[:2], diary{"bad up 1", "bad down"}) || slices.Contains(d[2:], "bad up 4") {
				t.Errorf("did %v", d)
			}
			if len(all) != 1 || all[0].name != "good" || len(all[0].up) != 2 {
				t.Errorf("measured %+v", all)
			}
			if want := "bad: " + name; !slices.Equal(c.notes, []string{want}) {
				t.Errorf("noted %q, want %q", c.notes, want)
			}
		})
	}
}

func TestAnInterruptEndsTheRun(t *testing.T) {
	var d diary
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	c := comparison{rounds: 1, progress: io.Discard, entrants: []entrant{{name: "a", contender: &pretender{name: "a", diary: &d}}}}
	if _, err := c.run(ctx, []int{1}); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	if d[len(d)-1] != "a down" {
		t.Errorf("did %v", d)
	}
}
