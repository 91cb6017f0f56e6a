package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// How often and how long is tried again.
const (
	maxFailures = 5               // in a row, of a request or within a layer
	firstDelay  = time.Second / 4 // doubled with each failure
	longestWait = time.Minute     // that a registry may ask for
	// A connection that brought so much was a good one: what fails after it is
	// counted anew. It bounds the attempts at a layer by its size.
	goodBytes = 1 << 20
)

// patient repeats requests without a body that a registry could not serve now, or
// whose connection ended before there was an answer. It waits as long as the
// registry asks for, within a bound. The library's own repetitions are not used:
// they do not end with the context.
type patient struct {
	base  http.RoundTripper
	delay time.Duration    // before the first repetition
	tell  func(why string) // that it waits, and why
}

var _ http.RoundTripper = (*patient)(nil)

func (p *patient) RoundTrip(req *http.Request) (*http.Response, error) {
	for failures := 1; ; failures++ {
		resp, err := p.base.RoundTrip(req)
		var wait time.Duration
		switch {
		case req.Body != nil || failures > maxFailures:
			return resp, err
		case err != nil && dropped(err):
			wait = p.delay << (failures - 1)
		case err == nil && transient(resp.StatusCode):
			asked, ok := retryAfter(resp.Header, time.Now())
			if ok && asked > longestWait {
				return resp, nil
			}
			wait = max(asked, p.delay<<(failures-1))
			err = errors.New(http.StatusText(resp.StatusCode))
			drain(resp)
		default:
			return resp, err
		}
		if err := p.wait(req.Context(), wait, err); err != nil {
			return nil, err
		}
	}
}

// wait blocks for d, or until ctx ends.
func (p *patient) wait(ctx context.Context, d time.Duration, why error) error {
	p.tell(fmt.Sprintf("again in %s: %s", d.Round(100*time.Millisecond), clip(why.Error())))
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// transient reports whether an answer may be another one later.
func transient(status int) bool {
	return slices.Contains([]int{http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout}, status)
}

// dropped reports whether a connection ended that had been made.
func dropped(err error) bool {
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE, syscall.ETIMEDOUT, net.ErrClosed} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}

// retryAfter is how long an answer asks to wait: seconds, or a date.
func retryAfter(h http.Header, now time.Time) (time.Duration, bool) {
	text := h.Get("Retry-After")
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(n) * time.Second, true
	}
	at, err := http.ParseTime(text)
	return max(0, at.Sub(now)), err == nil
}

// resumed reads a blob over as many connections as it takes: one that ends early
// is followed by another from where it ended.
type resumed struct {
	ctx      context.Context
	open     func(offset int64) (io.ReadCloser, error)
	size     int64
	patience *patient

	body     io.ReadCloser // nil: to be opened
	at       int64         // bytes that were read
	since    int64         // at when body was opened
	failures int           // in a row
}

var _ io.ReadCloser = (*resumed)(nil)

func (r *resumed) Read(b []byte) (int, error) {
	for {
		var err error
		if r.body == nil {
			r.since = r.at
			if r.body, err = r.open(r.at); err != nil && final(err) {
				return 0, err
			}
		}
		if err == nil {
			var n int
			n, err = r.body.Read(b)
			if r.at += int64(n); n > 0 || err == nil {
				return n, nil // what ended it is read again, or ends the next connection
			}
		}
		switch {
		case r.ctx.Err() != nil:
			return 0, err
		case err == io.EOF && (r.at >= r.size || r.at == r.since):
			return 0, err // it has all, or the registry has no more
		case err == io.EOF:
			err = io.ErrUnexpectedEOF
		}
		if err := r.again(err); err != nil {
			return 0, err
		}
	}
}

// again waits before the next connection; an error: there is none.
func (r *resumed) again(why error) error {
	if r.body != nil {
		r.body.Close()
		r.body = nil
	}
	if r.at-r.since >= goodBytes {
		r.failures = 0
	}
	if r.failures++; r.failures > maxFailures {
		return why
	}
	return r.patience.wait(r.ctx, r.patience.delay<<(r.failures-1), why)
}

// final reports whether an error is the answer of a registry, or of ours. Others
// are of the network, which may come back.
func final(err error) bool {
	var answer *transport.Error
	return errors.As(err, &answer) || errs.ClassOf(err) != errs.Unknown
}

func (r *resumed) Close() error {
	if r.body == nil {
		return nil
	}
	return r.body.Close()
}
