package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// hostRoot is Debian's redis, unpacked on the host: unmodified programs, with
// the libraries that they were built for.
type hostRoot string

func unpackRedis(t *testing.T) hostRoot {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("tar", "-xf", filepath.Join(shared.cache, "images", "redis.tar"), "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return hostRoot(dir)
}

// command runs a program of the root with the root's own loader.
func (r hostRoot) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	triple := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[runtime.GOARCH]
	loader := must(filepath.Glob(filepath.Join(string(r), "lib", triple, "ld-linux-*.so.*")))
	if len(loader) == 0 {
		loader = must(filepath.Glob(filepath.Join(string(r), "usr", "lib", triple, "ld-linux-*.so.*")))
	}
	libs := []string{filepath.Join(string(r), "lib", triple), filepath.Join(string(r), "usr", "lib", triple)}
	return exec.CommandContext(ctx, loader[0], append([]string{"--library-path", strings.Join(libs, ":"), filepath.Join(string(r), "usr", "bin", name)}, args...)...)
}

func (r hostRoot) cli(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := r.command(ctx, "redis-cli", args...).CombinedOutput()
	if err != nil {
		t.Errorf("redis-cli %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// An unmodified redis-cli of the host reaches a redis in a container, and one in
// the container a redis-server of the host: lines 38 and 39 with real programs.
func TestRedisThroughSockets(t *testing.T) {
	if err := simple("image", "import", filepath.Join(shared.cache, "images", "redis.tar"), "redis-here"); shared.cache != "" && err != nil {
		t.Fatal(err)
	}
	s := scenario(t, `
defaults: {image: redis-here, cpus: 1, memory: 128MiB, stop_grace_period: 0s}
containers:
  redis:
    command: [redis-server, --port, "0", --unixsocket, /run/redis.sock, --save, ""]
    sockets:
      - {direction: out_of, source: /run/redis.sock, destination: ./r.sock}
      - {direction: into, source: ./host.sock, destination: /run/host.sock}
    healthcheck: {test: [CMD, redis-cli, -s, /run/redis.sock, ping], interval: 200ms, timeout: 30s, retries: 100}
`)
	host := unpackRedis(t)
	ctx, cancel := context.WithCancel(context.Background())
	server := host.command(ctx, "redis-server", "--port", "0", "--unixsocket", filepath.Join(s.dir, "host.sock"), "--save", "", "--dir", s.dir)
	var said bytes.Buffer
	server.Stdout, server.Stderr = &said, &said
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = server.Wait() })
	s.eventually("the host's redis is there", func() bool {
		_, err := os.Stat(filepath.Join(s.dir, "host.sock"))
		return err == nil
	})
	s.must("up", "-d")
	s.eventually("the container's redis is healthy", func() bool { return s.instances()["redis-1"].Health == "healthy" })
	sock := filepath.Join(s.dir, "r.sock")
	behave(t, 38, "a redis in the container is reached by an unmodified redis-cli of the host", func(t *testing.T) {
		if got := host.cli(t, "-s", sock, "ping"); got != "PONG\n" {
			t.Errorf("%q", got)
		}
		host.cli(t, "-s", sock, "set", "key", strings.Repeat("v", 1<<20)[:100000])
		if got := host.cli(t, "-s", sock, "strlen", "key"); got != "100000\n" {
			t.Errorf("%q", got)
		}
		if got := s.says(t, "redis", "redis-cli -s /run/redis.sock strlen key"); got != "100000" {
			t.Errorf("in the container: %q", got)
		}
	})
	behave(t, 39, "a redis-server of the host is reached by an unmodified redis-cli in the container", func(t *testing.T) {
		if got := s.says(t, "redis", "redis-cli -s /run/host.sock set from container"); got != "OK" {
			t.Errorf("%q", got)
		}
		if got := host.cli(t, "-s", filepath.Join(s.dir, "host.sock"), "get", "from"); got != "container\n" {
			t.Errorf("%q; it said %s", got, said.String())
		}
	})
	behave(t, 40, "50 clients at once, 2,000 requests of redis-benchmark through a socket", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		out, err := host.command(ctx, "redis-benchmark", "-s", sock, "-c", "50", "-n", "2000", "-q", "-t", "set,get").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "GET:") {
			t.Errorf("%v: %s", err, out)
		}
	})
}
