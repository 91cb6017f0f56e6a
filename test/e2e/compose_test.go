package e2e

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// An ordinary Compose project as people have it: files that are found, an override,
// an include, an extends, .env; Debian's nginx, PostgreSQL and redis, whose data
// outlives down and not down -v.
func TestComposeProject(t *testing.T) {
	s := project(t, "shop")
	for _, image := range [][]string{
		{"nginx", "nginx:1.22", "--cmd", "nginx", "--cmd", "-g", "--cmd", "daemon off;"},
		{"redis", "redis:7", "--workdir", "/data"},
		{"postgresql", "postgres:15", "-e", "PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"},
	} {
		tar := filepath.Join(shared.cache, "images", image[0]+".tar")
		if err := simple(append(append([]string{"image", "import"}, image[2:]...), tar, image[1])...); err != nil {
			t.Fatal(err)
		}
	}
	up := func(visits string) {
		t.Helper()
		s.must("up", "-d")
		if got, want := s.states(), "cache-1=running db-1=running shop_web=running visit-1=exited"; got != want {
			t.Errorf("%s, not %s", got, want)
		}
		// The host chooses the port: whatever is free now may not be when web starts.
		root := "http://" + strings.TrimSpace(s.must("port", "web", "80").out) + "/"
		s.eventually("the page is there", func() bool {
			got, err := page(root)
			return err == nil && strings.Contains(got, "From a folder of the host.")
		})
		if got, err := page(root + "health"); err != nil || got != "ok" {
			t.Errorf("what nginx is configured with: %q, %v", got, err)
		}
		contains(t, "what the job said", s.must("logs", "visit").out, "visits: "+visits)
	}
	redis := func(want string, command ...string) {
		t.Helper()
		s.eventually("redis replies to "+strings.Join(command, " "), func() bool {
			r := s.vz(slices.Concat([]string{"exec", "cache", "redis-cli"}, command)...)
			if strings.HasPrefix(r.err, "Could not connect") {
				return false
			}
			if got := strings.TrimSpace(r.out); got != want {
				t.Fatalf("not %s: %s", want, r)
			}
			return true
		})
	}
	up("1")
	redis("OK", "set", "kept", "yes")
	if got := s.says(t, "db", "stat -c %U:%a $PGDATA $PGDATA/PG_VERSION"); got != "postgres:700\npostgres:600" {
		t.Errorf("the data folder: %q", got)
	}
	s.must("down")
	up("2")
	redis("yes", "get", "kept")
	s.must("down", "-v")
	s.must("up", "-d", "cache")
	redis("0", "exists", "kept")
}
