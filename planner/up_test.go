package planner

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vzcompose/vzcompose/internal/diag"
	"github.com/vzcompose/vzcompose/internal/lifecycle"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/spec"
)

// shop is the stack of most cases: a one-shot, a database, a web server.
func shop() *spec.Stack {
	return stack(
		"db", container(ref("postgres"), mounts("data")),
		"migrate", container(ref("app"), needs("db healthy")),
		"web", container(ref("app"), needs("db", "migrate completed"), replicas(2)),
	)
}

func edited(s *spec.Stack, name string, edit func(*spec.Container)) *spec.Stack {
	c := s.Containers[name]
	edit(&c)
	s.Containers[name] = c
	return s
}

// withInactive is a stack whose file has more containers, which are not asked for.
func withInactive(s *spec.Stack, inactive ...string) *spec.Stack {
	s.Inactive = inactive
	return s
}

func memory(n uint64) func(*spec.Container) { return func(c *spec.Container) { c.Memory = n * mib } }

// upCase is one plan. A want is the plan and its warnings.
type upCase struct {
	name  string
	stack *spec.Stack
	world state.World
	o     Options
	want  string
}

func (c upCase) run(t *testing.T) {
	t.Run(c.name, func(t *testing.T) {
		p, err := Up(c.stack, c.world, c.o)
		if err != nil {
			t.Fatal(err)
		}
		check(t, p, c.want)
	})
}

func TestUpFromNothing(t *testing.T) {
	for _, c := range []upCase{
		{name: "all", stack: shop(), want: `
#1 pull image/app (image app is not here)
#2 pull image/postgres (image postgres is not here)
#3 create volume/data (not found)
#4 create container/db-1 after [2 3] (does not exist)
#5 start container/db-1 after [4] (new)
#6 await healthy container/db-1 after [5] (migrate waits for it)
#7 create container/migrate-1 after [1] (does not exist)
#8 start container/migrate-1 after [6 7] (new)
#9 await completed container/migrate-1 after [8] (web waits for it)
#10 create container/web-1 after [1] (does not exist)
#11 start container/web-1 after [5 9 10] (new)
#12 create container/web-2 after [1] (does not exist)
#13 start container/web-2 after [5 9 12] (new)
`},
		{name: "only db", stack: shop(), o: Options{Only: []string{"db"}}, want: `
#1 pull image/postgres (image postgres is not here)
#2 create volume/data (not found)
#3 create container/db-1 after [1 2] (does not exist)
#4 start container/db-1 after [3] (new)
`},
		{name: "migrate without deps", stack: shop(), o: Options{Only: []string{"migrate"}, NoDeps: true}, want: `
#1 pull image/app (image app is not here)
#2 create container/migrate-1 after [1] (does not exist)
#3 start container/migrate-1 after [2] (new)
`},
		{name: "create only", stack: shop(), o: Options{NoStart: true}, want: `
#1 pull image/app (image app is not here)
#2 pull image/postgres (image postgres is not here)
#3 create volume/data (not found)
#4 create container/db-1 after [2 3] (does not exist)
#5 create container/migrate-1 after [1] (does not exist)
#6 create container/web-1 after [1] (does not exist)
#7 create container/web-2 after [1] (does not exist)
`},
		{name: "every replica is waited for", stack: stack(
			"db", container(replicas(2)),
			"web", container(needs("db healthy"), replicas(2)),
		), want: `
#1 pull image/busybox (image busybox is not here)
#2 create container/db-1 after [1] (does not exist)
#3 start container/db-1 after [2] (new)
#4 await healthy container/db-1 after [3] (web waits for it)
#5 create container/db-2 after [1] (does not exist)
#6 start container/db-2 after [5] (new)
#7 await healthy container/db-2 after [6] (web waits for it)
#8 create container/web-1 after [1] (does not exist)
#9 start container/web-1 after [4 7 8] (new)
#10 create container/web-2 after [1] (does not exist)
#11 start container/web-2 after [4 7 10] (new)
`},
		{name: "two wait for one", stack: stack(
			"db", container(),
			"api", container(needs("db healthy")),
			"web", container(needs("db healthy optional", "api")),
		), want: `
#1 pull image/busybox (image busybox is not here)
#2 create container/db-1 after [1] (does not exist)
#3 start container/db-1 after [2] (new)
#4 await healthy container/db-1 after [3] (api, web wait for it)
#5 create container/api-1 after [1] (does not exist)
#6 start container/api-1 after [4 5] (new)
#7 create container/web-1 after [1] (does not exist)
#8 start container/web-1 after [6 7] after the end of [4] (new)
`},
		{name: "optional dependencies", stack: stack(
			"cache", container(), "warm", container(needs("cache")),
			"web", container(needs("cache optional", "warm completed optional", "metrics optional")),
		), want: `
#1 pull image/busybox (image busybox is not here)
#2 create container/cache-1 after [1] (does not exist)
#3 start container/cache-1 after [2] (new)
#4 create container/warm-1 after [1] (does not exist)
#5 start container/warm-1 after [3 4] (new)
#6 await completed container/warm-1 after [5] if it can (web waits for it)
#7 create container/web-1 after [1] (does not exist)
#8 start container/web-1 after [7] after the end of [3 6] (new)
`},
		{name: "a rootfs needs no pull, one image one pull", stack: stack(
			"a", container(func(c *spec.Container) { c.Image, c.RootFS = "", &spec.RootFS{Tar: "/a.tar"} }),
			"b", container(func(c *spec.Container) { c.Pull = "never" }),
			"c", container(func(c *spec.Container) { c.Pull = "always" }),
		), want: `
#1 pull image/busybox (image busybox is not here)
#2 create container/a-1 (does not exist)
#3 start container/a-1 after [2] (new)
#4 create container/b-1 after [1] (does not exist)
#5 start container/b-1 after [4] (new)
#6 create container/c-1 after [1] (does not exist)
#7 start container/c-1 after [6] (new)
`},
		{name: "none of a dependency", stack: stack("db", container(replicas(0)), "web", container(needs("db healthy"))), want: `
#1 pull image/busybox (image busybox is not here)
#2 create container/web-1 after [1] (does not exist)
#3 start container/web-1 after [2] (new)
`},
	} {
		c.run(t)
	}
}

func TestUpOfAnUnchangedStackPlansNothing(t *testing.T) {
	for _, c := range []upCase{
		{name: "all", stack: shop(), world: running(shop())},
		{name: "named", stack: shop(), world: running(shop()), o: Options{Only: []string{"migrate"}}},
		{name: "options that change nothing", stack: shop(), world: running(shop()), o: Options{NoRecreate: true, RemoveOrphans: true}},
		{name: "an image that is gone", stack: shop(), world: func() state.World {
			w := running(shop())
			w.Images = nil
			return w
		}()},
		{name: "pull always", stack: stack("a", container(func(c *spec.Container) { c.Pull = "always" })),
			world: running(stack("a", container(func(c *spec.Container) { c.Pull = "always" })))},
		{name: "nothing declared", stack: stack()},
	} {
		c.run(t)
	}
}

func TestUpAfterAChange(t *testing.T) {
	up := running(shop())
	both := edited(edited(shop(), "web", memory(256)), "db", memory(512))
	for _, c := range []upCase{
		{name: "machine", stack: edited(shop(), "web", memory(256)), world: up, want: `
#1 stop container/web-2 (memory 128MiB → 256MiB)
#2 stop container/web-1 (memory 128MiB → 256MiB)
#3 update container/web-1 after [2] (memory 128MiB → 256MiB)
#4 start container/web-1 after [3] (memory 128MiB → 256MiB)
#5 update container/web-2 after [1] (memory 128MiB → 256MiB)
#6 start container/web-2 after [5] (memory 128MiB → 256MiB)
`},
		{name: "along a chain", stack: both, world: up, want: `
#1 stop container/web-2 (memory 128MiB → 256MiB)
#2 stop container/web-1 (memory 128MiB → 256MiB)
#3 stop container/db-1 after [1 2] (memory 128MiB → 512MiB)
#4 update container/db-1 after [3] (memory 128MiB → 512MiB)
#5 start container/db-1 after [4] (memory 128MiB → 512MiB)
#6 update container/web-1 after [2] (memory 128MiB → 256MiB)
#7 start container/web-1 after [5 6] (memory 128MiB → 256MiB)
#8 update container/web-2 after [1] (memory 128MiB → 256MiB)
#9 start container/web-2 after [5 8] (memory 128MiB → 256MiB)
`},
		{name: "order holds through what is left alone", world: running(stack("db", container(), "api", container(needs("db")), "web", container(needs("api")))),
			stack: stack("db", container(memory(1)), "api", container(needs("db")), "web", container(memory(1), needs("api"))), want: `
#1 stop container/web-1 (memory 128MiB → 1MiB)
#2 stop container/db-1 after [1] (memory 128MiB → 1MiB)
#3 update container/db-1 after [2] (memory 128MiB → 1MiB)
#4 start container/db-1 after [3] (memory 128MiB → 1MiB)
#5 update container/web-1 after [1] (memory 128MiB → 1MiB)
#6 start container/web-1 after [5] (memory 128MiB → 1MiB)
`},
		{name: "live", stack: edited(shop(), "db", policy("always")), world: up, want: `
#1 update container/db-1 (restart no → always)
`},
		{name: "live, of what is done", stack: edited(shop(), "migrate", func(c *spec.Container) { c.Labels = map[string]string{"a": "b"} }), world: up, want: `
#1 update container/migrate-1 (labels.a none → b)
`},
		{name: "work that is done is done again", stack: edited(shop(), "migrate", func(c *spec.Container) { c.Command = []string{"migrate", "--all"} }), world: up, want: `
#1 update container/migrate-1 (command none → migrate --all)
#2 start container/migrate-1 after [1] (command none → migrate --all)
`},
		{name: "image reference", stack: edited(shop(), "db", ref("postgres:17")), world: up, want: `
#1 pull image/postgres:17 (image postgres:17 is not here)
#2 stop container/db-1 after [1] (image postgres → postgres:17)
#3 remove container/db-1 after [2] (image postgres → postgres:17)
#4 create container/db-1 after [3] (image postgres → postgres:17)
#5 start container/db-1 after [4] (image postgres → postgres:17)
`},
		{name: "another name of the same image", stack: edited(shop(), "db", ref("postgres:17")), world: func() state.World {
			w := running(shop())
			w.Images = append(w.Images, state.Image{Ref: "postgres:17", Digest: digestOf("postgres"), Checked: true})
			return w
		}(), want: `
#1 update container/db-1 (image postgres → postgres:17)
`},
		{name: "image digest", stack: edited(shop(), "db", func(c *spec.Container) { c.Pull = "always" }), world: func() state.World {
			w := running(shop())
			w.Images[1].Digest = digestOf("postgres, later")
			return w
		}(), want: `
#1 pull image/postgres (pull is "always")
#2 stop container/db-1 after [1] (image postgres sha256:a942b37ccfaf… → sha256:9cff41aeb1e5…, pull missing → always)
#3 remove container/db-1 after [2] (image postgres sha256:a942b37ccfaf… → sha256:9cff41aeb1e5…, pull missing → always)
#4 create container/db-1 after [3] (image postgres sha256:a942b37ccfaf… → sha256:9cff41aeb1e5…, pull missing → always)
#5 start container/db-1 after [4] (image postgres sha256:a942b37ccfaf… → sha256:9cff41aeb1e5…, pull missing → always)
`},
		{name: "many fields, no secrets", stack: edited(shop(), "db", func(c *spec.Container) {
			c.CPUs, c.User, c.Hostname, c.Memory = 2, "postgres", "db", 1024*mib
			c.Environment = map[string]string{"PASSWORD": "hunter2"}
		}), world: up, want: `
#1 stop container/db-1 (cpus 1 → 2, memory 128MiB → 1GiB, hostname none → db and 2 more)
#2 update container/db-1 after [1] (cpus 1 → 2, memory 128MiB → 1GiB, hostname none → db and 2 more)
#3 start container/db-1 after [2] (cpus 1 → 2, memory 128MiB → 1GiB, hostname none → db and 2 more)
`},
		{name: "restarted with its dependency", world: running(stack("db", container(), "web", container(needs("db restart")), "job", container(needs("db restart", "web")))),
			stack: stack("db", container(memory(256)), "web", container(needs("db restart")), "job", container(needs("db restart", "web"))), want: `
#1 stop container/job-1 (it is restarted with db)
#2 stop container/web-1 after [1] (it is restarted with db)
#3 stop container/db-1 after [1 2] (memory 128MiB → 256MiB)
#4 update container/db-1 after [3] (memory 128MiB → 256MiB)
#5 start container/db-1 after [4] (memory 128MiB → 256MiB)
#6 start container/web-1 after [2 5] (it is restarted with db)
#7 start container/job-1 after [1 5 6] (it is restarted with db)
`},
		{name: "a new volume, and its pull, come first", stack: edited(shop(), "web", func(c *spec.Container) { mounts("cache")(c); ref("app:2")(c) }), world: up, want: `
#1 pull image/app:2 (image app:2 is not here)
#2 create volume/cache (not found; a directory for several instances of web)
#3 stop container/web-2 after [1 2] (image app → app:2, mounts[/cache] none → {type volume, source cache, destination /cache})
#4 remove container/web-2 after [3] (image app → app:2, mounts[/cache] none → {type volume, source cache, destination /cache})
#5 stop container/web-1 after [1 2] (image app → app:2, mounts[/cache] none → {type volume, source cache, destination /cache})
#6 remove container/web-1 after [5] (image app → app:2, mounts[/cache] none → {type volume, source cache, destination /cache})
#7 create container/web-1 after [6] (image app → app:2, mounts[/cache] none → {type volume, source cache, destination /cache})
#8 start container/web-1 after [7] (image app → app:2, mounts[/cache] none → {type volume, source cache, destination /cache})
#9 create container/web-2 after [4] (image app → app:2, mounts[/cache] none → {type volume, source cache, destination /cache})
#10 start container/web-2 after [9] (image app → app:2, mounts[/cache] none → {type volume, source cache, destination /cache})
`},
		{name: "recreate web", stack: shop(), world: up, o: Options{Only: []string{"web"}, ForceRecreate: true}, want: `
#1 stop container/web-2 (asked to recreate)
#2 remove container/web-2 after [1] (asked to recreate)
#3 stop container/web-1 (asked to recreate)
#4 remove container/web-1 after [3] (asked to recreate)
#5 create container/web-1 after [4] (asked to recreate)
#6 start container/web-1 after [5] (asked to recreate)
#7 create container/web-2 after [2] (asked to recreate)
#8 start container/web-2 after [7] (asked to recreate)
`},
		{name: "no recreate", stack: edited(shop(), "db", memory(512)), world: with(up, "db-1", in(lifecycle.Stopped, "")), o: Options{NoRecreate: true}, want: `
#1 start container/db-1 (stopped)
`},
		{name: "no start", stack: both, world: up, o: Options{NoStart: true}, want: `
#1 stop container/web-2 (memory 128MiB → 256MiB)
#2 stop container/web-1 (memory 128MiB → 256MiB)
#3 stop container/db-1 after [1 2] (memory 128MiB → 512MiB)
#4 update container/db-1 after [3] (memory 128MiB → 512MiB)
#5 update container/web-1 after [2] (memory 128MiB → 256MiB)
#6 update container/web-2 after [1] (memory 128MiB → 256MiB)
`},
		{name: "volume size", stack: func() *spec.Stack { s := shop(); s.Volumes["data"] = spec.Volume{Size: 1536 * mib}; return s }(), world: up, want: `
warning: volume data: size 1GiB → 1536MiB is not applied to what is there; remove the volume first
`},
		{name: "volume of the size that a smaller one has too", stack: func() *spec.Stack { s := shop(); s.Volumes["data"] = spec.Volume{Size: 600 * mib}; return s }(),
			world: func() state.World {
				w := with(up, "db-1", func(*state.Instance) {})
				w.Volumes = []state.Volume{{Name: "data", Size: 1024 * mib, Least: 256*mib + 1}}
				return w
			}(), want: ""},
		{name: "stored by a later version", stack: shop(), world: with(up, "db-1", func(o *state.Instance) { o.Spec = []byte(`{"version":9}`) }), want: `
#1 stop container/db-1 (its stored spec cannot be read: decode stored container: version 9 is not known, only 1)
#2 update container/db-1 after [1] (its stored spec cannot be read: decode stored container: version 9 is not known, only 1)
#3 start container/db-1 after [2] (its stored spec cannot be read: decode stored container: version 9 is not known, only 1)
`},
	} {
		c.run(t)
	}
}

func TestUpScalesAndTakesAway(t *testing.T) {
	up := running(shop())
	db := shop().Containers["db"]
	for _, c := range []upCase{
		{name: "up", stack: shop(), world: up, o: Options{Scale: map[string]int{"web": 4}}, want: `
#1 update container/web-1 (replicas 2 → 4)
#2 update container/web-2 (replicas 2 → 4)
#3 create container/web-3 (replicas 2 → 4)
#4 start container/web-3 after [3] (new)
#5 create container/web-4 (replicas 2 → 4)
#6 start container/web-4 after [5] (new)
`},
		{name: "down", stack: shop(), world: up, o: Options{Scale: map[string]int{"web": 0}}, want: `
#1 stop container/web-2 (replicas 2 → 0)
#2 remove container/web-2 after [1] (replicas 2 → 0)
#3 stop container/web-1 (replicas 2 → 0)
#4 remove container/web-1 after [3] (replicas 2 → 0)
`},
		{name: "down, another is meant", stack: shop(), world: up, o: Options{Scale: map[string]int{"web": 0}, Only: []string{"db"}}},
		{name: "orphans stay", stack: stack("db", db), world: up, want: `
warning: migrate-1: not in the stack file; --remove-orphans removes it
warning: web-1, web-2: not in the stack file; --remove-orphans removes it
`},
		{name: "what is not asked for is no orphan", stack: withInactive(stack("db", db), "migrate", "web"), world: up, o: Options{RemoveOrphans: true}},
		{name: "orphans go", stack: stack("db", db), world: up, o: Options{RemoveOrphans: true}, want: `
#1 stop container/web-2 (not in the stack file)
#2 remove container/web-2 after [1] (not in the stack file)
#3 stop container/web-1 (not in the stack file)
#4 remove container/web-1 after [3] (not in the stack file)
#5 remove container/migrate-1 (not in the stack file)
`},
		{name: "orphans that fail to stop hold nothing up", stack: edited(stack("db", db), "db", memory(1)), world: up, o: Options{RemoveOrphans: true}, want: `
#1 stop container/web-2 (not in the stack file)
#2 remove container/web-2 after [1] (not in the stack file)
#3 stop container/web-1 (not in the stack file)
#4 remove container/web-1 after [3] (not in the stack file)
#5 remove container/migrate-1 (not in the stack file)
#6 stop container/db-1 after the end of [1 3] (memory 128MiB → 1MiB)
#7 update container/db-1 after [6] (memory 128MiB → 1MiB)
#8 start container/db-1 after [7] (memory 128MiB → 1MiB)
`},
	} {
		c.run(t)
	}
}

func TestUpAfterAFailureOrACrash(t *testing.T) {
	up := running(shop())
	oom := func(o *state.Instance) { exited(137)(o); o.Exit.OOM = true }
	stopped := func(o *state.Instance) { exited(0)(o); o.Exit.Requested = true }
	broken := func(o *state.Instance) {
		*o = state.Instance{Name: o.Name, State: lifecycle.Errored, Broken: "config.json: unexpected end"}
	}
	unfinished := func(o *state.Instance) {
		*o = state.Instance{Name: o.Name, State: lifecycle.Errored, Broken: "never finished", Unfinished: true}
	}
	for _, c := range []upCase{
		{name: "failed migration", stack: shop(), world: without(without(with(up, "migrate-1", exited(3)), "web-1"), "web-2"), want: `
#1 start container/migrate-1 (exited with 3)
#2 await completed container/migrate-1 after [1] (web waits for it)
#3 create container/web-1 (does not exist)
#4 start container/web-1 after [2 3] (new)
#5 create container/web-2 (does not exist)
#6 start container/web-2 after [2 5] (new)
`},
		{name: "migration still runs", stack: shop(), world: without(with(with(up, "migrate-1", in(lifecycle.Started, "")), "web-2", oom), "web-1"), want: `
#1 await completed container/migrate-1 (web waits for it)
#2 create container/web-1 (does not exist)
#3 start container/web-1 after [1 2] (new)
#4 start container/web-2 after [1] (ran out of memory)
`},
		{name: "unhealthy", stack: shop(), world: with(with(up, "migrate-1", exited(1)), "db-1", func(o *state.Instance) { o.Health = "unhealthy" }), want: `
#1 await healthy container/db-1 (migrate waits for it)
#2 start container/migrate-1 after [1] (exited with 1)
`},
		{name: "machine lost", stack: shop(), world: with(up, "db-1", in(lifecycle.Errored, "the machine was lost: killed\nby hand")), want: `
#1 start container/db-1 (the machine was lost: killed by hand)
`},
		{name: "stopped by the user", stack: shop(), world: with(with(up, "web-1", stopped), "migrate-1", stopped), want: `
#1 start container/migrate-1 (was stopped)
#2 await completed container/migrate-1 after [1] (web waits for it)
#3 start container/web-1 after [2] (was stopped)
`},
		{name: "ended well but is to run always", stack: stack("a", container(policy("always"))), world: with(running(stack("a", container(policy("always")))), "a-1", exited(0)), want: `
#1 start container/a-1 (exited with 0)
`},
		{name: "never finished", stack: shop(), world: with(up, "web-2", unfinished), want: `
#1 remove container/web-2 (never finished)
#2 create container/web-2 after [1] (never finished)
#3 start container/web-2 after [2] (never finished)
`},
		{name: "broken record, made anew as asked", stack: shop(), world: with(up, "web-2", broken), o: Options{ForceRecreate: true, Only: []string{"web"}, NoDeps: true}, want: `
#1 remove container/web-2 (its record cannot be used: config.json: unexpected end)
#2 stop container/web-1 (asked to recreate)
#3 remove container/web-1 after [2] (asked to recreate)
#4 create container/web-1 after [3] (asked to recreate)
#5 start container/web-1 after [4] (asked to recreate)
#6 create container/web-2 after [1] (its record cannot be used: config.json: unexpected end)
#7 start container/web-2 after [6] (its record cannot be used: config.json: unexpected end)
`},
		{name: "broken record, no recreate", stack: shop(), world: with(with(up, "db-1", broken), "migrate-1", exited(1)), o: Options{NoRecreate: true}, want: `
#1 start container/migrate-1 (exited with 1)
warning: db-1 stays as it is: its record cannot be used: config.json: unexpected end
`},
		{name: "broken record, not wanted", stack: shop(), world: with(up, "web-2", broken), o: Options{Scale: map[string]int{"web": 1}}, want: `
#1 remove container/web-2 (its record cannot be used: config.json: unexpected end)
#2 update container/web-1 (replicas 2 → 1)
`},
		{name: "half done", stack: shop(), world: without(with(with(up, "web-1", in(lifecycle.Initialized, "")), "db-1", in(lifecycle.Booting, "")), "web-2"), want: `
#1 start container/db-1 (an earlier start did not finish: booting)
#2 start container/web-1 after [1] (created, never started)
#3 create container/web-2 (does not exist)
#4 start container/web-2 after [1 3] (new)
`},
		{name: "being stopped", stack: shop(), world: with(up, "web-1", in(lifecycle.Stopping, "")), want: `
#1 stop container/web-1 (was being stopped)
#2 start container/web-1 after [1] (was being stopped)
`},
		{name: "paused", stack: shop(), world: with(up, "web-1", in(lifecycle.Paused, "")), want: `
#1 start container/web-1 (paused)
`},
		{name: "changed, stopped, and its image is gone", stack: edited(shop(), "db", memory(256)), world: func() state.World {
			w := with(up, "db-1", exited(1))
			w.Images = w.Images[:1]
			return w
		}(), want: `
#1 pull image/postgres (image postgres is not here)
#2 update container/db-1 after [1] (memory 128MiB → 256MiB)
#3 start container/db-1 after [2] (memory 128MiB → 256MiB)
`},
		{name: "no start", stack: shop(), world: with(with(up, "web-1", in(lifecycle.Stopping, "")), "db-1", exited(1)), o: Options{NoStart: true}},
		{name: "volume is gone", stack: shop(), world: func() state.World { w := with(up, "db-1", exited(1)); w.Volumes = nil; return w }(), want: `
#1 create volume/data (not found)
#2 start container/db-1 after [1] (exited with 1)
`},
	} {
		c.run(t)
	}
}

func TestUpRefuses(t *testing.T) {
	for _, c := range []upCase{
		{name: "unknown names", stack: shop(), o: Options{Only: []string{"wbe"}, Scale: map[string]int{"d": 1, "db": -1}}, want: `
up: no container "wbe"; the stack has db, migrate, web
scale: no container "d"; the stack has db, migrate, web
scale: db: -1 replicas`},
		{name: "contradiction", stack: shop(), o: Options{ForceRecreate: true, NoRecreate: true}, want: `
up: cannot both recreate all and recreate nothing`},
		{name: "cycle", stack: stack("a", container(needs("b")), "b", container(needs("c")), "c", container(needs("b"))), want: `
depends_on: the containers depend on each other: b → c → b`},
	} {
		_, err := Up(c.stack, c.world, c.o)
		if err == nil || err.Error() != c.want[1:] {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestUpRefusesWhatItCannotRead(t *testing.T) {
	up := running(shop())
	broken := func(s lifecycle.State) func(*state.Instance) {
		return func(o *state.Instance) {
			*o = state.Instance{Name: o.Name, State: s, Broken: "/h/config.json cannot be read"}
		}
	}
	otherImage := func(o *state.Instance) { o.Spec, o.Image = []byte(`{"version":99}`), "sha256:other" }
	for name, x := range map[string]struct {
		world state.World
		o     Options
		want  []string
	}{
		"stopped":          {world: with(up, "web-2", broken(lifecycle.Errored)), want: []string{"web-2"}},
		"running":          {world: with(up, "web-2", broken(lifecycle.Started)), want: []string{"web-2"}},
		"several":          {world: with(with(up, "web-2", broken(lifecycle.Started)), "db-1", broken(lifecycle.Errored)), want: []string{"db-1", "web-2"}},
		"declaration":      {world: with(up, "db-1", otherImage), want: []string{"db-1"}},
		"force of another": {world: with(up, "db-1", broken(lifecycle.Errored)), o: Options{Only: []string{"web"}, ForceRecreate: true}, want: []string{"db-1"}},
		"not meant":        {world: with(up, "db-1", broken(lifecycle.Errored)), o: Options{Only: []string{"web"}, NoDeps: true}},
		"asked to leave":   {world: with(up, "db-1", broken(lifecycle.Errored)), o: Options{NoRecreate: true}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Up(shop(), x.world, x.o)
			var refused diag.Findings
			if errors.As(err, &refused) != (len(x.want) > 0) {
				t.Fatalf("got %v", err)
			}
			var got []string
			for _, f := range refused {
				if got = append(got, f.Position.File); !strings.Contains(f.Hint, "vzcompose rm --stop "+f.Position.File) {
					t.Errorf("the hint: %s", f.Hint)
				}
			}
			if !slices.Equal(got, x.want) {
				t.Errorf("refused %q, want %q", got, x.want)
			}
		})
	}
}

func named(name string) func(*spec.Container) {
	return func(c *spec.Container) { c.ContainerName = name }
}

// An instance with another name is made anew, in the place of the one that was
// there, with what that implies.
func TestNamedInstance(t *testing.T) {
	plain := stack("db", container(), "web", container(needs("db restart")))
	now := stack("db", container(named("store")), "web", container(needs("db restart")))
	p, err := Up(now, running(plain), Options{})
	if err != nil {
		t.Fatal(err)
	}
	check(t, p, `
#1 stop container/web-1 (it is restarted with db)
#2 stop container/db-1 after [1] (name db-1 → store)
#3 remove container/db-1 after [2] (name db-1 → store)
#4 create container/store after [3] (name db-1 → store)
#5 start container/store after [4] (name db-1 → store)
#6 start container/web-1 after [1 5] (it is restarted with db)
`)
	if p, err = Up(now, running(now), Options{RemoveOrphans: true}); err != nil {
		t.Fatal(err)
	}
	check(t, p, "")
	if p, err = Up(now, running(plain), Options{NoRecreate: true}); err != nil {
		t.Fatal(err)
	}
	check(t, p, "")
	broken := with(running(now), "store", func(o *state.Instance) { o.Container, o.Index, o.Broken = "store", 0, "unreadable" })
	if _, err = Up(now, broken, Options{RemoveOrphans: true}); err == nil || !strings.Contains(err.Error(), "unreadable") {
		t.Errorf("a record that cannot be read: %v", err)
	}
}

// A name passes from one container to another when the first gives it up.
func TestNamesPassOn(t *testing.T) {
	was := stack("a", container(named("x")), "b", container(named("y")))
	p, err := Up(stack("a", container(named("y")), "b", container(named("x"))), running(was), Options{})
	if err != nil {
		t.Fatal(err)
	}
	check(t, p, `
#1 stop container/y (name y → x)
#2 remove container/y after [1] (name y → x)
#3 stop container/x (name x → y)
#4 remove container/x after [3] (name x → y)
#5 create container/y after [2 4] (name x → y)
#6 start container/y after [5] (name x → y)
#7 create container/x after [2 4] (name y → x)
#8 start container/x after [7] (name y → x)
`)
	moved := stack("c", container(named("x")), "b", container(named("y")))
	if _, err = Up(moved, running(was), Options{}); err == nil || !strings.Contains(err.Error(), "there is an instance x, of container a") {
		t.Errorf("the name of an orphan: %v", err)
	}
	if p, err = Up(moved, running(was), Options{RemoveOrphans: true}); err != nil {
		t.Fatal(err)
	}
	check(t, p, `
#1 stop container/x (not in the stack file)
#2 remove container/x after [1] (not in the stack file)
#3 create container/x after [2] (does not exist)
#4 start container/x after [3] (new)
`)
}

func TestScaleOfNames(t *testing.T) {
	s := stack("a", container(named("x")), "b", container(named("c-2")), "c", container())
	for _, c := range []struct {
		scale map[string]int
		want  string
	}{
		{map[string]int{"a": 2}, "scale: a: 2 instances would have the same name, x"},
		{map[string]int{"c": 2}, "scale: c: c-2 is the name of an instance of b"},
		{map[string]int{"a": 0, "c": 1}, ""},
	} {
		_, err := Up(s, state.World{}, Options{Scale: c.scale})
		if got := fmt.Sprint(err); c.want == "" && err != nil || !strings.Contains(got, c.want) && c.want != "" {
			t.Errorf("%v: %v", c.scale, err)
		}
	}
}

// The volume that only an instance has goes with its container, whatever the
// instance is called.
func TestDownOfNamedInstance(t *testing.T) {
	w := running(stack("db", container(named("store")), "web", container()))
	w.Volumes = []state.Volume{{Name: "store@data", Instance: "store"}}
	check(t, Down(w, DownOptions{Only: []string{"db"}, Volumes: true}), `
#1 stop container/store (down)
#2 remove container/store after [1] (down)
#3 remove volume/store@data after [2] (down, with its volumes)
`)
}

// A volume that is not the stack's is neither made nor removed, and has to be there.
func TestExternalVolumes(t *testing.T) {
	external := func(c *spec.Container) {
		c.Mounts = append(c.Mounts, spec.Mount{Type: "volume", Source: "lib", Destination: "/lib", External: true})
	}
	s := stack("a", container(external), "b", container())
	s.Volumes = map[string]spec.Volume{"lib": {External: true}}
	_, err := Up(s, state.World{}, Options{})
	var found diag.Findings
	if !errors.As(err, &found) || len(found) != 1 || found[0].Position.File != "volumes.lib" || found[0].Hint != "vzcompose volume create lib makes it" {
		t.Errorf("it is not there: %v", err)
	}
	if _, err := Up(s, state.World{}, Options{Only: []string{"b"}}); err != nil {
		t.Errorf("nobody asks for it: %v", err)
	}
	there := []state.Volume{{Name: "lib"}}
	p, err := Up(s, state.World{External: there}, Options{Only: []string{"a"}})
	if err != nil {
		t.Fatal(err)
	}
	check(t, p, `
#1 pull image/busybox (image busybox is not here)
#2 create container/a-1 after [1] (does not exist)
#3 start container/a-1 after [2] (new)
`)
	own := stack("a", container(mounts("lib")))
	own.Containers["a"].Mounts[0].Destination = "/lib"
	w := running(own)
	w.External = there
	if p, err = Up(s, w, Options{Only: []string{"a"}}); err != nil {
		t.Fatal(err)
	}
	check(t, p, `
#1 stop container/a-1 (mounts[/lib].source volume lib → external volume lib)
#2 update container/a-1 after [1] (mounts[/lib].source volume lib → external volume lib)
#3 start container/a-1 after [2] (mounts[/lib].source volume lib → external volume lib)
`)
}
