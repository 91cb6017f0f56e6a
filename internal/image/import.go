package image

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/regular"
)

// Import makes an image of one layer from the tar of a root filesystem, plain
// or compressed with gzip, zstd or xz, and gives it the name ref and the config
// cfg. It is for Linux on this host's processor. The same tar and config give
// the same image.
func (s *Store) Import(ctx context.Context, tarPath, ref string, cfg Config, progress func(Progress)) (Image, error) {
	name, err := Normalise(ref)
	if err != nil {
		return Image{}, err
	}
	release, err := s.use(ctx)
	if err != nil {
		return Image{}, err
	}
	defer release()
	m := newMeter(progress, "import", 0)
	defer m.stop()
	img, err := s.importTar(ctx, tarPath, cfg, m)
	if err != nil {
		return Image{}, fmt.Errorf("import %s: %w", tarPath, err)
	}
	img.Ref = name
	return s.record(ctx, img, img.Digest)
}

func (s *Store) importTar(ctx context.Context, tarPath string, cfg Config, m *meter) (Image, error) {
	layer, err := s.importLayer(ctx, tarPath, m)
	if err != nil {
		return Image{}, err
	}
	diffID, err := s.checkLayer(ctx, layer)
	if err != nil {
		return Image{}, err
	}
	b, err := json.Marshal(importedConfig(cfg, diffID))
	if err != nil {
		return Image{}, errs.As(errs.Internal, err)
	}
	config, err := s.putBytes(b)
	if err != nil {
		return Image{}, err
	}
	man := newManifest(config, int64(len(b)))
	man.Layers = append(man.Layers, layer)
	if b, err = json.Marshal(man); err != nil {
		return Image{}, errs.As(errs.Internal, err)
	}
	digest, err := s.putBytes(b)
	if err != nil {
		return Image{}, err
	}
	return Image{Digest: digest.String(), Platform: "linux/" + runtime.GOARCH, Size: man.Config.Size + layer.Size}, nil
}

// importLayer stores the tar as it is, or unpacked where a layer cannot be
// compressed in its way.
func (s *Store) importLayer(ctx context.Context, tarPath string, m *meter) (v1.Descriptor, error) {
	f, info, err := regular.Open(tarPath)
	if err != nil {
		return v1.Descriptor{}, err
	}
	defer f.Close()
	m.setTotal(info.Size())
	in := bufio.NewReaderSize(&meteredReader{f, m}, 256<<10)
	kind, err := sniff(in)
	if err != nil {
		return v1.Descriptor{}, err
	}
	var r io.Reader = in
	if kind == xzType {
		z, _, err := decompress(in, maxUnpacked)
		if err != nil {
			return v1.Descriptor{}, err
		}
		defer z.Close()
		r, kind = z, plain
	}
	h, size, err := s.putStream(ctx, r, newMeter(nil, "", 0))
	return v1.Descriptor{MediaType: layerType(kind), Digest: h, Size: size}, err
}

// checkLayer reads a stored layer to its end, as a tar, and answers its digest
// when uncompressed.
func (s *Store) checkLayer(ctx context.Context, d v1.Descriptor) (v1.Hash, error) {
	f, err := os.Open(s.blobPath(d.Digest))
	if err != nil {
		return v1.Hash{}, err
	}
	defer f.Close()
	z, _, err := decompress(f, maxUnpacked)
	if err != nil {
		return v1.Hash{}, err
	}
	defer z.Close()
	a := newReadAhead(z, sha256.New())
	defer a.Close()
	tr := tar.NewReader(a)
	for {
		if err := ctx.Err(); err != nil {
			return v1.Hash{}, err
		}
		_, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			if errs.ClassOf(err) == errs.Unknown {
				err = errs.New(errs.InvalidArgument, "not a tar, or a damaged one: %w", err)
			}
			return v1.Hash{}, err
		}
	}
	if _, err := io.Copy(io.Discard, a); err != nil {
		return v1.Hash{}, err
	}
	return parseDigest(a.digest())
}

func (s *Store) blobKind(h v1.Hash) (compression, error) {
	f, err := os.Open(s.blobPath(h))
	if err != nil {
		return "", err
	}
	defer f.Close()
	return sniff(bufio.NewReader(f))
}

func importedConfig(c Config, diffID v1.Hash) *v1.ConfigFile {
	set := func(l []string) map[string]struct{} {
		m := map[string]struct{}{}
		for _, s := range l {
			m[s] = struct{}{}
		}
		return m
	}
	f := &v1.ConfigFile{
		OS: "linux", Architecture: runtime.GOARCH,
		RootFS:  v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{diffID}},
		History: []v1.History{{CreatedBy: "vzcompose image import"}},
		Config: v1.Config{
			Entrypoint: c.Entrypoint, Cmd: c.Cmd, Env: c.Env, User: c.User, WorkingDir: c.WorkingDir, Shell: c.Shell,
			StopSignal: c.StopSignal, Labels: c.Labels, Volumes: set(c.Volumes), ExposedPorts: set(c.ExposedPorts),
		},
	}
	if h := c.Health; h != nil {
		f.Config.Healthcheck = &v1.HealthConfig{Test: h.Test, Interval: h.Interval, Timeout: h.Timeout, StartPeriod: h.StartPeriod, Retries: h.Retries}
	}
	return f
}
