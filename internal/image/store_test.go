package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

func digestFrom(t testing.TB, s string) v1.Hash {
	t.Helper()
	h, err := parseDigest(s)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestNormalise(t *testing.T) {
	hex := strings.Repeat("0a", 32)
	for in, want := range map[string]string{
		"busybox":                          "docker.io/library/busybox:latest",
		"busybox:1.36":                     "docker.io/library/busybox:1.36",
		"grafana/loki":                     "docker.io/grafana/loki:latest",
		"docker.io/busybox":                "docker.io/library/busybox:latest",
		"index.docker.io/library/busybox":  "docker.io/library/busybox:latest",
		"ghcr.io/a/b/c:v1":                 "ghcr.io/a/b/c:v1",
		"localhost/x":                      "localhost/x:latest",
		"localhost:5000/x:y":               "localhost:5000/x:y",
		"[::1]:5000/x":                     "[::1]:5000/x:latest",
		"Reg/x":                            "Reg/x:latest",
		"a.b/c@sha256:" + hex:              "a.b/c@sha256:" + hex,
		"busybox:1.36@sha256:" + hex:       "docker.io/library/busybox@sha256:" + hex,
		"a__b/c--d_e.f":                    "docker.io/a__b/c--d_e.f:latest",
		"127.0.0.1:5000/team/app:1.0-rc.1": "127.0.0.1:5000/team/app:1.0-rc.1",
	} {
		got, err := Normalise(in)
		if err != nil || got != want {
			t.Errorf("%s: got %s, %v; want %s", in, got, err, want)
		}
		if again, err := Normalise(got); again != got || err != nil {
			t.Errorf("%s: not canonical: %s, %v", got, again, err)
		}
		if r, err := parseRef(in); err == nil {
			if _, err := r.remote(); err != nil {
				t.Errorf("%s: %v", in, err)
			}
		}
	}
	for _, in := range []string{"", ":x", "/x", "x/", "a//b", "A", "a/B", "x:", "x: y", "x:.y", "http://x/y", "x@sha256:12", "x@md5:12",
		"x@", "-x", "x_", "a/../b", "../x", "a/./b", "x:" + strings.Repeat("t", 129), strings.Repeat("n", 300), "x y", "a\x00b", "reg:port/x", "a.b:999999/x"} {
		got, err := Normalise(in)
		if !errs.Is(err, errs.InvalidArgument) || got != "" {
			t.Errorf("%q: got %q, %v", in, got, err)
		}
	}
}

func TestPlatforms(t *testing.T) {
	for in, want := range map[string]string{"linux/x86_64": "linux/amd64", "linux/aarch64": "linux/arm64", "linux/arm64/v8": "linux/arm64",
		"linux/armhf": "linux/arm/v7", "": host, "linux/arm/v6": "linux/arm/v6"} {
		p, err := parsePlatform(in)
		if err != nil || platformString(p) != want {
			t.Errorf("%q: %s, %v", in, platformString(p), err)
		}
	}
	for _, in := range []string{"linux", "linux/", "a/b/c/d", "linux/a b", "linux/\x1b"} {
		if _, err := parsePlatform(in); !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("%q: %v", in, err)
		}
	}
	platform := func(s string) *v1.Platform {
		os, rest, _ := strings.Cut(s, "/")
		arch, variant, _ := strings.Cut(rest, "/")
		return &v1.Platform{OS: os, Architecture: arch, Variant: variant}
	}
	list := func(l ...string) *v1.IndexManifest {
		x := &v1.IndexManifest{}
		for i, s := range l {
			d := v1.Descriptor{Size: int64(i)}
			if s != "" {
				d.Platform = platform(s)
			}
			x.Manifests = append(x.Manifests, d)
		}
		return x
	}
	for _, c := range []struct {
		in   *v1.IndexManifest
		want string
		pick int64 // -1: none
	}{
		{list("linux/arm64/v8", "linux/amd64"), "linux/arm64", 0},
		{list("linux/amd64/v3", "linux/amd64"), "linux/amd64", 1},
		{list("linux/amd64/v3"), "linux/amd64", 0},
		{list("linux/amd64", "linux/amd64/v3"), "linux/amd64/v3", 1},
		{list("linux/arm/v6", "linux/arm/v7"), "linux/arm/v7", 1},
		{list("linux/arm/v6"), "linux/arm/v7", -1},
		{list("windows/amd64", "unknown/unknown"), "linux/amd64", -1},
		{list(""), "linux/amd64", 0},
		{list("", ""), "linux/amd64", -1},
		{list(), "linux/amd64", -1},
	} {
		want, err := parsePlatform(c.want)
		if err != nil {
			t.Fatal(err)
		}
		d, err := choose(c.in, want)
		if (err != nil) != (c.pick < 0) || err == nil && d.Size != c.pick || err != nil && !errs.Is(err, errs.NotFound) {
			t.Errorf("%v for %s: %d, %v", c.in.Manifests, c.want, d.Size, err)
		}
	}
}

// put imports a small image.
func put(t *testing.T, s *Store, ref, content string) Image {
	t.Helper()
	p := filepath.Join(t.TempDir(), "root.tar")
	if err := os.WriteFile(p, tarOf(t, "x", content), 0o600); err != nil {
		t.Fatal(err)
	}
	img, err := s.Import(short(t), p, ref, Config{Cmd: []string{"x"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestRetagRemovePrune(t *testing.T) {
	s, ctx := newStore(t), short(t)
	old, new := put(t, s, "app", "old"), put(t, s, "app", "new")
	put(t, s, "twin", "new")
	other := put(t, s, "other", "other")
	roots := map[string]string{}
	for _, d := range []string{old.Digest, new.Digest, other.Digest} {
		path, err := s.RootFS(ctx, d, nil)
		if err != nil {
			t.Fatal(err)
		}
		roots[d] = path
	}
	list := func() string {
		images, err := s.List(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, i := range images {
			name := map[string]string{old.Digest: "old", new.Digest: "new", other.Digest: "other"}[i.Digest]
			names = append(names, strings.TrimPrefix(i.Ref, "docker.io/library/")+"="+name)
		}
		return strings.Join(names, " ")
	}
	there := func(digest string) bool { _, err := os.Stat(roots[digest]); return err == nil }
	if got := list(); got != "=old app:latest=new other:latest=other twin:latest=new" {
		t.Errorf("list: %s", got)
	}
	if _, err := s.Remove(ctx, "nothing"); !errs.Is(err, errs.NotFound) {
		t.Errorf("remove nothing: %v", err)
	}
	if freed, err := s.Remove(ctx, "app"); err != nil || freed != 0 || !there(new.Digest) || list() != "=old other:latest=other twin:latest=new" {
		t.Errorf("remove one name of two: freed %d, %v; %s", freed, err, list())
	}
	if freed, err := s.Remove(ctx, new.Digest); err != nil || freed < 4096 || there(new.Digest) || list() != "=old other:latest=other" {
		t.Errorf("remove: freed %d, %v; %s", freed, err, list())
	}
	if !there(old.Digest) || !there(other.Digest) {
		t.Error("removed too much")
	}
	if _, err := s.RootFS(ctx, old.Digest, nil); err != nil {
		t.Error(err)
	}

	p := filepath.Join(t.TempDir(), "root.tar")
	if err := os.WriteFile(p, tarOf(t, "x", "1"), 0o600); err != nil {
		t.Fatal(err)
	}
	tarDigest, tarRoot, err := s.RootFSFromTar(ctx, p, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prune(ctx, func(d string) bool { return d == other.Digest || d == tarDigest }); err != nil || there(old.Digest) || !there(other.Digest) || !exists(tarRoot) {
		t.Errorf("prune: %v; %s", err, list())
	}
	if freed, err := s.Prune(ctx, func(string) bool { return false }); err != nil || freed < 8192 || list() != "" || exists(tarRoot) {
		t.Errorf("prune all: %d, %v; %s", freed, err, list())
	}
	for _, d := range []string{"blobs/sha256", "rootfs", "tmp", "locks"} {
		if left, err := os.ReadDir(s.path(d)); err != nil || len(left) > 0 {
			t.Errorf("%s: %v, %v", d, left, err)
		}
	}
}

func exists(p string) bool { _, err := os.Stat(p); return err == nil }

func TestRemoveWaitsForUsers(t *testing.T) {
	s := newStore(t)
	put(t, s, "app", "1")
	release, err := s.use(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Remove(ctx, "app"); !errs.Is(err, errs.DeadlineExceeded) || !strings.Contains(err.Error(), "wait for other commands") {
		t.Errorf("in use: %v", err)
	}
	release()
	if _, err := s.Remove(t.Context(), "app"); err != nil {
		t.Error(err)
	}
}

func TestBrokenIndexIsReportedAndKept(t *testing.T) {
	for name, content := range map[string]string{
		"cut":       `{"version":1,"images":[{"re`,
		"empty":     ``,
		"newer":     `{"version":2,"images":[]}`,
		"digest":    `{"version":1,"images":[{"ref":"a","platform":"linux/amd64","digest":"sha256:../x"}]}`,
		"reference": `{"version":1,"images":[{"ref":"A","platform":"linux/amd64","digest":"sha256:` + strings.Repeat("a", 64) + `"}]}`,
		"platform":  `{"version":1,"images":[{"ref":"a","platform":"x","digest":"sha256:` + strings.Repeat("a", 64) + `"}]}`,
	} {
		s := newStore(t)
		put(t, s, "app", "1")
		file := s.path("index.json")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, find := s.Find(t.Context(), "app", "")
		_, list := s.List(t.Context())
		_, prune := s.Prune(t.Context(), func(string) bool { return false })
		_, remove := s.Remove(t.Context(), "app")
		for _, err := range []error{find, list, prune, remove} {
			if c := errs.ClassOf(err); c != errs.DataLoss && c != errs.Unsupported || !strings.Contains(err.Error(), file) || errs.HintOf(err) == "" {
				t.Errorf("%s: %v (%s)", name, err, c)
			}
		}
		if b, err := os.ReadFile(file); err != nil || string(b) != content {
			t.Errorf("%s: file is now %q (%v)", name, b, err)
		}
		if blobs, _ := os.ReadDir(s.path("blobs/sha256")); len(blobs) != 3 {
			t.Errorf("%s: %d blobs are left", name, len(blobs))
		}
	}
}

func TestDamagedManifestStopsCleaning(t *testing.T) {
	s := newStore(t)
	bad, good := put(t, s, "bad", "1"), put(t, s, "good", "2")
	if err := os.WriteFile(s.blobPath(digestFrom(t, bad.Digest)), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Find(t.Context(), "bad", ""); !errs.Is(err, errs.DataLoss) {
		t.Errorf("find: %v", err)
	}
	if all, err := s.List(t.Context()); err != nil || len(all) != 2 || all[0].Digest != bad.Digest || all[0].Broken == "" || all[1].Broken != "" {
		t.Errorf("list: %+v, %v", all, err)
	}
	if _, err := s.Remove(t.Context(), "good"); !errs.Is(err, errs.DataLoss) || !strings.Contains(errs.HintOf(err), "bad") {
		t.Errorf("remove: %v, %s", err, errs.HintOf(err))
	}
	if _, err := s.Find(t.Context(), "good", ""); err != nil {
		t.Errorf("a refused removal removed: %v", err)
	}
	if _, err := s.Remove(t.Context(), "bad"); err != nil {
		t.Error(err)
	}
	if _, err := s.RootFS(t.Context(), good.Digest, nil); err != nil {
		t.Error(err)
	}
}

func TestFullDisk(t *testing.T) {
	s := newStore(t)
	target := s.path("blobs", "sha256", "x")
	err := s.create(target, func(*os.File) error { return fmt.Errorf("write: %w", unix.ENOSPC) })
	if !errs.Is(err, errs.ResourceExhausted) || !strings.Contains(errs.HintOf(err), "prune") {
		t.Errorf("%v, %s", err, errs.HintOf(err))
	}
	if _, err := os.Stat(target); !errors.Is(err, fs.ErrNotExist) {
		t.Error("half a file has its name")
	}
}

func TestFoldersArePrivate(t *testing.T) {
	s := newStore(t)
	put(t, s, "app", "1")
	err := filepath.WalkDir(s.dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if info, err := d.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is %v (%v)", p, info.Mode(), err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	hex := strings.Repeat("a", 64)
	f.Add([]byte(`{"version":1,"images":[{"ref":"a","platform":"linux/amd64","digest":"sha256:` + hex + `"}]}`))
	f.Add([]byte(`{"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,"digest":"sha256:` + hex + `"},"layers":[]}`))
	f.Add([]byte(`{"manifests":[{"size":1,"digest":"sha256:` + hex + `","platform":{"os":"linux","architecture":"amd64"}}]}`))
	f.Add([]byte(`[{"Config":"x","RepoTags":["a:b"],"Layers":["y"]}]`))
	f.Add([]byte(`{"os":"linux","rootfs":{"diff_ids":["sha256:` + hex + `"]},"config":{"Volumes":{"/a":{}}}}`))
	f.Add([]byte("null"))
	want := v1.Platform{OS: "linux", Architecture: "amd64"}
	f.Fuzz(func(t *testing.T, b []byte) {
		var all []error
		if _, err := isIndex("", b); err != nil {
			all = append(all, err)
		}
		if x, err := decodeIndex(b); err != nil {
			all = append(all, err)
		} else {
			for _, r := range x.Images {
				x.put(r)
			}
		}
		if _, err := parseManifest(b); err != nil {
			all = append(all, err)
		}
		if x, err := parseIndex(b); err != nil {
			all = append(all, err)
		} else if _, err := choose(x, want); err != nil {
			all = append(all, err)
		}
		if c, err := parseConfig(b, 1); err != nil {
			all = append(all, err)
		} else if _ = configOf(c); !bytes.Contains([]byte(recordPlatform(c, want)), []byte("/")) {
			t.Errorf("platform %q", recordPlatform(c, want))
		}
		if _, err := decodeDocker(b); err != nil {
			all = append(all, err)
		}
		for _, err := range all {
			if errs.ClassOf(err) == errs.Unknown {
				t.Errorf("no class: %v", err)
			}
		}
	})
}

func FuzzNormalise(f *testing.F) {
	for _, s := range []string{"busybox", "a.b:5/c/d:e", "x@sha256:" + strings.Repeat("a", 64), "[::1]:5/x", "localhost/x", "a/../b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := Normalise(s)
		if err != nil {
			if !errs.Is(err, errs.InvalidArgument) || got != "" {
				t.Errorf("%q: %q, %v", s, got, err)
			}
			return
		}
		if again, err := Normalise(got); again != got || err != nil || strings.Contains(got, "..") {
			t.Errorf("%q: %q, then %q, %v", s, got, again, err)
		}
	})
}
