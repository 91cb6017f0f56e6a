package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Without root, a folder of the user's is in the container as a disk would be, and all
// in it is the user's.
func TestFoldersWithoutRoot(t *testing.T) {
	s := ordinary(t, `
defaults: {cpus: 1, memory: 256MiB, stop_grace_period: 60s}
containers:
  box: {image: busybox, stop_grace_period: 0s, command: [sleep, "36000"], mounts: ["./rights:/rights", "./bin:/opt:ro"]}
  db:
    image: postgres
    entrypoint: [docker-entrypoint.sh]
    command: [postgres]
    environment: {POSTGRES_USER: me, POSTGRES_PASSWORD: secret, PGDATA: /var/lib/postgresql/data}
    mounts:
      - ./data:/var/lib/postgresql/data
      - ./db/docker-entrypoint.sh:/usr/local/bin/docker-entrypoint.sh:ro
      - ./db/init:/docker-entrypoint-initdb.d:ro
    healthcheck: {test: [CMD, pg_isready, -h, 127.0.0.1, -U, me, -d, postgres], interval: 1s, timeout: 30s, retries: 200}
  cache:
    image: redis
    user: redis
    command: [redis-server, --appendonly, "yes", --appendfsync, always]
    mounts: ["./cache:/data"]
    working_dir: /data
    healthcheck: {test: [CMD, redis-cli, ping], interval: 1s, timeout: 30s, retries: 200}
`)
	s.have("busybox", "busybox", "--cmd", "sh")
	s.have("postgresql", "postgres", "-e", "PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
	s.have("redis", "redis")
	s.copy(buildProgram(t, "rights"), "bin/rights")
	for _, name := range []string{"docker-entrypoint.sh", "init/01-visits.sql"} {
		s.copy(filepath.Join("testdata", "shop", "db", name), filepath.Join("db", name))
	}
	up := func() {
		t.Helper()
		s.must("up", "-d", "--wait")
	}
	psql := func(query, want string) {
		t.Helper()
		if got := s.says(t, "db", "PGPASSWORD=secret psql -h 127.0.0.1 -U me -d postgres -X -t -A -c \""+query+"\""); got != want {
			t.Errorf("%s: %q, not %q", query, got, want)
		}
	}
	redis := func(command, want string) {
		t.Helper()
		if got := s.says(t, "cache", "redis-cli "+command); got != want {
			t.Errorf("%s: %q, not %q", command, got, want)
		}
	}
	owned := func() {
		t.Helper()
		if got := s.says(t, "db", "cd $PGDATA; stat -c %U:%G:%a . PG_VERSION base"); got != "postgres:postgres:700\npostgres:postgres:600\npostgres:postgres:700" {
			t.Errorf("in the container: %q", got)
		}
	}
	up()
	owned()
	psql("INSERT INTO visits DEFAULT VALUES", "INSERT 0 1")
	redis("set kept yes", "OK")

	// Who may do what is what the kernel says of a disk, for each kind of owner, mode
	// and process.
	s.says(t, "box", "mkdir /disk; /opt/rights /disk >/disk.txt; /opt/rights /rights >/shared.txt")
	disk, shared := strings.Split(s.says(t, "box", "cat /disk.txt"), "\n"), strings.Split(s.says(t, "box", "cat /shared.txt"), "\n")
	if len(disk) < 100 || len(disk) != len(shared) {
		t.Fatalf("%d lines of a disk, %d of a share", len(disk), len(shared))
	}
	for i := range disk {
		if disk[i] != shared[i] {
			t.Errorf("on a disk: %s\nshared:    %s", disk[i], shared[i])
		}
	}

	kill9(t, s.qemuOf("db-1"))
	kill9(t, s.qemuOf("cache-1"))
	s.eventually("both are lost", func() bool { return s.states() == "box-1=running cache-1=errored db-1=errored" })
	up()
	owned()
	psql("INSERT INTO visits DEFAULT VALUES", "INSERT 0 1")
	psql("SELECT count(*) FROM visits", "2")
	redis("get kept", "yes")

	s.must("down")
	up()
	owned()
	psql("SELECT count(*) FROM visits", "2")
	redis("get kept", "yes")
	s.must("down")

	for _, dir := range []string{"data", "cache", "rights"} {
		if err := filepath.WalkDir(filepath.Join(s.dir, dir), s.isTheUsers(t)); err != nil {
			t.Error(err)
		}
	}
	s.here("rm", "-r", "data", "cache", "rights")
}

// isTheUsers visits files that must be the user's, who may use them all.
func (s *stack) isTheUsers(t *testing.T) fs.WalkDirFunc {
	return func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		if st := info.Sys().(*syscall.Stat_t); st.Uid != s.uid() || info.Mode()&0o600 != 0o600 {
			t.Errorf("%s is %d's, %v", path, st.Uid, info.Mode())
		}
		return nil
	}
}

// copy copies a file into the stack's folder, for the user.
func (s *stack) copy(from, to string) {
	s.t.Helper()
	info, err := os.Stat(from)
	if err != nil {
		s.t.Fatal(err)
	}
	b, err := os.ReadFile(from)
	if err != nil {
		s.t.Fatal(err)
	}
	to = filepath.Join(s.dir, to)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(to, b, info.Mode().Perm()|0o444); err != nil {
		s.t.Fatal(err)
	}
	s.give(s.dir)
}
