package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/vzcompose/vzcompose/internal/errs"
)

func save(t *testing.T, b []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "archive")
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func gzipBytes(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// tarFolder makes a tar of a folder.
func tarFolder(t *testing.T, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	if err := tw.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestLoadDockerArchive reads what the registry library writes, whose layers
// are compressed, and what Docker and Podman write: plain layers, under links.
func TestLoadDockerArchive(t *testing.T) {
	first, second := tarOf(t, "a", noise(50_000)), tarOf(t, "b", "2", ".wh.a", "")
	img := imageOf(t, host, gzipLayer(t, first), gzipLayer(t, second))
	tag, err := name.NewTag("app:1")
	if err != nil {
		t.Fatal(err)
	}
	var library bytes.Buffer
	if err := tarball.Write(tag, img, &library); err != nil {
		t.Fatal(err)
	}
	config, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	var podman bytes.Buffer
	tw := tar.NewWriter(&podman)
	for _, f := range []struct{ name, link, content string }{
		{"1.tar", "", string(first)}, {"id1/layer.tar", "../1.tar", ""}, {"2.tar", "", string(second)}, {"id2/layer.tar", "../2.tar", ""},
		{"c.json", "", string(config)},
		{"manifest.json", "", `[{"Config":"c.json","RepoTags":["app:1","localhost/twin:2"],"Layers":["id1/layer.tar","id2/layer.tar"]}]`},
	} {
		h := &tar.Header{Name: f.name, Typeflag: tar.TypeReg, Size: int64(len(f.content)), Mode: 0o644}
		if f.link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.link
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"library": library.Bytes(), "podman": podman.Bytes(), "gzip": gzipBytes(t, podman.Bytes()), "zstd": zstdBytes(t, podman.Bytes()),
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			var last Progress
			images, err := s.Load(short(t), save(t, b), func(p Progress) { last = p })
			if err != nil {
				t.Fatal(err)
			}
			want := "docker.io/library/app:1"
			if name != "library" {
				want += " localhost/twin:2"
			}
			var got []string
			for _, i := range images {
				got = append(got, i.Ref)
			}
			if strings.Join(got, " ") != want || last.Phase != "load" || images[0].Platform != host || !slices.Equal(images[0].Config.Env, []string{"A=b"}) {
				t.Errorf("loaded %+v, %+v", images, last)
			}
			path, err := s.RootFS(short(t), images[0].Digest, nil)
			if err != nil {
				t.Fatal(err)
			}
			sameImage(t, path, first, second)
			if left, _ := os.ReadDir(s.path("tmp")); len(left) > 0 {
				t.Errorf("left %v", left)
			}
			again, err := s.Load(short(t), save(t, b), nil)
			if err != nil || again[0].Digest != images[0].Digest {
				t.Errorf("again: %v", err)
			}
		})
	}
}

func TestLoadLayout(t *testing.T) {
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	content := tarOf(t, "a", "amd64")
	one := imageOf(t, "linux/amd64", gzipLayer(t, content))
	two := imageOf(t, "linux/arm64", gzipLayer(t, tarOf(t, "a", "arm64")))
	twoDigest, err := two.Digest()
	if err != nil {
		t.Fatal(err)
	}
	annotate := func(k, v string) layout.Option { return layout.WithAnnotations(map[string]string{k: v}) }
	if err := p.AppendIndex(indexOf(t, one, two), annotate(annotationName, "docker.io/library/multi:1")); err != nil {
		t.Fatal(err)
	}
	if err := p.AppendImage(one, annotate(annotationRef, "reg.example/one:2")); err != nil {
		t.Fatal(err)
	}
	if err := p.AppendImage(imageOf(t, host, gzipLayer(t, tarOf(t, "x", "nameless"))), annotate(annotationRef, "latest")); err != nil {
		t.Fatal(err)
	}
	// An archive of one platform names the others and does not hold them.
	if err := os.Remove(filepath.Join(dir, "blobs/sha256", twoDigest.Hex)); err != nil {
		t.Fatal(err)
	}
	packed := tarFolder(t, dir)
	for name, path := range map[string]string{"folder": dir, "tar": save(t, packed), "gzip": save(t, gzipBytes(t, packed))} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			images, err := s.Load(short(t), path, nil)
			if err != nil {
				t.Fatal(err)
			}
			var refs []string
			for _, i := range images {
				refs = append(refs, i.Ref)
			}
			if strings.Join(refs, " ") != "docker.io/library/multi:1 reg.example/one:2 " {
				t.Errorf("loaded %q", refs)
			}
			got, err := s.Find(t.Context(), "multi:1", "linux/amd64")
			if err != nil || got.Digest != digestString(t, one) {
				t.Errorf("found %+v, %v", got, err)
			}
			root, err := s.RootFS(short(t), got.Digest, nil)
			if err != nil {
				t.Fatal(err)
			}
			sameImage(t, root, content)
		})
	}
}

func TestLoadRefusals(t *testing.T) {
	img := imageOf(t, host, gzipLayer(t, tarOf(t, "a", "1")))
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendImage(img); err != nil {
		t.Fatal(err)
	}
	manifest, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	damaged := func(h v1.Hash, damage func(string) error) string {
		d := t.TempDir()
		if err := os.CopyFS(d, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		if err := damage(filepath.Join(d, "blobs/sha256", h.Hex)); err != nil {
			t.Fatal(err)
		}
		return d
	}
	flip := func(p string) error { return os.WriteFile(p, []byte("{}"), 0o600) }
	link := func(p string) error {
		if err := os.Remove(p); err != nil {
			return err
		}
		return os.Symlink("/etc/passwd", p)
	}
	fifo := func(p string) error {
		if err := os.Remove(p); err != nil {
			return err
		}
		return os.Mkdir(p, 0o700)
	}
	docker := func(s string) string {
		return save(t, tarOf(t, "manifest.json", s, "c.json", `{"rootfs":{"diff_ids":["`+digestOf(nil).String()+`"]}}`, "l", "x"))
	}
	for name, c := range map[string]struct {
		path  string
		class errs.Class
		text  string
	}{
		"missing file":     {filepath.Join(dir, "nothing"), errs.NotFound, ""},
		"empty folder":     {t.TempDir(), errs.InvalidArgument, "neither"},
		"root tar":         {save(t, tarOf(t, "bin/sh", "x")), errs.InvalidArgument, "neither"},
		"no tar":           {save(t, []byte(strings.Repeat("hello ", 1000))), errs.InvalidArgument, "read tar"},
		"cut gzip":         {save(t, gzipBytes(t, tarOf(t, "a", noise(9000)))[:5000]), errs.DataLoss, "gzip"},
		"device":           {"/dev/zero", errs.InvalidArgument, "is not a file"},
		"damaged manifest": {damaged(digestFrom(t, digestString(t, img)), flip), errs.DataLoss, "not what its name says"},
		"damaged config":   {damaged(manifest.Config.Digest, flip), errs.DataLoss, "not what its name says"},
		"damaged layer":    {damaged(manifest.Layers[0].Digest, flip), errs.DataLoss, "layer 1 of 1"},
		"missing layer":    {damaged(manifest.Layers[0].Digest, os.Remove), errs.DataLoss, "does not have it"},
		"link out":         {damaged(manifest.Layers[0].Digest, link), errs.Unknown, "escapes"},
		"folder as layer":  {damaged(manifest.Layers[0].Digest, fifo), errs.InvalidArgument, "not a file"},
		"docker: not JSON": {docker("{"), errs.DataLoss, "manifest.json"},
		"docker: no image": {docker("[]"), errs.InvalidArgument, "0 images"},
		"docker: config":   {docker(`[{"Config":"../../etc/passwd","Layers":["l"]}]`), errs.DataLoss, "does not have it"},
		"docker: layer":    {docker(`[{"Config":"c.json","Layers":["nothing"]}]`), errs.DataLoss, "does not have it"},
		"docker: other":    {docker(`[{"Config":"c.json","Layers":["l"]}]`), errs.DataLoss, "that the config names"},
		"docker: count":    {docker(`[{"Config":"c.json","Layers":["l","l"]}]`), errs.DataLoss, "config names 1 layers"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			_, err := s.Load(short(t), c.path, nil)
			if err == nil || errs.ClassOf(err) != c.class || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v (%s), want %s: %s", err, errs.ClassOf(err), c.class, c.text)
			}
			if images, err := s.List(t.Context()); err != nil || len(images) != 0 {
				t.Errorf("list: %v, %v", images, err)
			}
			if left, _ := os.ReadDir(s.path("tmp")); len(left) > 0 {
				t.Errorf("left %v", left)
			}
		})
	}
}

func TestArchiveLinks(t *testing.T) {
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range []*tar.Header{
		{Name: "a", Typeflag: tar.TypeReg, Size: 1}, {Name: "d/hard", Typeflag: tar.TypeLink, Linkname: "a"},
		{Name: "d/up", Typeflag: tar.TypeSymlink, Linkname: "../../../a"}, {Name: "x", Typeflag: tar.TypeSymlink, Linkname: "y"},
		{Name: "y", Typeflag: tar.TypeSymlink, Linkname: "x"}, {Name: "out", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"},
	} {
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			fmt.Fprint(tw, "1")
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(save(t, b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	a, err := indexTar(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for name, ok := range map[string]bool{"a": true, "/a": true, "../a": true, "d/hard": true, "d/up": true, "x": false, "out": false, "no": false} {
		b, err := readSmall(a, name, 10)
		if (err == nil) != ok || ok && string(b) != "1" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	if _, err := readSmall(a, "a", 0); !errs.Is(err, errs.ResourceExhausted) {
		t.Errorf("too big: %v", err)
	}
}

func TestImport(t *testing.T) {
	content := tarOf(t, "etc/", "", "etc/x", noise(20_000))
	cfg := Config{Entrypoint: []string{"/init"}, Env: []string{"A=1"}, User: "1:2", WorkingDir: "/etc", StopSignal: "SIGINT",
		Volumes: []string{"/data"}, ExposedPorts: []string{"80/tcp"}, Labels: map[string]string{"k": "v"}}
	for name, c := range map[string]struct {
		in []byte
		mt types.MediaType
	}{
		"plain": {content, types.OCIUncompressedLayer},
		"gzip":  {gzipBytes(t, content), types.OCILayer},
		"zstd":  {zstdBytes(t, content), types.OCILayerZStd},
		"xz":    {xzBytes(t, content), types.OCIUncompressedLayer},
	} {
		t.Run(name, func(t *testing.T) {
			if c.in == nil {
				t.Skip("xz is not installed")
			}
			s := newStore(t)
			var last Progress
			img, err := s.Import(short(t), save(t, c.in), "my/app", cfg, func(p Progress) { last = p })
			if err != nil {
				t.Fatal(err)
			}
			if last.Phase != "import" || last.Current != int64(len(c.in)) || last.Total != last.Current {
				t.Errorf("ended at %+v", last)
			}
			if img.Ref != "docker.io/my/app:latest" || img.Platform != host || img.Created.IsZero() || fmt.Sprint(img.Config) != fmt.Sprint(cfg) {
				t.Errorf("image is %+v", img)
			}
			m, _, err := s.readImage(img.Digest)
			if err != nil || m.Layers[0].MediaType != c.mt {
				t.Errorf("manifest %+v, %v", m, err)
			}
			root, err := s.RootFS(short(t), img.Digest, nil)
			if err != nil {
				t.Fatal(err)
			}
			sameImage(t, root, content)
			again, err := newStore(t).Import(short(t), save(t, c.in), "other", cfg, nil)
			if err != nil || again.Digest != img.Digest {
				t.Errorf("the same tar is another image: %v", err)
			}
		})
	}
	for name, c := range map[string]struct {
		path, ref string
		class     errs.Class
	}{
		"reference": {save(t, content), "Bad", errs.InvalidArgument},
		"no tar":    {save(t, []byte(noise(5000))), "x", errs.InvalidArgument},
		"cut":       {save(t, content[:5000]), "x", errs.InvalidArgument},
		"cut gzip":  {save(t, gzipBytes(t, content)[:5000]), "x", errs.DataLoss},
		"bzip2":     {save(t, []byte("BZh91AY&SY")), "x", errs.Unsupported},
		"missing":   {"/nowhere", "x", errs.NotFound},
		"folder":    {t.TempDir(), "x", errs.InvalidArgument},
	} {
		if _, err := newStore(t).Import(short(t), c.path, c.ref, Config{}, nil); !errs.Is(err, c.class) {
			t.Errorf("%s: %v (%s)", name, err, errs.ClassOf(err))
		}
	}
}

// xzBytes needs the tool; nil without it.
func xzBytes(t *testing.T, b []byte) []byte {
	tool, err := exec.LookPath("xz")
	if err != nil {
		return nil
	}
	cmd := exec.Command(tool, "-c")
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestBomb(t *testing.T) {
	bomb := gzipBytes(t, make([]byte, 8<<20))
	z, kind, err := decompress(bytes.NewReader(bomb), 1<<20)
	if err != nil || kind != gzipped {
		t.Fatal(kind, err)
	}
	defer z.Close()
	a := newReadAhead(z, nil)
	defer a.Close()
	if n, err := io.Copy(io.Discard, a); !errs.Is(err, errs.ResourceExhausted) || n > 1<<20 {
		t.Errorf("read %d, %v", n, err)
	}
}

// TestReadAheadIsLeft: closing does not wait for what nobody reads any more.
func TestReadAheadIsLeft(t *testing.T) {
	in := []byte(noise(5 << 20))
	a := newReadAhead(bytes.NewReader(in), sha256.New())
	if _, err := io.ReadFull(a, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	a.Close()
	a = newReadAhead(bytes.NewReader(in), sha256.New())
	defer a.Close()
	got, err := io.ReadAll(a)
	if err != nil || !bytes.Equal(got, in) || a.digest() != digestOf(in).String() {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// A pipe in a folder that is to be loaded is refused: nobody may ever write to it.
func TestLoadAFolderWithAPipe(t *testing.T) {
	for _, name := range []string{"oci-layout", "index.json", "manifest.json"} {
		dir := t.TempDir()
		for _, file := range []string{"oci-layout", "index.json", "manifest.json"} {
			path := filepath.Join(dir, file)
			err := os.WriteFile(path, []byte("{}"), 0o600)
			if file == name {
				err = errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o600))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if _, err := newStore(t).Load(short(t), dir, nil); err == nil {
			t.Errorf("%s is a pipe, and is read", name)
		}
	}
}
