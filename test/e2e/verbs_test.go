package e2e

import (
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	memory "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func TestScaleImagesVolumes(t *testing.T) {
	s := scenario(t, quick+`
containers:
  db: {command: [sleep, "36000"], mounts: ["data:/data"]}
  web: {command: [sleep, "36000"], depends_on: [db]}
  other: {command: [sleep, "36000"]}
volumes: {data: {size: 16MiB}, spare: {size: 16MiB}}
`)
	s.must("scale", "web=2")
	if got, want := s.states(), "db-1=running web-1=running web-2=running"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	before := s.instances()
	if r := s.must("scale", "other=1"); strings.Contains(r.err, "warning") {
		t.Errorf("%s", r)
	}
	s.must("scale", "web=1", "--no-deps")
	if got, want := s.states(), "db-1=running other-1=running web-1=running"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if now := s.instances(); now["web-1"].PID != before["web-1"].PID || now["db-1"].PID != before["db-1"].PID {
		t.Error("what was not to change was touched")
	}
	for _, wrong := range [][]string{{}, {"web"}, {"web=many"}, {"web=-1"}, {"wbe=1"}} {
		if r := s.vz(append([]string{"scale"}, wrong...)...); r.code != 2 {
			t.Errorf("%s", r)
		}
	}
	digest := before["web-1"].Image
	s.vz("images", "--format", "{{.Instance}} {{.Ref}} {{.Digest}} {{.Image.Platform}}", "web").want(t, 0, fmt.Sprintf("web-1 busybox %s linux/%s\n", digest, runtime.GOARCH))
	contains(t, "images", s.must("images").out, "INSTANCE", "db-1", "other-1", "busybox")
	s.vz("volumes", "--format", "{{.Name}} {{.Size}} {{.Instances}}").want(t, 0, "data 67108864 [db-1]\n") // the least size there is
	s.vz("volumes", "-q", "web").want(t, 0, "")
	contains(t, "volumes", s.must("volumes").out, "data", "64 MiB", "db-1")
}

// pull has the images of the containers as their registry has them now.
func TestPull(t *testing.T) {
	server := httptest.NewServer(memory.New(memory.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	addr := strings.TrimPrefix(server.URL, "http://")
	release := func(ref, version string) {
		t.Helper()
		img := must(mutate.AppendLayers(empty.Image, must(tarball.LayerFromFile(filepath.Join(shared.cache, "images", "busybox.tar"))), layerOf(t, "version", version)))
		config := must(img.ConfigFile()).DeepCopy()
		config.OS, config.Architecture, config.Config = "linux", runtime.GOARCH, v1.Config{Cmd: []string{"cat", "/version"}}
		if err := remote.Write(must(name.ParseReference(ref)), must(mutate.ConfigFile(img, config)), remote.WithContext(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	one, two := addr+"/one:1", addr+"/two:1"
	s := scenario(t, fmt.Sprintf(`
defaults: {cpus: 1, memory: 64MiB}
containers:
  a: {image: %q}
  b: {image: %[1]q}
  c: {image: %q}
  mine: {image: busybox, pull: never}
`, one, two))
	t.Cleanup(func() { s.must("down"); s.must("image", "rm", one) })
	release(one, "first")
	r := s.vz("pull")
	if r.code != 1 || !strings.Contains(r.err, "pull image/"+two) || !strings.Contains(r.err, "1 failed") {
		t.Errorf("one that is not there: %s", r)
	}
	contains(t, "a dry run", s.must("pull", "--dry-run", "a", "b").out, "pull", one, "a, b is made from it")
	s.must("run", "--rm", "a").want(t, 0, "first")
	release(one, "second")
	s.must("pull", "--policy", "missing", "a")
	s.must("run", "--rm", "a").want(t, 0, "first")
	s.must("pull", "b")
	s.must("run", "--rm", "a").want(t, 0, "second")
	s.must("pull", "mine")
	if r := s.vz("pull", "wbe"); r.code != 2 {
		t.Errorf("%s", r)
	}
}
