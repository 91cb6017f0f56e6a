package image

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// isIndex says whether a document is an index of images rather than an image.
// The media type the sender gave goes first; some do not give one.
func isIndex(mt types.MediaType, b []byte) (bool, error) {
	switch {
	case mt.IsIndex():
		return true, nil
	case mt.IsImage():
		return false, nil
	case mt == types.DockerManifestSchema1, mt == types.DockerManifestSchema1Signed:
		return false, errs.New(errs.Unsupported, "image is in Docker's schema 1, which nothing has written since 2017")
	}
	var probe struct {
		MediaType types.MediaType   `json:"mediaType"`
		Manifests []json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(b, &probe); err != nil {
		return false, errs.New(errs.DataLoss, "manifest: %w", err)
	}
	return probe.MediaType.IsIndex() || probe.MediaType == "" && probe.Manifests != nil, nil
}

// parseIndex decodes an index of images.
func parseIndex(b []byte) (*v1.IndexManifest, error) {
	x := &v1.IndexManifest{}
	if err := json.Unmarshal(b, x); err != nil {
		return nil, errs.New(errs.DataLoss, "index: %w", err)
	}
	const most = 1000
	if len(x.Manifests) > most {
		return nil, errs.New(errs.ResourceExhausted, "index names %d images, more than %d", len(x.Manifests), most)
	}
	for _, d := range x.Manifests {
		if err := checkDescriptor(d, maxManifest); err != nil {
			return nil, errs.New(errs.ClassOf(err), "index: %w", err)
		}
	}
	return x, nil
}

func checkDescriptor(d v1.Descriptor, limit int64) error {
	switch {
	case !digestPattern.MatchString(d.Digest.String()):
		return errs.New(errs.Unsupported, "content %q is not named by a sha256 digest", clip(d.Digest.String()))
	case d.Size < 0:
		return errs.New(errs.DataLoss, "content %s has %d bytes", d.Digest, d.Size)
	case d.Size > limit:
		return errs.New(errs.ResourceExhausted, "content %s has %d bytes, more than %d", d.Digest, d.Size, limit)
	}
	return nil
}

// parseManifest decodes the manifest of a container image.
func parseManifest(b []byte) (*v1.Manifest, error) {
	m := &v1.Manifest{}
	if err := json.Unmarshal(b, m); err != nil {
		return nil, errs.New(errs.DataLoss, "manifest: %w", err)
	}
	switch m.Config.MediaType {
	case types.OCIConfigJSON, types.DockerConfigJSON:
	default:
		return nil, errs.New(errs.Unsupported, "not a container image: its config is %q", clip(string(m.Config.MediaType)))
	}
	if err := checkDescriptor(m.Config, maxConfig); err != nil {
		return nil, errs.New(errs.ClassOf(err), "config: %w", err)
	}
	if len(m.Layers) > maxLayers {
		return nil, errs.New(errs.ResourceExhausted, "image has %d layers, more than %d", len(m.Layers), maxLayers)
	}
	for i, d := range m.Layers {
		if err := checkDescriptor(d, maxBlob); err != nil {
			return nil, errs.New(errs.ClassOf(err), "layer %d of %d: %w", i+1, len(m.Layers), err)
		}
		if !isLayer(d.MediaType) {
			return nil, errs.New(errs.Unsupported, "layer %d of %d is of unknown type %q", i+1, len(m.Layers), clip(string(d.MediaType)))
		}
	}
	return m, nil
}

// isLayer says whether it is a tar; how it is compressed shows in its bytes.
func isLayer(t types.MediaType) bool {
	switch t {
	case types.OCILayer, types.OCILayerZStd, types.OCIUncompressedLayer, types.DockerLayer, types.DockerUncompressedLayer,
		types.OCIRestrictedLayer, types.OCIUncompressedRestrictedLayer, types.DockerForeignLayer:
		return true
	}
	return t == "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
}

// configFile is the config of an image as engines read it: with what the library's
// type lacks, and with commands that are one word in place of a list.
type configFile struct {
	v1.ConfigFile
	Config imageConfig `json:"config"`
}

type imageConfig struct {
	v1.Config
	Entrypoint  words   `json:"Entrypoint,omitempty"`
	Cmd         words   `json:"Cmd,omitempty"`
	Shell       words   `json:"Shell,omitempty"`
	Healthcheck *health `json:"Healthcheck,omitempty"`
}

// health is Health as it is written.
type health struct {
	Test          words         `json:",omitempty"`
	Interval      time.Duration `json:",omitempty"`
	Timeout       time.Duration `json:",omitempty"`
	StartPeriod   time.Duration `json:",omitempty"`
	StartInterval time.Duration `json:",omitempty"`
	Retries       int           `json:",omitempty"`
}

// words is a list, or one word, which old builders wrote for a list of one.
type words []string

func (w *words) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		*w = words{""}
		return json.Unmarshal(b, &(*w)[0])
	}
	return json.Unmarshal(b, (*[]string)(w))
}

// parseConfig decodes the config of an image of so many layers.
func parseConfig(b []byte, layers int) (*configFile, error) {
	c := &configFile{}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, errs.New(errs.DataLoss, "config: %w", err)
	}
	if len(c.RootFS.DiffIDs) != layers {
		return nil, errs.New(errs.DataLoss, "config names %d layers, the manifest %d", len(c.RootFS.DiffIDs), layers)
	}
	for _, h := range c.RootFS.DiffIDs {
		if !digestPattern.MatchString(h.String()) {
			return nil, errs.New(errs.Unsupported, "layer %q is not named by a sha256 digest", clip(h.String()))
		}
	}
	return c, nil
}

func platformOf(c *configFile) v1.Platform {
	return plainPlatform(v1.Platform{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant})
}

// recordPlatform is what an image is kept for: what it says, and where it says
// nothing what it was asked for.
func recordPlatform(c *configFile, want v1.Platform) string {
	if p := platformString(platformOf(c)); c.OS != "" && c.Architecture != "" {
		if _, err := parsePlatform(p); err == nil {
			return p
		}
	}
	return platformString(want)
}

func configOf(c *configFile) Config {
	return Config{
		Shell: c.Config.Shell, Health: healthOf(c.Config.Healthcheck),
		Entrypoint: c.Config.Entrypoint, Cmd: c.Config.Cmd, Env: c.Config.Env, User: c.Config.User,
		WorkingDir: c.Config.WorkingDir, StopSignal: c.Config.StopSignal, Labels: c.Config.Labels,
		Volumes:      slices.Sorted(maps.Keys(c.Config.Volumes)),
		ExposedPorts: slices.Sorted(maps.Keys(c.Config.ExposedPorts)),
	}
}

func healthOf(h *health) *Health {
	if h == nil {
		return nil
	}
	return &Health{Test: h.Test, Interval: h.Interval, Timeout: h.Timeout, StartPeriod: h.StartPeriod,
		StartInterval: h.StartInterval, Retries: h.Retries}
}

// choose picks the image for a platform: its exact variant, else one without a
// variant, else the first.
func choose(x *v1.IndexManifest, want v1.Platform) (v1.Descriptor, error) {
	var best *v1.Descriptor
	var have []string
	for i, d := range x.Manifests {
		if d.Platform == nil || d.Platform.OS == "unknown" { // "unknown" is BuildKit's for attestations
			continue
		}
		have = append(have, platformString(*d.Platform))
		if d.Platform.OS == "" || d.Platform.Architecture == "" || !satisfies(*d.Platform, want) {
			continue
		}
		if best == nil || plainPlatform(*best.Platform).Variant != "" && plainPlatform(*d.Platform).Variant == "" {
			best = &x.Manifests[i]
		}
	}
	switch {
	case best != nil:
		return *best, nil
	case len(have) == 0 && len(x.Manifests) == 1:
		return x.Manifests[0], nil
	}
	return v1.Descriptor{}, wrongPlatform(want, have)
}

func wrongPlatform(want v1.Platform, have []string) error {
	err := errs.New(errs.NotFound, "no image for %s", platformString(want))
	if list := strings.TrimSpace(joinPlatforms(have)); list != "" {
		err = errs.New(errs.NotFound, "no image for %s; there is %s", platformString(want), list)
	}
	return errs.WithHint(err, "choose one with platform:, as far as this host runs it")
}
