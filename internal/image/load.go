package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/vzcompose/vzcompose/internal/errs"
)

const (
	annotationRef  = "org.opencontainers.image.ref.name" // of the image-spec: a name, or only a tag
	annotationName = "io.containerd.image.name"          // containerd's and Docker's: the whole name
)

// Load takes in the images of an archive: an OCI layout (a folder, or a tar of
// one) or a docker-archive (docker save); tars may be compressed. It answers
// the images that it made known, those without a name included.
func (s *Store) Load(ctx context.Context, path string, progress func(Progress)) ([]Image, error) {
	release, err := s.use(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	m := newMeter(progress, "load", 0)
	defer m.stop()
	images, err := s.load(ctx, path, m)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", path, err)
	}
	return images, nil
}

func (s *Store) load(ctx context.Context, path string, m *meter) ([]Image, error) {
	a, err := s.openArchive(ctx, path, m)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	l := &loader{store: s, archive: a, meter: m}
	var found []Image
	switch {
	case contains(a, "oci-layout") && contains(a, "index.json"):
		found, err = l.layout(ctx)
	case contains(a, "manifest.json"):
		found, err = l.docker(ctx)
	default:
		err = errs.WithHint(errs.New(errs.InvalidArgument, "neither an OCI layout nor a docker-archive"),
			"vzcompose image import takes the tar of a root filesystem")
	}
	if err != nil {
		return nil, err
	}
	images := make([]Image, 0, len(found))
	for _, img := range found {
		img, err := s.record(ctx, img, img.Digest)
		if err != nil {
			return nil, err
		}
		images = append(images, img)
	}
	return images, nil
}

// loader reads one archive.
type loader struct {
	store   *Store
	archive archive
	meter   *meter
	total   int64
}

// expect raises the total by what is read next.
func (l *loader) expect(n int64) {
	l.total += n
	l.meter.setTotal(l.total)
}

func (l *loader) layout(ctx context.Context) ([]Image, error) {
	b, err := readSmall(l.archive, "index.json", maxManifest)
	if err != nil {
		return nil, err
	}
	list, err := parseIndex(b)
	if err != nil {
		return nil, err
	}
	var images []Image
	for _, d := range list.Manifests {
		name, err := layoutName(d)
		if err != nil {
			return nil, err
		}
		some, err := l.descriptor(ctx, d, name, true)
		if err != nil {
			return nil, err
		}
		images = append(images, some...)
	}
	if len(images) == 0 {
		return nil, errs.New(errs.NotFound, "no container image in the OCI layout")
	}
	return images, nil
}

// layoutName is the canonical name of an image in a layout; "" for none. A
// bare tag is no name.
func layoutName(d v1.Descriptor) (string, error) {
	name := d.Annotations[annotationName]
	if name == "" {
		if name = d.Annotations[annotationRef]; !strings.ContainsAny(name, "/:@") {
			return "", nil
		}
	}
	return Normalise(name)
}

// descriptor takes in an image, or those of an index whose content is there:
// archives often hold one platform of several.
func (l *loader) descriptor(ctx context.Context, d v1.Descriptor, name string, nested bool) ([]Image, error) {
	if p := d.Platform; p != nil && p.OS == "unknown" {
		return nil, nil
	}
	b, err := l.blob(d.Digest, maxManifest)
	if err != nil {
		return nil, err
	}
	index, err := isIndex(d.MediaType, b)
	if err != nil {
		return nil, err
	}
	if !index {
		img, err := l.image(ctx, b, name)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", clip(name), err)
		}
		return []Image{img}, nil
	}
	if !nested {
		return nil, errs.New(errs.Unsupported, "index of images within an index within an index")
	}
	list, err := parseIndex(b)
	if err != nil {
		return nil, err
	}
	var images []Image
	for _, d := range list.Manifests {
		if !contains(l.archive, blobName(d.Digest)) {
			continue
		}
		some, err := l.descriptor(ctx, d, name, false)
		if err != nil {
			return nil, err
		}
		images = append(images, some...)
	}
	return images, nil
}

func blobName(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

// blob reads and verifies a small blob of a layout.
func (l *loader) blob(h v1.Hash, limit int64) ([]byte, error) {
	b, err := readSmall(l.archive, blobName(h), limit)
	if err != nil {
		return nil, missing(err, h.String())
	}
	if digestOf(b) != h {
		return nil, errs.New(errs.DataLoss, "content of %s is not what its name says", h)
	}
	return b, nil
}

// image takes in the config and layers of a layout's image, then its manifest.
func (l *loader) image(ctx context.Context, manifest []byte, name string) (Image, error) {
	m, err := parseManifest(manifest)
	if err != nil {
		return Image{}, err
	}
	b, err := l.blob(m.Config.Digest, maxConfig)
	if err != nil {
		return Image{}, err
	}
	cfg, err := parseConfig(b, len(m.Layers))
	if err != nil {
		return Image{}, err
	}
	if _, err := l.store.putBytes(b); err != nil {
		return Image{}, err
	}
	size := m.Config.Size
	for i, d := range m.Layers {
		size += d.Size
		l.expect(d.Size)
		// Nobody else may wait for bytes of this archive: it closes with this load.
		err := l.store.fetch(ctx, fmt.Sprintf("archive %p", l), d, l.meter, func(context.Context) (io.ReadCloser, error) {
			r, _, err := l.archive.open(blobName(d.Digest))
			return r, missing(err, d.Digest.String())
		})
		if err != nil {
			return Image{}, fmt.Errorf("layer %d of %d: %w", i+1, len(m.Layers), err)
		}
	}
	return l.finish(manifest, cfg, name, size)
}

func (l *loader) finish(manifest []byte, cfg *configFile, name string, size int64) (Image, error) {
	digest, err := l.store.putBytes(manifest)
	if err != nil {
		return Image{}, err
	}
	host, err := parsePlatform("")
	if err != nil {
		return Image{}, err
	}
	return Image{Ref: name, Digest: digest.String(), Platform: recordPlatform(cfg, host), Size: size}, nil
}

// dockerImage is an entry of a docker-archive's manifest.json.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// decodeDocker reads a docker-archive's manifest.json.
func decodeDocker(b []byte) ([]dockerImage, error) {
	var list []dockerImage
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, errs.New(errs.DataLoss, "manifest.json: %w", err)
	}
	for _, d := range list {
		if len(d.Layers) > maxLayers {
			return nil, errs.New(errs.ResourceExhausted, "image has %d layers, more than %d", len(d.Layers), maxLayers)
		}
	}
	if len(list) == 0 || len(list) > 1000 {
		return nil, errs.New(errs.InvalidArgument, "manifest.json names %d images", len(list))
	}
	return list, nil
}

func (l *loader) docker(ctx context.Context) ([]Image, error) {
	b, err := readSmall(l.archive, "manifest.json", maxManifest)
	if err != nil {
		return nil, err
	}
	list, err := decodeDocker(b)
	if err != nil {
		return nil, err
	}
	var images []Image
	for i, d := range list {
		img, err := l.dockerImage(ctx, d)
		if err != nil {
			return nil, fmt.Errorf("image %d of %d: %w", i+1, len(list), err)
		}
		if len(d.RepoTags) == 0 {
			images = append(images, img)
		}
		for _, tag := range d.RepoTags {
			if img.Ref, err = Normalise(tag); err != nil {
				return nil, err
			}
			images = append(images, img)
		}
	}
	return images, nil
}

// dockerImage takes in one image. Such archives have no manifest of the
// image's; it gets an OCI one, with its layers as they are in the archive.
func (l *loader) dockerImage(ctx context.Context, d dockerImage) (Image, error) {
	b, err := readSmall(l.archive, d.Config, maxConfig)
	if err != nil {
		return Image{}, missing(err, d.Config)
	}
	cfg, err := parseConfig(b, len(d.Layers))
	if err != nil {
		return Image{}, err
	}
	config, err := l.store.putBytes(b)
	if err != nil {
		return Image{}, err
	}
	m := newManifest(config, int64(len(b)))
	size := m.Config.Size
	for i, name := range d.Layers {
		desc, err := l.dockerLayer(ctx, name, cfg.RootFS.DiffIDs[i])
		if err != nil {
			return Image{}, fmt.Errorf("layer %d of %d: %w", i+1, len(d.Layers), err)
		}
		m.Layers = append(m.Layers, desc)
		size += desc.Size
	}
	if b, err = json.Marshal(m); err != nil {
		return Image{}, errs.As(errs.Internal, err)
	}
	return l.finish(b, cfg, "", size)
}

func newManifest(config v1.Hash, size int64) *v1.Manifest {
	return &v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Layers: []v1.Descriptor{},
		Config: v1.Descriptor{MediaType: types.OCIConfigJSON, Digest: config, Size: size},
	}
}

// dockerLayer takes in one layer. An uncompressed one is named by its diff id.
func (l *loader) dockerLayer(ctx context.Context, name string, diffID v1.Hash) (v1.Descriptor, error) {
	r, size, err := l.archive.open(name)
	if err != nil {
		return v1.Descriptor{}, missing(err, name)
	}
	defer r.Close()
	l.expect(size)
	known := v1.Descriptor{MediaType: types.OCIUncompressedLayer, Digest: diffID, Size: size}
	if l.store.hasBlob(known) {
		l.meter.add(size)
		return known, nil
	}
	h, size, err := l.store.putStream(ctx, r, l.meter)
	if err != nil {
		return v1.Descriptor{}, err
	}
	kind, err := l.store.blobKind(h)
	if err != nil {
		return v1.Descriptor{}, err
	}
	if kind == plain && h != diffID {
		return v1.Descriptor{}, errs.New(errs.DataLoss, "%s is not the layer %s that the config names", clip(name), diffID)
	}
	return v1.Descriptor{MediaType: layerType(kind), Digest: h, Size: size}, nil
}

func layerType(c compression) types.MediaType {
	switch c {
	case gzipped:
		return types.OCILayer
	case zstdType:
		return types.OCILayerZStd
	}
	return types.OCIUncompressedLayer
}
