package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/crypto/bcrypt"
)

const user, password = "tester", "a password: with a colon"

// registry runs Debian's registry on loopback, with a password, and answers its
// address.
func registry(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close() // the registry takes it over
	config := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: %q}\nauth: {htpasswd: {realm: test, path: %q}}\n",
		filepath.Join(dir, "data"), addr, filepath.Join(dir, "htpasswd"))
	for file, text := range map[string]string{"htpasswd": user + ":" + string(hash) + "\n", "config.yml": config} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(filepath.Join(shared.cache, "bin", "docker-registry"), "serve", filepath.Join(dir, "config.yml"))
	var said bytes.Buffer // of interest only where it does not come up: it logs what we do on purpose
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	limit, tick := time.After(30*time.Second), time.NewTicker(50*time.Millisecond)
	defer tick.Stop()
	for {
		if resp, err := http.Get("http://" + addr + "/v2/"); err == nil {
			_ = resp.Body.Close()
			return addr
		}
		select {
		case <-tick.C:
		case <-limit:
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // so that all it said is there
			t.Fatalf("the registry does not answer: %s", said.String())
		}
	}
}

// cutting stands before a server and resets the first connections that bring more
// than so many bytes each. Sent is how many went through in all.
func cutting(t *testing.T, server string, at ...int64) (addr string, sent *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	var cuts atomic.Int64
	sent = &atomic.Int64{}
	carry := func(c net.Conn) {
		defer c.Close()
		to, err := net.Dial("tcp", server)
		if err != nil {
			return
		}
		defer to.Close()
		go func() { _, _ = io.Copy(to, c) }()
		for b, n := make([]byte, 32<<10), int64(0); ; {
			got, err := to.Read(b)
			if _, werr := c.Write(b[:got]); err != nil || werr != nil {
				return
			}
			n += int64(got)
			sent.Add(int64(got))
			if k := cuts.Load(); int(k) < len(at) && n > at[k] && cuts.CompareAndSwap(k, k+1) {
				_ = c.(*net.TCPConn).SetLinger(0)
				return
			}
		}
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go carry(c)
		}
	}()
	return l.Addr().String(), sent
}

// push makes an image of a root tar and pushes it.
func push(t *testing.T, ref, tar string, config v1.Config) {
	t.Helper()
	layer, err := tarball.LayerFromFile(tar)
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH, Config: config,
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{must(layer.DiffID())}}})
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := remote.Write(tag, img, remote.WithContext(ctx), remote.WithAuth(&authn.Basic{Username: user, Password: password})); err != nil {
		t.Fatal(err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A redis image made of Debian's packages is pulled with the credentials of the
// usual Docker config, runs, and answers.
func TestPullFromARegistryWithAPassword(t *testing.T) {
	s := scenario(t, "containers: {}\n")
	addr, sent := cutting(t, registry(t), 1<<20, 3<<20, 8<<20)
	ref := addr + "/team/redis:7"
	push(t, ref, filepath.Join(shared.cache, "images", "redis.tar"), v1.Config{
		Cmd: []string{"redis-server", "--save", ""}, WorkingDir: "/data", User: "redis",
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, StopSignal: "SIGINT",
		Volumes:     map[string]struct{}{"/var/lib/redis": {}},
		Healthcheck: &v1.HealthConfig{Test: []string{"CMD-SHELL", `test "$(redis-cli ping)" = PONG`}, Interval: 200 * time.Millisecond, Timeout: 30 * time.Second, Retries: 100}})
	t.Cleanup(func() { // or the next run has the layers
		s.vz("down", "-v")
		s.vz("image", "rm", ref)
	})
	s.write(fmt.Sprintf("containers:\n  cache: {image: %q, cpus: 1, memory: 128MiB}\n", ref))

	docker := t.TempDir()
	t.Setenv("DOCKER_CONFIG", docker)
	login := func(password string) {
		auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
		text := fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, addr, auth)
		if err := os.WriteFile(filepath.Join(docker, "config.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	login("wrong")
	r := s.vz("up", "-d")
	if r.code != 1 || !strings.Contains(r.err, "docker login "+addr) {
		t.Errorf("with a wrong password: %s", r)
	}
	login(password)
	before := sent.Load()
	r = s.must("up", "-d")
	contains(t, "an up over a bad connection", r.err, "again in")
	t.Logf("%d bytes were sent", sent.Load()-before)
	s.must("up", "--wait") // by the image's own check
	contains(t, "ps", s.must("ps").out, "(healthy)")
	if out := s.must("exec", "cache", "redis-cli", "ping").out; out != "PONG\n" {
		t.Errorf("healthy, and it answers %q", out)
	}
	if got := s.must("exec", "cache", "sh", "-c", "id -un; pwd").out; got != "redis\n/data\n" {
		t.Errorf("user and folder: %q", got)
	}
	contains(t, "a second up", s.must("up", "-d").out, "nothing to do")

	// The volume that the image asks for outlives the instance.
	s.must("exec", "--user", "root", "cache", "sh", "-c", "echo kept >/var/lib/redis/file && sync")
	s.must("down")
	s.must("up", "-d")
	if out := s.must("exec", "cache", "cat", "/var/lib/redis/file").out; out != "kept\n" {
		t.Errorf("the volume has %q", out)
	}
	contains(t, "volumes", s.must("volumes").out, "cache-1@var-lib-redis-")
	s.must("down", "-v")
	if out := s.must("volumes", "-q").out; out != "" {
		t.Errorf("left: %s", out)
	}
}
