// Package image keeps OCI images and the root filesystems made of them, in one
// folder that any number of processes may use at once. It pulls from
// registries, loads archives, imports tars, and turns an image, a tar or a
// folder into one read-only EROFS file that every machine shares.
//
// The folder:
//
//	index.json            references and what they mean; versioned JSON
//	blobs/sha256/HEX      manifests, configs and layers as they came
//	rootfs/sha256-HEX.erofs  one a digest, built when first asked for
//	tmp/ locks/           files being made; flock files
//
// A file in blobs or rootfs is whole, synced and verified before it has its
// name. Layers stay after a root filesystem is built: images share them, and a
// lost or outdated root filesystem is rebuilt without the network. That costs
// the compressed size once.
//
// Whoever reads or adds holds store.lock shared; Remove and Prune hold it
// exclusively, so that they see no half-made image and may sweep tmp and locks.
// What is broken in the index is reported and never deleted.
//
// Registries, archives and tars are hostile: manifests, configs, layers and
// names are bounded. Credentials are those of the Docker config and its helpers.
// Plain HTTP is spoken with registries on this machine only.
//
// Not here: building and pushing images, which instance uses which image, and
// when to pull.
package image

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Image is what a reference means here.
type Image struct {
	Ref      string    `json:"ref,omitempty"` // canonical; "" where a newer image took the name
	Digest   string    `json:"digest"`        // of the manifest
	Platform string    `json:"platform"`      // "linux/amd64", "linux/arm/v7"
	Size     int64     `json:"size"`          // compressed bytes of config and layers
	Created  time.Time `json:"created"`       // as the image says, else when it came here
	Config   Config    `json:"config"`
	// Broken, set by List, says why its manifest or config cannot be used; Config is
	// not known then.
	Broken string `json:"broken,omitempty"`
}

// Config is what an image says about its process. All of it is the image's
// author's word.
type Config struct {
	Entrypoint   []string          `json:"entrypoint,omitempty"`
	Cmd          []string          `json:"cmd,omitempty"`
	Env          []string          `json:"env,omitempty"` // NAME=value
	User         string            `json:"user,omitempty"`
	WorkingDir   string            `json:"working_dir,omitempty"`
	StopSignal   string            `json:"stop_signal,omitempty"`
	Volumes      []string          `json:"volumes,omitempty"`       // sorted
	ExposedPorts []string          `json:"exposed_ports,omitempty"` // "80/tcp", sorted
	Labels       map[string]string `json:"labels,omitempty"`
	Shell        []string          `json:"shell,omitempty"` // of checks in the form of the shell; nil: /bin/sh -c
	Health       *Health           `json:"health,omitempty"`
}

// Health is the check of its health that an image has. Zero is not said.
type Health struct {
	Test          []string      `json:"test,omitempty"` // "CMD", "CMD-SHELL" or "NONE" first
	Interval      time.Duration `json:"interval,omitempty"`
	Timeout       time.Duration `json:"timeout,omitempty"`
	StartPeriod   time.Duration `json:"start_period,omitempty"`
	StartInterval time.Duration `json:"start_interval,omitempty"`
	Retries       int           `json:"retries,omitempty"`
}

// Checked reports whether an image has a check of its health.
func (c Config) Checked() bool {
	return c.Health != nil && (len(c.Health.Test) > 1 && (c.Health.Test[0] == "CMD" || c.Health.Test[0] == "CMD-SHELL"))
}

// Progress is how far an operation is. Total is 0 while it is not known.
type Progress struct {
	Phase          string // "pull", "load", "import", "unpack", "pack", "read"
	Current, Total int64  // bytes, all layers together
}

// Limits of what an image may ask of this host.
const (
	maxManifest = 4 << 20  // bytes of a manifest or an index
	maxConfig   = 8 << 20  // bytes of a config
	maxLayers   = 512      // of an image; overlayfs ends at 500
	maxBlob     = 64 << 30 // compressed bytes of a layer
	maxUnpacked = 64 << 30 // uncompressed bytes of a layer
	parallel    = 4        // layers fetched at once
)

// Store is an open folder of images. It is safe for concurrent use and holds
// nothing that needs closing.
type Store struct {
	dir       string
	flights   flights
	transport http.RoundTripper
	keychain  authn.Keychain
	delay     time.Duration // before a request is repeated for the first time
	now       func() time.Time
}

// idleLimit is how long a registry may send nothing.
const idleLimit = 30 * time.Second

// Open opens the store in dir and makes its folders, 0700, where they are not
// there. Files that a crash left half-made are removed if nobody else uses the
// store.
func Open(dir string) (*Store, error) {
	s := &Store{
		dir:       dir,
		transport: newGuard(remote.DefaultTransport, idleLimit),
		keychain:  &keychain{inner: authn.DefaultKeychain, limit: idleLimit},
		delay:     firstDelay,
		now:       time.Now,
	}
	for _, d := range []string{"blobs/sha256", "rootfs", "tmp", "locks"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("open image store: %w", err)
		}
	}
	if unlock, err := tryLock(s.path("store.lock"), unix.LOCK_EX); err == nil {
		s.sweep()
		unlock()
	}
	return s, nil
}

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// use keeps Remove and Prune of any process away until release is called.
func (s *Store) use(ctx context.Context) (release func(), err error) {
	return lockFile(ctx, s.path("store.lock"), unix.LOCK_SH, "the images being cleaned up")
}

// sweep removes what only an operation under way needs. The store's lock is
// held exclusively.
func (s *Store) sweep() {
	for _, d := range []string{"tmp", "locks"} {
		// What cannot be listed or removed now is removed another time.
		entries, _ := os.ReadDir(s.path(d))
		for _, e := range entries {
			_ = os.RemoveAll(s.path(d, e.Name()))
		}
	}
}

// Find answers what ref means here. Ref may also be a bare digest of a
// manifest. Platform "" is this host's. NotFound says how to get the image.
func (s *Store) Find(ctx context.Context, ref, platform string) (Image, error) {
	want, err := parsePlatform(platform)
	if err != nil {
		return Image{}, err
	}
	match, name, err := matcher(ref)
	if err != nil {
		return Image{}, err
	}
	release, err := s.use(ctx)
	if err != nil {
		return Image{}, err
	}
	defer release()
	idx, err := s.readIndex()
	if err != nil {
		return Image{}, err
	}
	var others []string
	for _, r := range idx.Images {
		if !match(r) {
			continue
		}
		if have, err := parsePlatform(r.Platform); err == nil && satisfies(have, want) {
			return s.describe(r)
		}
		others = append(others, r.Platform)
	}
	if len(others) > 0 {
		return Image{}, errs.WithHint(errs.New(errs.NotFound, "image %s is not here for %s, only for %s",
			name, platformString(want), joinPlatforms(others)), "pull it for %s", platformString(want))
	}
	return Image{}, errs.WithHint(errs.New(errs.NotFound, "image %s is not here", name),
		"vzcompose image pull gets it from its registry, vzcompose image load from an archive")
}

// List returns all images, by reference, platform and digest. One that is damaged is
// among them, with Broken saying why.
func (s *Store) List(ctx context.Context) ([]Image, error) {
	release, err := s.use(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	idx, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	images := make([]Image, 0, len(idx.Images))
	for _, r := range idx.Images {
		img, err := s.describe(r)
		if err != nil {
			img = Image{Ref: r.Ref, Digest: r.Digest, Platform: r.Platform, Size: r.Size, Created: r.Added, Broken: err.Error()}
		}
		images = append(images, img)
	}
	return images, nil
}

// describe reads what a record stands for.
func (s *Store) describe(r record) (Image, error) {
	img := Image{Ref: r.Ref, Digest: r.Digest, Platform: r.Platform, Size: r.Size, Created: r.Added}
	_, cfg, err := s.readImage(r.Digest)
	if err != nil {
		return Image{}, fmt.Errorf("read image %s: %w", r.name(), err)
	}
	if !cfg.Created.IsZero() {
		img.Created = cfg.Created.Time
	}
	img.Config = configOf(cfg)
	return img, nil
}

// readImage reads and checks a manifest and its config.
func (s *Store) readImage(digest string) (*v1.Manifest, *configFile, error) {
	h, err := parseDigest(digest)
	if err != nil {
		return nil, nil, err
	}
	b, err := s.readBlob(h, maxManifest)
	if err != nil {
		return nil, nil, err
	}
	m, err := parseManifest(b)
	if err != nil {
		return nil, nil, err
	}
	if b, err = s.readBlob(m.Config.Digest, maxConfig); err != nil {
		return nil, nil, err
	}
	cfg, err := parseConfig(b, len(m.Layers))
	return m, cfg, err
}

// record makes img known, with added and target, and its name its own.
func (s *Store) record(ctx context.Context, img Image, target string) (Image, error) {
	r := record{Ref: img.Ref, Platform: img.Platform, Digest: img.Digest, Target: target, Size: img.Size, Added: s.now().UTC()}
	if err := s.updateIndex(ctx, func(idx *index) error { idx.put(r); return nil }); err != nil {
		return Image{}, err
	}
	return s.describe(r)
}

func digestOf(b []byte) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", sha256.Sum256(b))}
}
