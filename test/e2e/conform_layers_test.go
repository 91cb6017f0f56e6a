package e2e

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// layerOf is a layer of files: name and content, alternately; a name that ends
// with a slash is a folder.
func layerOf(t *testing.T, files ...string) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		h := &tar.Header{Name: files[i], Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(files[i+1]))}
		if strings.HasSuffix(h.Name, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return must(tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil }))
}

// hundred are busybox and 99 layers on it. Each adds a file of its own, writes
// over one that all have, and takes something away: the file of the layer before
// where its number is divisible by 3, and all of a folder, from below and not
// its own, where it is by 10.
func hundred(t *testing.T) v1.Image {
	t.Helper()
	all := []v1.Layer{must(tarball.LayerFromFile(filepath.Join(shared.cache, "images", "busybox.tar")))}
	for n := 1; n < 100; n++ {
		files := []string{"layers/", "", fmt.Sprintf("layers/%02d", n), fmt.Sprintf("of %d\n", n), "layers/last", fmt.Sprintf("%d\n", n), "opaque/", ""}
		if n%3 == 0 {
			files = append(files, fmt.Sprintf("layers/.wh.%02d", n-1), "")
		}
		if n%10 == 0 {
			files = append(files, "opaque/.wh..wh..opq", "")
		}
		files = append(files, fmt.Sprintf("opaque/%02d", n), "")
		all = append(all, layerOf(t, files...))
	}
	img := must(mutate.AppendLayers(empty.Image, all...))
	config := must(img.ConfigFile()).DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	return must(mutate.ConfigFile(img, config))
}

func TestConformLayers(t *testing.T) {
	s := scenario(t, `
containers:
  box: {image: "hundred:1", cpus: 1, memory: 64MiB, command: [sleep, "36000"], stop_grace_period: 0s}
`)
	behave(t, 52, "an image of 100 layers, with what they overwrite and take away", func(t *testing.T) {
		dir := t.TempDir()
		if err := must(layout.Write(dir, empty.Index)).AppendImage(hundred(t), layout.WithAnnotations(map[string]string{
			"org.opencontainers.image.ref.name": "hundred:1"})); err != nil {
			t.Fatal(err)
		}
		s.must("image", "load", dir)
		t.Cleanup(func() { s.must("down"); s.must("image", "rm", "hundred:1") })
		s.must("up", "-d")
		var want, opaque strings.Builder
		for n := 1; n < 100; n++ {
			if (n+1)%3 != 0 {
				fmt.Fprintf(&want, "%02d of %d\n", n, n)
			}
			if n >= 90 {
				fmt.Fprintf(&opaque, "%02d\n", n)
			}
		}
		s.sh("box", "cd /layers; for f in [0-9]*; do echo $f $(cat $f); done").want(t, 0, want.String())
		s.sh("box", "cat /layers/last; ls -A /opaque").want(t, 0, "99\n"+opaque.String())
	})
}
