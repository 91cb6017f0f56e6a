package planner

import (
	"testing"

	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/spec"
)

func TestDown(t *testing.T) {
	up := running(shop())
	broken := func(o *state.Instance) {
		*o = state.Instance{Name: o.Name, State: lifecycle.Errored, Broken: "config.json: gone"}
	}
	for _, c := range []struct {
		name  string
		world state.World
		o     DownOptions
		want  string
	}{
		{name: "all", world: up, want: `
#1 stop container/web-2 (down)
#2 remove container/web-2 after [1] (down)
#3 stop container/web-1 (down)
#4 remove container/web-1 after [3] (down)
#5 remove container/migrate-1 (down)
#6 stop container/db-1 after the end of [1 3] (down)
#7 remove container/db-1 after [6] (down)
`},
		{name: "with volumes", world: with(up, "db-1", in(lifecycle.Errored, "lost")), o: DownOptions{Volumes: true}, want: `
#1 stop container/web-2 (down)
#2 remove container/web-2 after [1] (down)
#3 stop container/web-1 (down)
#4 remove container/web-1 after [3] (down)
#5 remove container/migrate-1 (down)
#6 remove container/db-1 (down)
#7 remove volume/data after [6] (down, with its volumes)
`},
		{name: "one with its volumes", world: up, o: DownOptions{Only: []string{"db", "dbb"}, Volumes: true}, want: `
#1 stop container/db-1 (down)
#2 remove container/db-1 after [1] (down)
#3 remove volume/data after [2] (down, with its volumes)
warning: no instance of dbb is there
`},
		{name: "a volume another mounts stays", world: up, o: DownOptions{Only: []string{"web"}, Volumes: true}, want: `
#1 stop container/web-2 (down)
#2 remove container/web-2 after [1] (down)
#3 stop container/web-1 (down)
#4 remove container/web-1 after [3] (down)
`},
		{name: "what runs is stopped, whatever its record", world: with(up, "web-1", func(o *state.Instance) { broken(o); o.State = lifecycle.Started }), o: DownOptions{Only: []string{"web"}}, want: `
#1 stop container/web-2 (down)
#2 remove container/web-2 after [1] (down)
#3 stop container/web-1 (its record cannot be used: config.json: gone)
#4 remove container/web-1 after [3] (its record cannot be used: config.json: gone)
`},
		{name: "a broken record may mount anything", world: with(up, "web-1", broken), o: DownOptions{Volumes: true}, want: `
#1 stop container/web-2 (down)
#2 remove container/web-2 after [1] (down)
#3 remove container/web-1 (its record cannot be used: config.json: gone)
#4 remove container/migrate-1 (down)
#5 stop container/db-1 after the end of [1] (down)
#6 remove container/db-1 after [5] (down)
#7 remove volume/data after [3 6] (down, with its volumes)
`},
		{name: "twice", world: state.World{Stack: "test"}},
		{name: "volumes alone are left", world: state.World{Stack: "test", Volumes: up.Volumes}, o: DownOptions{Volumes: true}, want: `
#1 remove volume/data (down, with its volumes)
`},
		{name: "records that depend on each other", world: running(stack("a", container(), "b", container(needs("a")))), want: `
#1 stop container/a-1 (down)
#2 remove container/a-1 after [1] (down)
#3 stop container/b-1 after the end of [1] (down)
#4 remove container/b-1 after [3] (down)
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "records that depend on each other" {
				c.world = with(c.world, "a-1", func(o *state.Instance) { o.Spec, _ = spec.EncodeContainer(container(needs("b"))) })
			}
			check(t, Down(c.world, c.o), c.want)
		})
	}
}

func TestStopStartRestart(t *testing.T) {
	up := running(shop())
	stopped := up
	for _, name := range []string{"db-1", "web-1", "web-2"} {
		stopped = with(stopped, name, func(o *state.Instance) { exited(0)(o); o.Exit.Requested = true })
	}
	linked := running(stack("db", container(), "web", container(needs("db restart"))))
	for _, c := range []struct {
		name  string
		do    func(state.World, []string) (*Plan, error)
		world state.World
		only  []string
		want  string
	}{
		{name: "stop", do: StopAll, world: up, want: `
#1 stop container/web-2 (asked to stop)
#2 stop container/web-1 (asked to stop)
#3 stop container/db-1 after the end of [1 2] (asked to stop)
`},
		{name: "stop what is stopped", do: StopAll, world: stopped},
		{name: "stop one", do: StopAll, world: up, only: []string{"db"}, want: `
#1 stop container/db-1 (asked to stop)
`},
		{name: "start", do: StartAll, world: stopped, want: `
#1 start container/db-1 (asked to start: was stopped)
#2 await healthy container/db-1 after [1] (migrate waits for it)
#3 start container/migrate-1 after [2] (asked to start: exited with 0)
#4 await completed container/migrate-1 after [3] (web waits for it)
#5 start container/web-1 after [1 4] (asked to start: was stopped)
#6 start container/web-2 after [1 4] (asked to start: was stopped)
`},
		{name: "start what runs", do: StartAll, world: linked},
		{name: "start beside a broken one", do: StartAll, world: with(stopped, "db-1", func(o *state.Instance) { o.Broken, o.State = "gone", lifecycle.Errored }), only: []string{"db", "migrate"}, want: `
#1 start container/migrate-1 (asked to start: exited with 0)
warning: db-1 stays as it is: its record cannot be used: gone
`},
		{name: "restart", do: RestartAll, world: up, want: `
#1 stop container/web-2 (asked to restart)
#2 stop container/web-1 (asked to restart)
#3 stop container/db-1 after [1 2] (asked to restart)
#4 start container/db-1 after [3] (asked to restart)
#5 await healthy container/db-1 after [4] (migrate waits for it)
#6 start container/migrate-1 after [5] (asked to restart)
#7 await completed container/migrate-1 after [6] (web waits for it)
#8 start container/web-1 after [2 4 7] (asked to restart)
#9 start container/web-2 after [1 4 7] (asked to restart)
`},
		{name: "restart takes along", do: RestartAll, world: linked, only: []string{"db"}, want: `
#1 stop container/web-1 (it is restarted with db)
#2 stop container/db-1 after [1] (asked to restart)
#3 start container/db-1 after [2] (asked to restart)
#4 start container/web-1 after [1 3] (it is restarted with db)
`},
		{name: "restart takes along what runs", do: RestartAll, world: with(linked, "web-1", exited(1)), only: []string{"db"}, want: `
#1 stop container/db-1 (asked to restart)
#2 start container/db-1 after [1] (asked to restart)
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := c.do(c.world, c.only)
			if err != nil {
				t.Fatal(err)
			}
			check(t, p, c.want)
		})
	}
	if _, err := StopAll(up, []string{"wbe"}); err == nil || err.Error() != "stack test: no instance of wbe is there" {
		t.Errorf("got %v", err)
	}
}
