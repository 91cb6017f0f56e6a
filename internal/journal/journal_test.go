package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
)

// place is the path of a journal, whose folder is there.
func place(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "shop")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "events.jsonl")
}

func put(t *testing.T, path string, e Entry) {
	t.Helper()
	if err := Append(path, e); err != nil {
		t.Fatal(err)
	}
}

func opened(t *testing.T, path string, o ReadOptions) *Reader {
	t.Helper()
	r, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// all reads to the end.
func all(t *testing.T, r *Reader) (entries []Entry) {
	t.Helper()
	for {
		e, err := r.Next(context.Background())
		if errors.Is(err, io.EOF) {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, e)
	}
}

func soon(t *testing.T, r *Reader) Entry {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	e, err := r.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestWhatIsPutIsRead(t *testing.T) {
	path := place(t)
	if got := all(t, opened(t, path, ReadOptions{})); got != nil {
		t.Errorf("of none: %v", got)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i := range 3 {
		put(t, path, Entry{Time: at.Add(time.Duration(i) * time.Second), Type: Container, Action: "start", Name: fmt.Sprint("web-", i),
			Attributes: map[string]string{"cause": strings.Repeat("x", 2*maxText)}})
	}
	got := all(t, opened(t, path, ReadOptions{Since: at.Add(time.Second), Until: at.Add(time.Second)}))
	if len(got) != 1 || got[0].Name != "web-1" || len(got[0].Attributes["cause"]) > maxText+len("…") {
		t.Errorf("%v", got)
	}
}

func TestManyWriters(t *testing.T) {
	path := place(t)
	const writers, each = 8, 400 // over one file, not over two
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if err := Append(path, Entry{Type: Container, Action: "start", Name: fmt.Sprint(w, "-", i),
					Attributes: map[string]string{"pad": strings.Repeat("x", 400)}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	for _, e := range all(t, opened(t, path, ReadOptions{})) {
		seen[e.Name] = true
	}
	if len(seen) != writers*each {
		t.Errorf("%d entries, want %d", len(seen), writers*each)
	}
	if st, err := os.Stat(old(path)); err != nil || st.Size() > maxFile+writers*maxLine {
		t.Errorf("no new file was begun, or late: %v %v", st, err)
	}
}

func TestFollow(t *testing.T) {
	path := place(t)
	r := opened(t, path, ReadOptions{Follow: true})
	n := 0
	next := func() {
		t.Helper()
		put(t, path, Entry{Type: Container, Action: "start", Name: fmt.Sprint(n)})
		if e := soon(t, r); e.Name != fmt.Sprint(n) {
			t.Fatalf("%v, want %d", e, n)
		}
		n++
	}
	next()
	next()
	// Two new files are begun while nobody looks.
	for range 2 {
		if err := os.Rename(path, old(path)); err != nil {
			t.Fatal(err)
		}
		put(t, path, Entry{Name: "between"})
	}
	for range 2 {
		if e := soon(t, r); e.Name != "between" {
			t.Fatalf("%v", e)
		}
	}
	next()
	// The stack goes and comes again.
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	next()
	next()
}

func TestFollowEnds(t *testing.T) {
	path := place(t)
	r := opened(t, path, ReadOptions{Follow: true, Until: time.Now().Add(50 * time.Millisecond)})
	if _, err := r.Next(context.Background()); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	r = opened(t, path, ReadOptions{Follow: true})
	cancel(io.ErrClosedPipe)
	if _, err := r.Next(ctx); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}

func TestLinesThatAreNone(t *testing.T) {
	path := place(t)
	put(t, path, Entry{Name: "first"})
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("{\"torn\n\n" + strings.Repeat("y", 3*maxLine) + "\n"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	put(t, path, Entry{Name: "last"})
	r := opened(t, path, ReadOptions{})
	var names []string
	bad := 0
	for {
		e, err := r.Next(context.Background())
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			if !errs.Is(err, errs.DataLoss) {
				t.Fatal(err)
			}
			bad++
			continue
		}
		names = append(names, e.Name)
	}
	if bad != 2 || strings.Join(names, " ") != "first last" {
		t.Errorf("%d bad, and %v", bad, names)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"name":"a"}` + "\n" + `{`))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := place(t)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		r := opened(t, path, ReadOptions{})
		for range len(b) + 2 {
			if _, err := r.Next(context.Background()); errors.Is(err, io.EOF) {
				return
			} else if err != nil && !errs.Is(err, errs.DataLoss) {
				t.Fatal(err)
			}
		}
		t.Error("it does not end")
	})
}
