package image

import (
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// authorizer gives requests the credentials of their host: to the registry those
// of the user, to a host that it redirects to none but a token for anybody. A
// challenge is followed whenever one comes: some registries greet without one and
// challenge at the manifest. The exchange of credentials for a token is the
// library's.
type authorizer struct {
	base   http.RoundTripper
	repo   name.Repository
	scheme string // of the registry, as it was found: "https" or "http"
	creds  authn.Authenticator

	mu sync.Mutex
	// mu guards the following.
	headers map[string]string // Authorization by host
}

var _ http.RoundTripper = (*authorizer)(nil)

// newAuthorizer greets the registry, to find whether it speaks TLS and what it
// wants.
func newAuthorizer(ctx context.Context, base http.RoundTripper, repo name.Repository, keychain authn.Keychain) (*authorizer, error) {
	creds, err := authn.Resolve(ctx, keychain, repo)
	if err != nil {
		return nil, err
	}
	greeting, err := transport.Ping(ctx, repo.Registry, base)
	if err != nil {
		return nil, err
	}
	a := &authorizer{base: base, repo: repo, scheme: "https", creds: creds, headers: map[string]string{}}
	if greeting.Insecure {
		a.scheme = "http"
	}
	host := repo.RegistryStr()
	if strings.EqualFold(greeting.Scheme, "bearer") {
		a.headers[host], err = a.exchange(ctx, host, greeting)
		return a, err
	}
	// Where nothing is asked for, credentials are shown all the same: some
	// registries show more to who has them, and never ask.
	a.headers[host], err = basic(ctx, creds)
	return a, err
}

func (a *authorizer) RoundTrip(req *http.Request) (*http.Response, error) {
	host := req.URL.Host
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", "vzcompose")
	if host == a.repo.RegistryStr() {
		req.URL.Scheme = a.scheme
	}
	shown := a.header(host)
	authorize(req, shown)
	resp, err := a.base.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusUnauthorized || req.Body != nil {
		return resp, err
	}
	challenge := challengeOf(resp.Header)
	if challenge == nil {
		return resp, nil
	}
	challenge.Insecure = req.URL.Scheme == "http"
	header, err := a.renew(req.Context(), host, shown, challenge)
	if err != nil || header == shown {
		if err != nil {
			drain(resp)
			return nil, err
		}
		return resp, nil
	}
	drain(resp)
	again := req.Clone(req.Context())
	authorize(again, header)
	return a.base.RoundTrip(again)
}

// drain lets the connection be used again.
func drain(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	resp.Body.Close()
}

func authorize(req *http.Request, header string) {
	req.Header.Del("Authorization")
	if header != "" {
		req.Header.Set("Authorization", header)
	}
}

func (a *authorizer) header(host string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.headers[host]
}

// renew returns what to show a host that did not take shown. Requests that were
// refused together exchange once.
func (a *authorizer) renew(ctx context.Context, host, shown string, c *transport.Challenge) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := a.headers[host]; now != shown {
		return now, nil
	}
	var header string
	var err error
	if strings.EqualFold(c.Scheme, "bearer") {
		header, err = a.exchange(ctx, host, c)
	} else if host == a.repo.RegistryStr() {
		header, err = basic(ctx, a.creds)
	}
	if err == nil && header != "" {
		a.headers[host] = header
	}
	return a.headers[host], err
}

// exchange gets a token from where the challenge says.
func (a *authorizer) exchange(ctx context.Context, host string, c *transport.Challenge) (string, error) {
	creds := authn.Authenticator(authn.Anonymous)
	scopes := []string{a.repo.Scope(transport.PullScope)}
	if host == a.repo.RegistryStr() {
		creds = a.creds
	} else {
		scopes = nil
	}
	cfg, err := authn.Authorization(ctx, creds)
	if err != nil {
		return "", err
	}
	if cfg.RegistryToken != "" {
		return "Bearer " + cfg.RegistryToken, nil
	}
	if s := c.Parameters["scope"]; s != "" && !slices.Contains(scopes, s) {
		scopes = append([]string{s}, scopes...) // some registries look at the first only
	}
	reg, err := realmRegistry(host, c.Parameters["realm"])
	if err != nil {
		return "", err
	}
	tok, err := transport.Exchange(ctx, reg, creds, a.base, scopes, c)
	if err != nil {
		return "", err
	}
	if tok.AccessToken != "" {
		tok.Token = tok.AccessToken
	}
	return "Bearer " + tok.Token, nil
}

// realmRegistry is the registry that the library is to take a token of realm for.
// It refuses realms at private addresses but for that of the registry itself, port
// included; GitLab and Harbor have theirs at another port of the same host.
func realmRegistry(host, realm string) (name.Registry, error) {
	if u, err := url.Parse(realm); err == nil && u.Host != "" && strings.EqualFold(u.Hostname(), hostname(host)) {
		host = u.Host
	}
	reg, err := name.NewRegistry(host)
	if err != nil {
		return reg, errs.As(errs.DataLoss, err)
	}
	return reg, nil
}

func hostname(host string) string { return (&url.URL{Host: host}).Hostname() }

// basic is the header of credentials, "" for none.
func basic(ctx context.Context, creds authn.Authenticator) (string, error) {
	if creds == authn.Anonymous {
		return "", nil
	}
	cfg, err := authn.Authorization(ctx, creds)
	switch {
	case err != nil:
		return "", err
	case cfg.RegistryToken != "":
		return "Bearer " + cfg.RegistryToken, nil
	case cfg.Username != "" && cfg.Password != "":
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(cfg.Username+":"+cfg.Password)), nil
	case cfg.Auth != "":
		return "Basic " + cfg.Auth, nil
	}
	return "", nil
}

var (
	challengeText = regexp.MustCompile(`(?i)(?:^|[\s,])(bearer|basic)(?:\s|$)`)
	parameterText = regexp.MustCompile(`([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^",\s]+))`)
)

// challengeOf returns the challenge of an answer that we can follow: for a token
// before one for a password. The header is bounded by net/http.
func challengeOf(h http.Header) *transport.Challenge {
	var found *transport.Challenge
	for _, text := range h.Values("WWW-Authenticate") {
		at := challengeText.FindAllStringSubmatchIndex(text, -1)
		for i, m := range at {
			end := len(text)
			if i+1 < len(at) {
				end = at[i+1][0]
			}
			c := &transport.Challenge{Scheme: strings.ToLower(text[m[2]:m[3]]), Parameters: map[string]string{}}
			for _, p := range parameterText.FindAllStringSubmatch(text[m[1]:end], -1) {
				value := p[3]
				if value == "" {
					value = strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(p[2])
				}
				c.Parameters[strings.ToLower(p[1])] = value
			}
			if found == nil || c.Scheme == "bearer" && found.Scheme != "bearer" {
				found = c
			}
		}
	}
	return found
}

// checkRedirect refuses to be led from a registry to an address of a private
// network: what answers there is not meant for it. The library has the same rule
// for manifests.
func checkRedirect(req *http.Request, via []*http.Request) error {
	const most = 10
	from, to := via[0].URL.Hostname(), req.URL.Hostname()
	switch {
	case len(via) >= most:
		return errs.New(errs.FailedPrecondition, "%s redirects more than %d times", clip(from), most)
	case from != to && private(to):
		return errs.New(errs.PermissionDenied, "%s redirects to %s, an address of a private network", clip(from), clip(to))
	}
	return nil
}

// private reports whether a host is written as an address of a private network,
// in the spellings of inet_aton(3) too, which resolvers take.
func private(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		a = a.Unmap()
		return a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsLinkLocalMulticast() || a.IsUnspecified()
	}
	last := host[strings.LastIndexByte(host, '.')+1:]
	return last != "" && last[0] >= '0' && last[0] <= '9'
}
