package image

import (
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// The grammar of distribution/reference, which is Docker's.
var (
	domainPattern = regexp.MustCompile(`^(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[a-fA-F0-9:]+\])(?::[0-9]{1,5})?$`)
	pathPattern   = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagPattern    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	digestPattern = regexp.MustCompile(`^sha256:[a-f0-9]{64}$`)
)

const (
	defaultDomain = "docker.io"
	hubRegistry   = "index.docker.io" // where that one's images are, for the library
)

// reference is a parsed reference; exactly one of tag and digest is set.
type reference struct{ domain, path, tag, digest string }

// Normalise answers the canonical form of a reference, as Docker has it:
// "busybox" is "docker.io/library/busybox:latest". A reference with both tag
// and digest means the digest, and loses the tag. The error, an
// InvalidArgument, is for the user.
func Normalise(ref string) (string, error) {
	r, err := parseRef(ref)
	return r.String(), err
}

func (r reference) String() string {
	switch {
	case r.digest != "":
		return r.domain + "/" + r.path + "@" + r.digest
	case r.tag != "":
		return r.domain + "/" + r.path + ":" + r.tag
	}
	return ""
}

func parseRef(s string) (reference, error) {
	bad := func(format string, args ...any) (reference, error) {
		return reference{}, errs.New(errs.InvalidArgument, "image reference %q: "+format, append([]any{clip(s)}, args...)...)
	}
	if scheme, _, ok := strings.Cut(s, "://"); ok && !strings.ContainsAny(scheme, "/@") {
		return bad("a reference has no %q in front", scheme+"://")
	}
	rest, digest, hasDigest := strings.Cut(s, "@")
	if hasDigest && !digestPattern.MatchString(digest) {
		return bad("what follows @ must be sha256: and 64 hexadecimal digits")
	}
	tag := ""
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
		rest, tag = rest[:i], rest[i+1:]
		if !tagPattern.MatchString(tag) {
			return bad("tag %q may hold letters, digits, dots, dashes and underscores, and 128 of them at most", clip(tag))
		}
	}
	domain, path, ok := strings.Cut(rest, "/")
	if !ok || !strings.ContainsAny(domain, ".:") && domain != "localhost" && domain == strings.ToLower(domain) {
		domain, path = defaultDomain, rest
	}
	if domain == hubRegistry {
		domain = defaultDomain
	}
	if domain == defaultDomain && path != "" && !strings.Contains(path, "/") {
		path = "library/" + path
	}
	switch {
	case s == "" || path == "":
		return bad("no name")
	case !domainPattern.MatchString(domain):
		return bad("%q is no registry", clip(domain))
	case path != strings.ToLower(path):
		return bad("names are in lower case: %q", clip(strings.ToLower(path)))
	case len(path) > 255:
		return bad("the name is longer than 255 characters")
	case !pathPattern.MatchString(path):
		return bad("name %q may hold letters, digits and single separators (. _ - /) between them", clip(path))
	case hasDigest:
		return reference{domain, path, "", digest}, nil
	case tag == "":
		tag = "latest"
	}
	return reference{domain, path, tag, ""}, nil
}

// repository is where the registry library finds the image.
func (r reference) repository() (name.Repository, error) {
	domain, opts := r.domain, []name.Option{}
	switch domain {
	case defaultDomain:
		domain = hubRegistry
	case "localhost": // the library knows it with a port only
		opts = append(opts, name.Insecure)
	}
	reg, err := name.NewRegistry(domain, opts...)
	if err != nil {
		return name.Repository{}, errs.As(errs.InvalidArgument, err)
	}
	return reg.Repo(r.path), nil
}

func (r reference) remote() (name.Reference, error) {
	repo, err := r.repository()
	if err != nil {
		return nil, err
	}
	if r.digest != "" {
		return repo.Digest(r.digest), nil
	}
	return repo.Tag(r.tag), nil
}

// matcher answers what finds records for a reference or a bare digest, and how
// to call it. A digest finds the image under any name: it says all.
func matcher(ref string) (match func(record) bool, name string, err error) {
	if digestPattern.MatchString(ref) {
		return func(r record) bool { return r.Digest == ref }, ref, nil
	}
	p, err := parseRef(ref)
	if err != nil {
		return nil, "", err
	}
	name = p.String()
	return func(r record) bool {
		return r.Ref == name || p.digest != "" && (r.Digest == p.digest || r.Target == p.digest)
	}, name, nil
}

func parseDigest(s string) (v1.Hash, error) {
	if !digestPattern.MatchString(s) {
		return v1.Hash{}, errs.New(errs.InvalidArgument, "%q is not a sha256 digest", clip(s))
	}
	return v1.Hash{Algorithm: "sha256", Hex: s[len("sha256:"):]}, nil
}

// parsePlatform reads "os/arch[/variant]"; "" is Linux on this host's processor.
func parsePlatform(s string) (v1.Platform, error) {
	if s == "" {
		s = "linux/" + runtime.GOARCH
	}
	parts := strings.Split(s, "/")
	for _, p := range parts {
		if p == "" || strings.ContainsFunc(p, func(r rune) bool { return r <= ' ' || r > '~' }) {
			parts = nil
		}
	}
	if len(parts) < 2 || len(parts) > 3 || len(s) > 100 {
		return v1.Platform{}, errs.New(errs.InvalidArgument, "platform %q is not like linux/amd64 or linux/arm/v7", clip(s))
	}
	p := v1.Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return plainPlatform(p), nil
}

// plainPlatform takes away what has several spellings.
func plainPlatform(p v1.Platform) v1.Platform {
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture = "arm64"
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	}
	if p.Architecture == "arm64" && p.Variant == "v8" {
		p.Variant = ""
	}
	return v1.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}
}

func platformString(p v1.Platform) string { return clip(plainPlatform(p).String()) }

// satisfies says whether an image for have runs where want is asked for. An
// image that does not say what it is for is taken at its user's word.
func satisfies(have, want v1.Platform) bool {
	have = plainPlatform(have)
	return (have.OS == "" || have.OS == want.OS) &&
		(have.Architecture == "" || have.Architecture == want.Architecture) &&
		(want.Variant == "" || have.Variant == want.Variant)
}

func joinPlatforms(l []string) string {
	l = slices.Compact(slices.Sorted(slices.Values(l)))
	const most = 20
	if len(l) > most {
		l = append(l[:most:most], "...")
	}
	return strings.Join(l, ", ")
}

// clip makes a hostile string fit for a message.
func clip(s string) string {
	const most = 300
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}
