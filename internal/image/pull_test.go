package image

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/vzcompose/vzcompose/internal/errs"
)

const host = "linux/" + runtime.GOARCH

func noise(n int) string {
	r := rand.New(rand.NewPCG(7, uint64(n)))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return string(b)
}

func TestPull(t *testing.T) {
	reg, s := newRegistry(t), newStore(t)
	reg.login(t, testPass)
	plainTar, zstdTar := tarOf(t, "c/", "", "c/x", "3"), tarOf(t, "b", "2")
	img := imageOf(t, host, gzipLayer(t, tarOf(t, "a", noise(100_000))),
		rawLayer(zstdBytes(t, zstdTar), zstdTar, types.OCILayerZStd), rawLayer(plainTar, plainTar, types.OCIUncompressedLayer))
	reg.push(t, "app:1", img)

	if _, err := s.Find(t.Context(), reg.ref("app:1"), ""); !errs.Is(err, errs.NotFound) || errs.HintOf(err) == "" {
		t.Errorf("before: %v", err)
	}
	var last Progress
	got, err := s.Pull(short(t), reg.ref("app:1"), "", func(p Progress) {
		if p.Current < last.Current || p.Phase != "pull" {
			t.Errorf("progress went from %+v to %+v", last, p)
		}
		last = p
	})
	if err != nil {
		t.Fatal(err)
	}
	if last.Total == 0 || last.Current != last.Total || got.Size != last.Total {
		t.Errorf("ended at %+v, size %d", last, got.Size)
	}
	found, err := s.Find(t.Context(), reg.ref("app:1"), host)
	if err != nil || fmt.Sprint(found) != fmt.Sprint(got) {
		t.Errorf("found %+v, pulled %+v (%v)", found, got, err)
	}
	if got.Digest != digestString(t, img) || got.Ref != reg.ref("app:1") || got.Platform != host || got.Created.Unix() != 1700000000 ||
		!slices.Equal(got.Config.ExposedPorts, []string{"443/tcp", "80/tcp"}) || !slices.Equal(got.Config.Cmd, []string{"/bin/sh"}) {
		t.Errorf("image is %+v", got)
	}
	for _, ref := range []string{got.Digest, reg.ref("app@" + got.Digest), reg.ref("other@" + got.Digest)} {
		if _, err := s.Find(t.Context(), ref, ""); err != nil {
			t.Errorf("by digest %s: %v", ref, err)
		}
	}
	path, err := s.RootFS(t.Context(), got.Digest, nil)
	if err != nil {
		t.Fatal(err)
	}
	sameImage(t, path, tarOf(t, "a", noise(100_000)), zstdTar, plainTar)
	if _, err := s.Pull(short(t), reg.ref("app:1"), "", nil); err != nil {
		t.Fatal(err)
	}
	for digest, n := range reg.blobs {
		if n != 1 {
			t.Errorf("%s was fetched %d times", digest, n)
		}
	}
}

func TestPullByDigestAndPlatform(t *testing.T) {
	reg, s := newRegistry(t), newStore(t)
	reg.login(t, testPass)
	one := imageOf(t, "linux/amd64", gzipLayer(t, tarOf(t, "a", "amd64")))
	two := imageOf(t, "linux/arm/v7", gzipLayer(t, tarOf(t, "a", "arm")))
	idx := indexOf(t, one, two)
	reg.push(t, "app:1", idx)
	byDigest := reg.ref("app@" + digestString(t, idx))

	for platform, want := range map[string]v1.Image{"linux/amd64": one, "linux/x86_64": one, "linux/arm": two, "linux/arm/v7": two} {
		for _, ref := range []string{reg.ref("app:1"), byDigest} {
			got, err := s.Pull(short(t), ref, platform, nil)
			if err != nil || got.Digest != digestString(t, want) || got.Ref != ref {
				t.Errorf("%s %s: %+v, %v", ref, platform, got, err)
			}
			if found, err := s.Find(t.Context(), ref, platform); err != nil || found.Digest != got.Digest {
				t.Errorf("find %s %s: %+v, %v", ref, platform, found, err)
			}
		}
	}
	for name, err := range map[string]error{
		"pull": second(s.Pull(short(t), reg.ref("app:1"), "linux/s390x", nil)),
		"find": second(s.Find(t.Context(), reg.ref("app:1"), "linux/s390x")),
	} {
		if !errs.Is(err, errs.NotFound) || !strings.Contains(err.Error(), "linux/amd64, linux/arm/v7") {
			t.Errorf("%s: %v", name, err)
		}
	}
	reg.push(t, "single:1", two)
	if _, err := s.Pull(short(t), reg.ref("single:1"), "linux/amd64", nil); !errs.Is(err, errs.NotFound) || !strings.Contains(err.Error(), "linux/arm/v7") {
		t.Errorf("image of another platform: %v", err)
	}
	if _, err := s.Pull(short(t), reg.ref("app:1"), "amd64", nil); !errs.Is(err, errs.InvalidArgument) {
		t.Errorf("bad platform: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestPullRefusals(t *testing.T) {
	reg, s := newRegistry(t), newStore(t)
	layer := gzipLayer(t, tarOf(t, "a", noise(100_000)))
	img := imageOf(t, host, layer)
	reg.push(t, "app:1", img)
	layerDigest := digestString(t, layer)
	isLayer := func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, layerDigest) }
	body := func(b []byte) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !isLayer(r) {
				return false
			}
			_, _ = w.Write(b)
			return true
		}
	}
	manifest := func(b string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
			fmt.Fprint(w, b)
			return true
		}
	}
	config := `"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,"digest":"sha256:` + strings.Repeat("a", 64) + `"}`
	for name, c := range map[string]struct {
		ref, pass string
		behave    func(http.ResponseWriter, *http.Request) bool
		class     errs.Class
		text      string
		hint      string
	}{
		"wrong password": {"app:1", "wrong", nil, errs.PermissionDenied, "authentication required", "docker login 127.0.0.1"},
		"no such image":  {"other:1", testPass, nil, errs.NotFound, "resolve at", "127.0.0.1"},
		"no such tag":    {"app:2", testPass, nil, errs.NotFound, "", ""},
		"other bytes":    {"app:1", testPass, body([]byte(noise(1000))), errs.DataLoss, "layer 1 of 1", ""},
		"same length": {"app:1", testPass, func(w http.ResponseWriter, r *http.Request) bool {
			size, _ := layer.Size()
			return body([]byte(noise(int(size))))(w, r)
		}, errs.DataLoss, "layer 1 of 1", ""},
		"endless": {"app:1", testPass, func(w http.ResponseWriter, r *http.Request) bool {
			for isLayer(r) {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return true
				}
			}
			return false
		}, errs.DataLoss, "more than", ""},
		"broken off": {"app:1", testPass, func(w http.ResponseWriter, r *http.Request) bool {
			if !isLayer(r) {
				return false
			}
			size, _ := layer.Size()
			w.Header().Set("Content-Length", fmt.Sprint(size))
			_, _ = w.Write(make([]byte, 1000))
			w.(http.Flusher).Flush() // before any byte the library would try again
			panic(http.ErrAbortHandler)
		}, errs.Unavailable, "layer 1 of 1", ""},
		"denied": {"app:1", testPass, func(w http.ResponseWriter, r *http.Request) bool {
			if isLayer(r) {
				http.Error(w, strings.Repeat("no\n\x1b[31m", 5000), http.StatusForbidden)
			}
			return isLayer(r)
		}, errs.PermissionDenied, "layer 1 of 1", "docker login"},
		"not JSON":         {"app:1", testPass, manifest("<html>"), errs.DataLoss, "manifest", ""},
		"no image":         {"app:1", testPass, manifest(`{"config":{"mediaType":"application/vnd.helm","size":1,"digest":"sha256:` + strings.Repeat("a", 64) + `"}}`), errs.Unsupported, "helm", ""},
		"negative size":    {"app:1", testPass, manifest(strings.Replace("{"+config+"}", `"size":2`, `"size":-2`, 1)), errs.DataLoss, "-2 bytes", ""},
		"huge layer":       {"app:1", testPass, manifest("{" + config + `,"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","size":9000000000000,"digest":"sha256:` + strings.Repeat("b", 64) + `"}]}`), errs.ResourceExhausted, "layer 1 of 1", ""},
		"unknown layer":    {"app:1", testPass, manifest("{" + config + `,"layers":[{"mediaType":"x/y","size":9,"digest":"sha256:` + strings.Repeat("b", 64) + `"}]}`), errs.Unsupported, "x/y", ""},
		"other digest":     {"app:1", testPass, manifest(strings.Replace("{"+config+"}", "sha256:"+strings.Repeat("a", 64), "sha512:"+strings.Repeat("a", 128), 1)), errs.Unsupported, "sha256", ""},
		"many layers":      {"app:1", testPass, manifest("{" + config + `,"layers":[` + strings.Repeat("{},", 600) + "{}]}"), errs.ResourceExhausted, "601 layers", ""},
		"bad reference":    {"App", testPass, nil, errs.InvalidArgument, "lower case", ""},
		"huge manifest":    {"app:1", testPass, manifest(strings.Repeat(" ", maxManifest+1)), errs.ResourceExhausted, "manifest of", ""},
		"manifest of zero": {"app:1", testPass, manifest("null"), errs.Unsupported, "not a container image", ""},
	} {
		t.Run(name, func(t *testing.T) {
			reg.misbehave(c.behave)
			reg.login(t, c.pass)
			_, err := s.Pull(short(t), reg.ref(c.ref), "", nil)
			if !errs.Is(err, c.class) || !strings.Contains(err.Error(), c.text) || !strings.Contains(errs.HintOf(err), c.hint) {
				t.Errorf("got %v (%s; %s), want %s: %s", err, errs.ClassOf(err), errs.HintOf(err), c.class, c.text)
			}
			if err != nil && (len(err.Error()) > 1500 || strings.ContainsAny(err.Error(), "\x1b\n")) {
				t.Errorf("message of %d bytes: %.200q", len(err.Error()), err)
			}
			if left, _ := os.ReadDir(s.path("tmp")); len(left) > 0 {
				t.Errorf("left %v", left)
			}
		})
	}
	if _, err := s.Pull(short(t), "192.168.255.254:1/app", "", nil); err == nil {
		t.Error("pulled from nowhere")
	}
}

func TestPullOfSilentRegistry(t *testing.T) {
	reg := newRegistry(t)
	reg.login(t, testPass)
	layer := gzipLayer(t, tarOf(t, "a", noise(100_000)))
	reg.push(t, "app:1", imageOf(t, host, layer))
	release := make(chan struct{})
	defer close(release)
	asked := make(chan struct{}, 10)
	hang := func(path string, after int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, path) {
				return false
			}
			if after > 0 {
				size, _ := layer.Size()
				w.Header().Set("Content-Length", fmt.Sprint(size))
				_, _ = w.Write(make([]byte, after))
				w.(http.Flusher).Flush()
			}
			asked <- struct{}{}
			<-release
			return true
		}
	}
	for name, c := range map[string]struct {
		behave func(http.ResponseWriter, *http.Request) bool
		text   string
	}{
		"manifest":       {hang("/manifests/", 0), "resolve at"},
		"layer":          {hang(digestString(t, layer), 0), "layer 1 of 1"},
		"within a layer": {hang(digestString(t, layer), 1000), "layer 1 of 1"},
	} {
		reg.misbehave(c.behave)
		_, err := newStore(t).quick(50*time.Millisecond).Pull(short(t), reg.ref("app:1"), "", nil)
		if !errs.Is(err, errs.DeadlineExceeded) || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), "127.0.0.1") {
			t.Errorf("%s: %v (%s)", name, err, errs.ClassOf(err))
		}
		<-asked
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-asked; cancel() }()
		if _, err := newStore(t).Pull(ctx, reg.ref("app:1"), "", nil); !errs.Is(err, errs.Canceled) {
			t.Errorf("%s, cancelled: %v (%s)", name, err, errs.ClassOf(err))
		}
	}
}

// TestConcurrentPulls: images that share a layer, pulled through several stores
// on one folder (as processes do) and several goroutines each.
func TestConcurrentPulls(t *testing.T) {
	reg, s := newRegistry(t), newStore(t)
	reg.login(t, testPass)
	shared := gzipLayer(t, tarOf(t, "shared", noise(300_000)))
	for i := range 3 {
		own := gzipLayer(t, tarOf(t, "own", fmt.Sprint(i)))
		reg.push(t, fmt.Sprintf("app%d:1", i), imageOf(t, host, shared, own))
	}
	other, err := Open(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for n := range 12 {
		wg.Go(func() {
			store := []*Store{s, other}[n%2]
			if _, err := store.Pull(short(t), reg.ref(fmt.Sprintf("app%d:1", n%3)), "", nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for digest, n := range reg.blobs {
		if n != 1 {
			t.Errorf("%s was fetched %d times", digest, n)
		}
	}
	if images, err := s.List(t.Context()); err != nil || len(images) != 3 {
		t.Errorf("list: %v, %v", images, err)
	}
}

// TestWaiterOutlivesLeader: the one whose pull does the work gives up; the one
// who waits for it gets the image all the same.
func TestWaiterOutlivesLeader(t *testing.T) {
	var f flights
	ctx, cancel := context.WithCancel(t.Context())
	started, release := make(chan struct{}), make(chan struct{})
	leader := make(chan error, 1)
	work := func(ctx context.Context) error {
		close(started)
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	go func() { _, err := f.do(ctx, "k", work); leader <- err }()
	<-started
	fl, led := f.join(t.Context(), "k", work) // what do begins with
	if led {
		t.Fatal("two leaders")
	}
	cancel()
	if err := <-leader; !errors.Is(err, context.Canceled) {
		t.Errorf("leader: %v", err)
	}
	close(release)
	if <-fl.done; fl.err != nil {
		t.Errorf("waiter: %v", fl.err)
	}
	f.leave("k", fl)

	ctx, cancel = context.WithCancel(t.Context())
	ended := false
	_, err := f.do(ctx, "k", func(ctx context.Context) error {
		cancel()
		<-ctx.Done()
		ended = true
		return ctx.Err()
	})
	if !errors.Is(err, context.Canceled) || !ended || len(f.m) != 0 {
		t.Errorf("alone: %v, ended %v, %d left", err, ended, len(f.m))
	}
}

func TestPlainHTTPStaysHere(t *testing.T) {
	for url, ok := range map[string]bool{
		"http://127.0.0.1:1/": true, "http://localhost/": true, "http://[::1]:5/": true, "http://a.localhost/": true,
		"http://10.0.0.1/": false, "http://example.com/": false, "https://example.com/": true, "http://localhost.example.com/": false,
	} {
		reached := false
		g := &guard{base: roundTrip(func(*http.Request) (*http.Response, error) {
			reached = true
			return nil, errors.New("reached")
		}), idle: time.Minute}
		req, err := http.NewRequest(http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = g.RoundTrip(req)
		if reached != ok || !ok && !errs.Is(err, errs.FailedPrecondition) {
			t.Errorf("%s: reached %v, %v", url, reached, err)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
