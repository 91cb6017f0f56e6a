package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/durable"
	"github.com/vzcompose/vzcompose/internal/errs"
)

func (s *Store) blobPath(h v1.Hash) string { return s.path("blobs", h.Algorithm, h.Hex) }

// hasBlob says whether the blob is here. What has its name was verified.
func (s *Store) hasBlob(d v1.Descriptor) bool {
	info, err := os.Stat(s.blobPath(d.Digest))
	return err == nil && info.Size() == d.Size
}

// readBlob reads and verifies a blob of at most limit bytes.
func (s *Store) readBlob(h v1.Hash, limit int64) ([]byte, error) {
	f, err := os.Open(s.blobPath(h))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.New(errs.NotFound, "image content %s is not here", h)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	if int64(len(b)) > limit || digestOf(b) != h {
		return nil, damaged(errs.New(errs.DataLoss, "%s is damaged", f.Name()))
	}
	return b, nil
}

func damaged(err error) error {
	return errs.WithHint(err, "remove the image and pull or load it again")
}

// create makes the file at path by fn: whole, synced and 0600, or not at all.
func (s *Store) create(path string, fn func(*os.File) error) error {
	return diskError(durable.CreateFrom(s.path("tmp", filepath.Base(path)+".*"), path, fn))
}

// diskError says what to do about a full disk.
func diskError(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return errs.WithHint(errs.As(errs.ResourceExhausted, err), "vzcompose image prune frees what no instance needs")
	}
	return err
}

// putBytes stores b.
func (s *Store) putBytes(b []byte) (v1.Hash, error) {
	h := digestOf(b)
	if s.hasBlob(v1.Descriptor{Digest: h, Size: int64(len(b))}) {
		return h, nil
	}
	return h, s.create(s.blobPath(h), func(f *os.File) error {
		_, err := io.Copy(f, bytes.NewReader(b))
		return err
	})
}

// putStream stores what r holds, at most maxBlob bytes, under its digest.
func (s *Store) putStream(ctx context.Context, r io.Reader, m *meter) (h v1.Hash, size int64, err error) {
	f, err := os.CreateTemp(s.path("tmp"), "blob.*")
	if err != nil {
		return h, 0, diskError(err)
	}
	defer os.Remove(f.Name()) // fails once it has its name
	defer f.Close()
	sum := sha256.New()
	size, err = copyLimited(ctx, io.MultiWriter(f, sum), r, maxBlob, m)
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return h, 0, diskError(err)
	}
	h = v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", sum.Sum(nil))}
	return h, size, durable.Rename(f.Name(), s.blobPath(h))
}

// writeBlob stores what r holds as d, which it must be.
func (s *Store) writeBlob(ctx context.Context, d v1.Descriptor, r io.Reader, m *meter) error {
	return s.create(s.blobPath(d.Digest), func(f *os.File) error {
		sum := sha256.New()
		n, err := copyLimited(ctx, io.MultiWriter(f, sum), r, d.Size, m)
		if err != nil {
			return err
		}
		if got := fmt.Sprintf("%x", sum.Sum(nil)); n != d.Size || got != d.Digest.Hex {
			return errs.New(errs.DataLoss, "received %d bytes with digest sha256:%s, not %d with %s", n, got, d.Size, d.Digest)
		}
		return nil
	})
}

// copyLimited copies all of r, which must not be more than limit bytes.
func copyLimited(ctx context.Context, w io.Writer, r io.Reader, limit int64, m *meter) (int64, error) {
	buf := make([]byte, 256<<10)
	var total int64
	for {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		n, err := r.Read(buf)
		if total += int64(n); total > limit {
			return total, errs.New(errs.DataLoss, "more than the %d bytes that were announced or allowed", limit)
		}
		if _, werr := w.Write(buf[:n]); werr != nil {
			return total, werr
		}
		m.add(int64(n))
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// fetch makes sure that the blob d is here. It is taken from open, once for
// all who ask for it at the same time: from the same source in this process,
// and from any source in any other.
func (s *Store) fetch(ctx context.Context, source string, d v1.Descriptor, m *meter, open func(context.Context) (io.ReadCloser, error)) error {
	if s.hasBlob(d) {
		m.add(d.Size)
		return nil
	}
	led, err := s.flights.do(ctx, source+" "+d.Digest.String(), func(ctx context.Context) error {
		unlock, err := lockFile(ctx, s.path("locks", d.Digest.Hex), unix.LOCK_EX, "another download of "+d.Digest.String())
		if err != nil {
			return err
		}
		defer unlock()
		if s.hasBlob(d) {
			m.add(d.Size)
			return nil
		}
		r, err := open(ctx)
		if err != nil {
			return err
		}
		defer r.Close()
		return s.writeBlob(ctx, d, r, m)
	})
	if err == nil && !led {
		m.add(d.Size)
	}
	return err
}
