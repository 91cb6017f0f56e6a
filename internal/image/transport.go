package image

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// guard is the way to registries. It ends a request on which nothing came for
// idle, and speaks plain HTTP with this machine only: the library would also
// fall back to it on private networks, credentials included.
type guard struct {
	base http.RoundTripper
	idle time.Duration
}

var _ http.RoundTripper = (*guard)(nil)

// newGuard has connections of its own.
func newGuard(base http.RoundTripper, idle time.Duration) *guard {
	if t, ok := base.(*http.Transport); ok {
		base = t.Clone()
	}
	return &guard{base: base, idle: idle}
}

func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	host := req.URL.Host
	if req.URL.Scheme != "https" && !loopback(req.URL.Hostname()) {
		return nil, errs.WithHint(errs.New(errs.FailedPrecondition, "plain HTTP with %s is refused", clip(host)),
			"only a registry on this machine may be without TLS")
	}
	silent := errs.New(errs.DeadlineExceeded, "%s sent nothing for %s", clip(host), g.idle)
	ctx, cancel := context.WithCancelCause(req.Context())
	timer := time.AfterFunc(g.idle, func() { cancel(silent) })
	resp, err := g.base.RoundTrip(req.WithContext(ctx))
	timer.Stop()
	if err != nil {
		err = causeOf(ctx, silent, err)
		cancel(nil)
		return nil, err
	}
	resp.Body = &guardedBody{ReadCloser: resp.Body, ctx: ctx, cancel: cancel, timer: timer, idle: g.idle, silent: silent}
	return resp, nil
}

// causeOf answers silent where that ended the request.
func causeOf(ctx context.Context, silent, err error) error {
	if context.Cause(ctx) == silent {
		return silent
	}
	return err
}

// guardedBody runs the timer while somebody waits for bytes.
type guardedBody struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	idle   time.Duration
	silent error
}

func (b *guardedBody) Read(p []byte) (int, error) {
	b.timer.Reset(b.idle)
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	if err != nil && err != io.EOF {
		err = causeOf(b.ctx, b.silent, err)
	}
	return n, err
}

func (b *guardedBody) Close() error {
	b.timer.Stop()
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}

// keychain asks the Docker config for credentials. Its helpers are programs
// that may wait for ever, and know no context.
type keychain struct {
	inner authn.Keychain
	limit time.Duration
}

func (k *keychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), r)
}

func (k *keychain) ResolveContext(ctx context.Context, r authn.Resource) (authn.Authenticator, error) {
	type answer struct {
		auth authn.Authenticator
		err  error
	}
	ctx, cancel := context.WithTimeout(ctx, k.limit)
	defer cancel()
	c := make(chan answer, 1)
	go func() { // ends with the helper: there is no way to end it before
		auth, err := k.inner.Resolve(r)
		c <- answer{auth, err}
	}()
	select {
	case a := <-c:
		if a.err != nil {
			return nil, errs.WithHint(errs.New(errs.FailedPrecondition, "ask for credentials of %s: %w", r.RegistryStr(), a.err),
				"look at the Docker config and its credential helpers")
		}
		return a.auth, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the credential helper of %s: %w", r.RegistryStr(), ctx.Err())
	}
}

// registryError gives class and hint to what a registry answered for what.
func registryError(err error, host string) error {
	var answer *transport.Error
	var network net.Error
	var dial *url.Error
	var cert *tls.CertificateVerificationError
	var file *fs.PathError
	switch {
	case err == nil || errs.ClassOf(err) != errs.Unknown || errors.As(err, &file):
		return err // ours, or of this host's files
	case errors.As(err, &answer):
		return answerError(answer, err, host)
	case errors.As(err, &cert):
		return errs.WithHint(errs.As(errs.PermissionDenied, err), "the certificate of %s is not trusted by this host", host)
	case errors.As(err, &network), errors.As(err, &dial), errors.Is(err, io.ErrUnexpectedEOF):
		return errs.As(errs.Unavailable, err)
	}
	return errs.As(errs.DataLoss, err)
}

// answerError is for answers that are errors. Their text is the registry's.
func answerError(answer *transport.Error, err error, host string) error {
	err = &clipped{err}
	switch code := answer.StatusCode; {
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return errs.WithHint(errs.As(errs.PermissionDenied, err),
			"check the name of the image; docker login %s renews the credentials for %s", host, host)
	case code == http.StatusNotFound:
		return errs.WithHint(errs.As(errs.NotFound, err), "check name and tag at %s", host)
	case code == http.StatusTooManyRequests:
		return errs.WithHint(errs.As(errs.ResourceExhausted, err), "%s limits how much one may pull; docker login %s may raise that", host, host)
	case code >= 500:
		return errs.As(errs.Unavailable, err)
	}
	return errs.As(errs.FailedPrecondition, err)
}

// clipped bounds the text of a foreign error.
type clipped struct{ err error }

func (c *clipped) Error() string { return clip(c.err.Error()) }
func (c *clipped) Unwrap() error { return c.err }
