package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/filelock"
	"github.com/vzcompose/vzcompose/internal/regular"
)

// The bounds of what is taken in, in bytes unless said otherwise.
const (
	maxImage   = 512 << 20
	maxModule  = 64 << 20
	maxUnpack  = 4 << 30   // of a package, unpacked
	maxEntries = 200_000   // files in a package or a folder
	maxText    = 8 << 20   // modules.builtin and its like
	maxModinfo = 1 << 20   // the .modinfo section
	maxRecord  = 1 << 20   // kernel.json
	maxNotes   = 1 << 20   // an ELF note segment
	maxAgent   = 256 << 20 // the agent in an initramfs
	maxClosure = 512       // modules of one kernel
)

// tempPrefix marks what a crash may have left behind in the store; who holds
// the store's lock may delete it.
const tempPrefix = ".tmp-"

// lockPoll is how often a lock that another process holds is tried again.
const lockPoll = 20 * time.Millisecond

// lock takes the exclusive advisory lock on the file at path, which it creates,
// and returns what releases it. It blocks until ctx ends.
func lock(ctx context.Context, path string) (func(), error) {
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for {
		// Opened anew each time: the kernel whose folder it is in may be removed
		// meanwhile, and a lock on a removed file excludes nobody.
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		current := false
		if err == nil {
			current, err = filelock.Current(f, path)
		}
		if err == nil && current {
			return func() { f.Close() }, nil // closing releases it
		}
		f.Close()
		if err != nil && !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("flock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for %s: %w", path, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// sweep deletes what an import that crashed left in dir. The store's lock is
// held.
func sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// readBounded reads the file at path if it has at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, errs.New(errs.ResourceExhausted, "%s has more than %d bytes", path, limit)
	}
	return b, nil
}

// blob is a run of bytes in a file: a whole file, or a part of a spool.
type blob struct {
	path      string
	off, size int64
}

// open answers the bytes; the caller closes them.
func (b blob) open() (*blobReader, error) {
	f, _, err := regular.Open(b.path)
	if err != nil {
		return nil, err
	}
	return &blobReader{SectionReader: io.NewSectionReader(f, b.off, b.size), Closer: f}, nil
}

type blobReader struct {
	*io.SectionReader
	io.Closer
}

// read answers the bytes if there are at most limit.
func (b blob) read(limit int64) ([]byte, error) {
	if b.size > limit {
		return nil, errs.New(errs.ResourceExhausted, "%s has more than %d bytes", b.path, limit)
	}
	r, err := b.open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// copyBounded copies r to w until its end, at most limit bytes, and gives up
// when ctx ends. what names r in errors.
func copyBounded(ctx context.Context, w io.Writer, r io.Reader, limit int64, what string) (int64, error) {
	n, err := io.Copy(w, io.LimitReader(&ctxReader{ctx: ctx, r: r}, limit+1))
	if err != nil {
		return n, err
	}
	if n > limit {
		return n, errs.New(errs.ResourceExhausted, "%s has more than %d bytes", what, limit)
	}
	return n, nil
}

// ctxReader fails with the context's cause once ctx ended, and once more than
// limit bytes passed, if that is set. It tells seen, if set, how many did.
type ctxReader struct {
	ctx   context.Context
	r     io.Reader
	limit int64
	seen  func(n int64)
	n     int64
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.r.Read(p)
	c.n += int64(n)
	if c.seen != nil && n > 0 {
		c.seen(c.n)
	}
	if c.limit > 0 && c.n > c.limit {
		return 0, errs.New(errs.ResourceExhausted, "more than %d bytes", c.limit)
	}
	return n, err
}
