package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// flaky serves blobs and ends connections early.
type flaky struct {
	blobs map[string][]byte  // by digest
	cuts  map[string][]int64 // where connections end, by digest
	busy  []int              // statuses between connections
	whole bool               // ranges are not known

	mu sync.Mutex
	// mu guards the following.
	conns  map[string]int   // by digest
	ranges map[string]int64 // what the last connection brought it to
	faults []string
	refuse map[string]int // of busy, by digest
}

func newFlaky(t *testing.T, layers ...v1.Layer) *flaky {
	t.Helper()
	f := &flaky{blobs: map[string][]byte{}, cuts: map[string][]int64{}, conns: map[string]int{}, ranges: map[string]int64{}, refuse: map[string]int{}}
	for i, l := range layers {
		r, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		digest := digestString(t, l)
		f.blobs[digest] = b
		for k := range int64(3) { // at other places in each layer
			f.cuts[digest] = append(f.cuts[digest], (k+1)*int64(len(b))/int64(4+i)+k*7)
		}
	}
	return f
}

func (f *flaky) serve(w http.ResponseWriter, r *http.Request) bool {
	_, digest, _ := strings.Cut(r.URL.Path, "/blobs/")
	b, ok := f.blobs[digest]
	if !ok || r.Method != http.MethodGet {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.conns[digest]
	if n > 0 && n <= len(f.busy) && f.refuse[digest] < n {
		f.refuse[digest]++
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(f.busy[n-1])
		return true
	}
	f.conns[digest]++
	from := int64(0)
	if text := r.Header.Get("Range"); text != "" && !f.whole {
		_, _ = fmt.Sscanf(text, "bytes=%d-", &from)
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(b)-1, len(b)))
	}
	if from != f.ranges[digest] && !f.whole {
		f.faults = append(f.faults, fmt.Sprintf("%s was had to %d, and is asked for from %d", digest, f.ranges[digest], from))
	}
	w.Header().Set("Content-Length", fmt.Sprint(int64(len(b))-from))
	if from > 0 {
		w.WriteHeader(http.StatusPartialContent)
	}
	end := int64(len(b))
	if n < len(f.cuts[digest]) {
		end = f.cuts[digest][n]
	}
	_, _ = w.Write(b[from:end])
	f.ranges[digest] = end
	if end < int64(len(b)) {
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	return true
}

func TestPullGoesOnWhereItsConnectionEnded(t *testing.T) {
	for name, set := range map[string]func(*flaky){
		"connections end":      func(*flaky) {},
		"and are refused":      func(f *flaky) { f.busy = []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} },
		"ranges are not known": func(f *flaky) { f.whole = true },
	} {
		t.Run(name, func(t *testing.T) {
			reg := newRegistry(t)
			reg.login(t, testPass)
			layers := []v1.Layer{gzipLayer(t, tarOf(t, "a", noise(300_000))), gzipLayer(t, tarOf(t, "b", noise(2_000_000))), gzipLayer(t, tarOf(t, "c", noise(50_000)))}
			reg.push(t, "app:1", imageOf(t, host, layers...))
			f := newFlaky(t, layers...)
			set(f)
			reg.misbehave(f.serve)
			var phases []string
			s := newStore(t)
			img, err := s.Pull(short(t), reg.ref("app:1"), "", func(p Progress) {
				phases = append(phases, p.Phase)
				if p.Current > p.Total {
					t.Errorf("%d of %d bytes", p.Current, p.Total)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if len(f.faults) > 0 {
				t.Error(strings.Join(f.faults, "\n"))
			}
			for digest, n := range f.conns {
				if n != 4 {
					t.Errorf("%s took %d connections", digest, n)
				}
			}
			if !slices.ContainsFunc(phases, func(s string) bool { return strings.HasPrefix(s, "pull again in") }) {
				t.Errorf("nothing of it in %q", slices.Compact(phases))
			}
			if _, err := s.RootFS(t.Context(), img.Digest, nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// What never gets better ends the pull, after a bounded number of attempts, with
// what was wrong.
func TestPullGivesUp(t *testing.T) {
	reg := newRegistry(t)
	reg.login(t, testPass)
	layer := gzipLayer(t, tarOf(t, "a", noise(100_000)))
	reg.push(t, "app:1", imageOf(t, host, layer))
	f := newFlaky(t, layer)
	digest := digestString(t, layer)
	f.cuts[digest] = slices.Repeat([]int64{1000}, 100)
	count := 0
	status := func(code int, after string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			count++
			w.Header().Set("Retry-After", after)
			w.WriteHeader(code)
			return true
		}
	}
	for name, c := range map[string]struct {
		behave   func(http.ResponseWriter, *http.Request) bool
		class    errs.Class
		text     string
		attempts func() int
		want     int
	}{
		"connections":    {f.serve, errs.Unavailable, "unexpected EOF", func() int { return f.conns[digest] }, 1 + maxFailures},
		"unavailable":    {status(503, ""), errs.Unavailable, "503", func() int { return count }, 1 + maxFailures},
		"a long wait":    {status(429, "3600"), errs.ResourceExhausted, "429", func() int { return count }, 1},
		"not found":      {status(404, ""), errs.NotFound, "404", func() int { return count }, 1},
		"not authorised": {status(403, ""), errs.PermissionDenied, "403", func() int { return count }, 1},
	} {
		count = 0
		reg.misbehave(c.behave)
		_, err := newStore(t).Pull(short(t), reg.ref("app:1"), "", nil)
		if !errs.Is(err, c.class) || !strings.Contains(err.Error(), c.text) || c.attempts() != c.want {
			t.Errorf("%s: %v (%s) after %d attempts, want %d", name, err, errs.ClassOf(err), c.attempts(), c.want)
		}
	}
}

// A pull that waits for its registry ends with its context.
func TestPullEndsWhileItWaits(t *testing.T) {
	reg := newRegistry(t)
	reg.login(t, testPass)
	layer := gzipLayer(t, tarOf(t, "a", noise(100_000)))
	reg.push(t, "app:1", imageOf(t, host, layer))
	inner := reg.Config.Handler
	for _, where := range []string{"/blobs/", "/manifests/", "/v2/"} {
		ctx, cancel := context.WithCancel(t.Context())
		reg.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.Contains(r.URL.Path, where) {
				inner.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Retry-After", "50")
			w.WriteHeader(http.StatusServiceUnavailable)
		})
		began := time.Time{}
		_, err := newStore(t).Pull(ctx, reg.ref("app:1"), "", func(p Progress) {
			if strings.Contains(p.Phase, "again in 50s") && began.IsZero() {
				began = time.Now()
				cancel()
			}
		})
		if !errs.Is(err, errs.Canceled) || began.IsZero() || time.Since(began) > time.Second {
			t.Errorf("%s: %v (%s), %s after it was cancelled", where, err, errs.ClassOf(err), time.Since(began))
		}
		cancel()
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": -1, "x": -1, "-1": -1, "0": 0, "7": 7 * time.Second, "4294967296": -1,
		"Wed, 01 May 2024 12:00:30 GMT": 30 * time.Second, "Wed, 01 May 2024 11:00:00 GMT": 0,
	} {
		got, ok := retryAfter(http.Header{"Retry-After": {text}}, now)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// tokens is a registry's server of tokens, at a port of its own.
func (r *testRegistry) tokens(t *testing.T) (*httptest.Server, func() []string) {
	t.Helper()
	var mu sync.Mutex
	var asked []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, pass, _ := r.BasicAuth()
		mu.Lock()
		asked = append(asked, user+":"+pass+" "+strings.Join(r.URL.Query()["scope"], ","))
		n := len(asked)
		mu.Unlock()
		fmt.Fprintf(w, `{"token":"t%d"}`, n)
	}))
	t.Cleanup(s.Close)
	return s, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(asked)
	}
}

// bearer makes the registry take tokens of the realm only, for as many requests
// each, and challenge where challenges says.
func (r *testRegistry) bearer(realm string, uses int, challenges func(path string) bool) {
	inner := r.Config.Handler
	var mu sync.Mutex
	used := map[string]int{}
	r.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		token, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer t")
		mu.Lock()
		used[token]++
		worn := used[token] > uses
		mu.Unlock()
		switch {
		case !challenges(req.URL.Path):
			w.WriteHeader(http.StatusOK)
			return
		case !ok || worn:
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+realm+`",service="test",scope="repository:app:pull"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		req.SetBasicAuth(testUser, testPass)
		inner.ServeHTTP(w, req)
	})
}

func TestTokensOfAnotherPort(t *testing.T) {
	for name, challenges := range map[string]func(string) bool{
		"challenge at the greeting":          func(string) bool { return true },
		"challenge with the manifest only":   func(path string) bool { return path != "/v2/" },
		"tokens that are worn with each use": func(path string) bool { return true },
	} {
		t.Run(name, func(t *testing.T) {
			reg := newRegistry(t)
			reg.login(t, testPass)
			reg.push(t, "app:1", imageOf(t, host, gzipLayer(t, tarOf(t, "a", "x")), gzipLayer(t, tarOf(t, "b", "y"))))
			realm, asked := reg.tokens(t)
			uses := 100
			if strings.HasPrefix(name, "tokens") {
				uses = 2
			}
			reg.bearer(realm.URL+"/jwt", uses, challenges)
			if _, err := newStore(t).Pull(short(t), reg.ref("app:1"), "", nil); err != nil {
				t.Fatal(err)
			}
			all := asked()
			if uses == 100 && len(all) != 1 || all[0] != testUser+":"+testPass+" repository:app:pull" {
				t.Errorf("asked for %q", all)
			}
		})
	}
}

// Credentials are for the registry and its realm, not for where it leads.
func TestCredentialsStayWithTheRegistry(t *testing.T) {
	reg := newRegistry(t)
	reg.login(t, testPass)
	layer := gzipLayer(t, tarOf(t, "a", noise(10_000)))
	reg.push(t, "app:1", imageOf(t, host, layer))
	f := newFlaky(t, layer)
	var shown []string
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown = append(shown, r.Header.Get("Authorization"))
		f.serve(w, r)
	}))
	defer storage.Close()
	lead := func(host string) {
		to := strings.Replace(storage.URL, "127.0.0.1", host, 1)
		reg.misbehave(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, digestString(t, layer)) {
				return false
			}
			http.Redirect(w, r, to+r.URL.Path, http.StatusTemporaryRedirect)
			return true
		})
	}
	lead("localhost")
	if _, err := newStore(t).Pull(short(t), reg.ref("app:1"), "", nil); err != nil {
		t.Fatal(err)
	}
	if len(shown) != 4 || strings.Join(shown, "") != "" {
		t.Errorf("the storage was shown %q", shown)
	}
	for _, host := range []string{"127.0.0.2", "127.1", "2130706433", "10.0.0.1", "[fe80::1]"} {
		lead(host)
		if _, err := newStore(t).Pull(short(t), reg.ref("app:1"), "", nil); !errs.Is(err, errs.PermissionDenied) {
			t.Errorf("%s: %v", host, err)
		}
	}
}

func TestChallenges(t *testing.T) {
	for text, want := range map[string]string{
		`Bearer realm="https://a/b,c",service=x , scope="r:p:pull,push"`: "bearer realm=https://a/b,c scope=r:p:pull,push service=x",
		`bearer realm="a\"b"`:                    `bearer realm=a"b`,
		`Basic realm="r", Bearer realm="https"`:  "bearer realm=https",
		`Negotiate, Basic realm="r"`:             "basic realm=r",
		`Basic`:                                  "basic",
		`Negotiate`:                              "",
		``:                                       "",
		`Bearer ` + strings.Repeat(`a="`, 10000): "bearer",
	} {
		c := challengeOf(http.Header{"Www-Authenticate": {text}})
		got := ""
		if c != nil {
			got = c.Scheme
			for _, name := range []string{"realm", "scope", "service"} {
				if v, ok := c.Parameters[name]; ok {
					got += " " + name + "=" + v
				}
			}
		}
		if got != want && !strings.Contains(text, `a="a="`) {
			t.Errorf("%.60q: got %q, want %q", text, got, want)
		}
	}
}

// TestResumedReadsWhatIsThere: where a body ends decides nothing about the bytes.
func TestResumedReadsWhatIsThere(t *testing.T) {
	text := []byte(noise(10_000))
	for _, step := range []int{999, 5000, 9999} {
		opened := 0
		r := &resumed{ctx: t.Context(), size: int64(len(text)), patience: &patient{tell: func(string) {}}, open: func(offset int64) (io.ReadCloser, error) {
			if opened++; opened%2 == 0 {
				return nil, errors.New("the network is down")
			}
			end := min(int(offset)+step, len(text))
			return io.NopCloser(io.MultiReader(bytes.NewReader(text[offset:end]), failing{})), nil
		}}
		got, err := io.ReadAll(io.LimitReader(r, int64(len(text))))
		if whole := step > 3000; whole != (err == nil && len(got) == len(text)) || !bytes.HasPrefix(text, got) {
			t.Errorf("%d: %d bytes, %v", step, len(got), err)
		}
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("reset") }
