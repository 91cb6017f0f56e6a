package image

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/errgroup"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// Pull gets the image that the registry has for ref and platform ("" is this
// host's), and makes ref mean it. What is here already is not fetched again.
// Progress, which may be nil, is called by one goroutine at a time.
//
// Errors: InvalidArgument for ref, NotFound for an image or platform that is
// not there, PermissionDenied, Unavailable, DeadlineExceeded for a registry that
// went silent, DataLoss for what is not what it was announced to be.
func (s *Store) Pull(ctx context.Context, ref, platform string, progress func(Progress)) (Image, error) {
	parsed, err := parseRef(ref)
	if err != nil {
		return Image{}, err
	}
	want, err := parsePlatform(platform)
	if err != nil {
		return Image{}, err
	}
	release, err := s.use(ctx)
	if err != nil {
		return Image{}, err
	}
	defer release()
	m := newMeter(progress, "pull", 0)
	defer m.stop()
	p, err := s.newPull(ctx, parsed, want, m)
	if err != nil {
		return Image{}, fmt.Errorf("pull %s: %w", parsed, registryError(err, parsed.domain))
	}
	img, target, err := p.run(ctx)
	if err != nil {
		return Image{}, registryError(err, parsed.domain)
	}
	return s.record(ctx, img, target)
}

// pull is one Pull under way.
type pull struct {
	store  *Store
	ref    reference
	want   v1.Platform
	meter  *meter
	puller *remote.Puller // of manifests
	client *http.Client   // of blobs
	repo   name.Repository

	patience *patient
}

func (s *Store) newPull(ctx context.Context, ref reference, want v1.Platform, m *meter) (*pull, error) {
	repo, err := ref.repository()
	if err != nil {
		return nil, err
	}
	patience := &patient{base: s.transport, delay: s.delay, tell: m.tell}
	auth, err := newAuthorizer(ctx, patience, repo, s.keychain)
	if err != nil {
		return nil, fmt.Errorf("greet %s: %w", ref.domain, err)
	}
	// A Wrapper is taken by the library as it is, without its own authentication
	// and repetitions.
	wrapped, err := transport.FromToken(repo.Registry, authn.Anonymous, auth, &transport.Challenge{}, nil)
	if err != nil {
		return nil, errs.As(errs.Internal, err)
	}
	puller, err := remote.NewPuller(remote.WithTransport(wrapped), remote.WithJobs(parallel))
	if err != nil {
		return nil, errs.As(errs.Internal, err)
	}
	return &pull{store: s, ref: ref, want: want, meter: m, puller: puller, repo: repo, patience: patience,
		client: &http.Client{Transport: auth, CheckRedirect: checkRedirect}}, nil
}

// run answers the image and the digest of what the reference named.
func (p *pull) run(ctx context.Context) (img Image, target string, err error) {
	raw, target, err := p.resolve(ctx)
	if err != nil {
		return Image{}, "", err
	}
	man, err := parseManifest(raw)
	if err != nil {
		return Image{}, "", err
	}
	size := man.Config.Size
	for _, d := range man.Layers {
		size += d.Size
	}
	p.meter.setTotal(size)
	if err := p.fetch(ctx, man.Config); err != nil {
		return Image{}, "", fmt.Errorf("fetch config: %w", err)
	}
	b, err := p.store.readBlob(man.Config.Digest, maxConfig)
	if err != nil {
		return Image{}, "", err
	}
	cfg, err := parseConfig(b, len(man.Layers))
	if err != nil {
		return Image{}, "", err
	}
	if have := platformOf(cfg); !satisfies(have, p.want) {
		return Image{}, "", wrongPlatform(p.want, []string{platformString(have)})
	}
	if err := p.layers(ctx, man.Layers); err != nil {
		return Image{}, "", err
	}
	digest, err := p.store.putBytes(raw)
	if err != nil {
		return Image{}, "", err
	}
	return Image{Ref: p.ref.String(), Digest: digest.String(), Platform: recordPlatform(cfg, p.want), Size: size}, target, nil
}

// resolve answers the manifest for the platform, and the digest of what the
// reference named: the manifest itself, or an index.
func (p *pull) resolve(ctx context.Context) (manifest []byte, target string, err error) {
	ref, err := p.ref.remote()
	if err != nil {
		return nil, "", err
	}
	desc, index, err := p.get(ctx, ref)
	if err != nil {
		return nil, "", fmt.Errorf("resolve at %s: %w", p.ref.domain, err)
	}
	target = desc.Digest.String()
	if !index {
		return desc.Manifest, target, nil
	}
	list, err := parseIndex(desc.Manifest)
	if err != nil {
		return nil, "", err
	}
	choice, err := choose(list, p.want)
	if err != nil {
		return nil, "", err
	}
	if desc, index, err = p.get(ctx, p.repo.Digest(choice.Digest.String())); err != nil {
		return nil, "", fmt.Errorf("fetch manifest for %s from %s: %w", platformString(p.want), p.ref.domain, err)
	}
	if index {
		return nil, "", errs.New(errs.Unsupported, "index of images within an index")
	}
	return desc.Manifest, target, nil
}

func (p *pull) get(ctx context.Context, ref name.Reference) (desc *remote.Descriptor, index bool, err error) {
	if desc, err = p.puller.Get(ctx, ref); err != nil {
		return nil, false, err
	}
	if len(desc.Manifest) > maxManifest {
		return nil, false, errs.New(errs.ResourceExhausted, "manifest of %d bytes", len(desc.Manifest))
	}
	index, err = isIndex(desc.MediaType, desc.Manifest)
	return desc, index, err
}

func (p *pull) layers(ctx context.Context, layers []v1.Descriptor) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	seen := map[v1.Hash]bool{}
	for i, d := range layers {
		if seen[d.Digest] {
			p.meter.add(d.Size)
			continue
		}
		seen[d.Digest] = true
		g.Go(func() error {
			if err := p.fetch(ctx, d); err != nil {
				return fmt.Errorf("fetch layer %d of %d: %w", i+1, len(layers), err)
			}
			return nil
		})
	}
	return g.Wait()
}

func (p *pull) fetch(ctx context.Context, d v1.Descriptor) error {
	err := p.store.fetch(ctx, p.repo.Name(), d, p.meter, func(ctx context.Context) (io.ReadCloser, error) {
		r := &resumed{ctx: ctx, size: d.Size, patience: p.patience,
			open: func(offset int64) (io.ReadCloser, error) { return p.openBlob(ctx, d, offset) }}
		var err error
		r.body, err = r.open(0)
		return r, err
	})
	return registryError(err, p.ref.domain)
}

// openBlob asks for a blob from offset on.
func (p *pull) openBlob(ctx context.Context, d v1.Descriptor, offset int64) (io.ReadCloser, error) {
	at := url.URL{Scheme: p.repo.Scheme(), Host: p.repo.RegistryStr(), Path: "/v2/" + p.repo.RepositoryStr() + "/blobs/" + d.Digest.String()}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, errs.As(errs.Internal, err)
	}
	req.Header.Set("Accept-Encoding", "identity") // the bytes of the digest, of which a range can be had
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, err
	}
	if err := transport.CheckError(resp, http.StatusOK, http.StatusPartialContent); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return fromOffset(resp, offset)
}

// fromOffset returns the body of an answer from offset on: the answer's own where
// it is that part, and otherwise what remains when all before it was read.
func fromOffset(resp *http.Response, offset int64) (io.ReadCloser, error) {
	if resp.StatusCode == http.StatusOK {
		if _, err := io.CopyN(io.Discard, resp.Body, offset); err != nil {
			resp.Body.Close()
			return nil, err
		}
		return resp.Body, nil
	}
	var first int64
	if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &first); err != nil || first != offset {
		resp.Body.Close()
		return nil, errs.New(errs.DataLoss, "asked for what follows byte %d, and got %q", offset, clip(resp.Header.Get("Content-Range")))
	}
	return resp.Body, nil
}
