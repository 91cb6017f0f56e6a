package image

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/regular"
)

// archive is a folder or a tar of files with slash-separated names. What is
// not there is fs.ErrNotExist.
type archive interface {
	open(name string) (r io.ReadCloser, size int64, err error)
	io.Closer
}

// openArchive opens a folder, or a tar that may be compressed; then it is
// unpacked to a temporary file that goes when the archive is closed.
func (s *Store) openArchive(ctx context.Context, name string, m *meter) (archive, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		root, err := os.OpenRoot(name)
		return folderArchive{root}, err
	}
	f, info, err := regular.Open(name)
	if err != nil {
		return nil, err
	}
	kind, err := sniff(bufio.NewReader(f))
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err == nil && kind != plain {
		packed := f
		defer packed.Close()
		f, err = s.unpackArchive(ctx, packed, info.Size(), m)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	a, err := indexTar(ctx, f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return a, nil
}

// unpackArchive answers a file that has no name any more.
func (s *Store) unpackArchive(ctx context.Context, packed io.Reader, size int64, m *meter) (*os.File, error) {
	m.setTotal(size)
	z, _, err := decompress(&meteredReader{packed, m}, maxUnpacked)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	f, err := os.CreateTemp(s.path("tmp"), "archive.*")
	if err != nil {
		return nil, diskError(err)
	}
	err = os.Remove(f.Name())
	if err == nil {
		_, err = copyLimited(ctx, f, z, maxUnpacked, newMeter(nil, "", 0))
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, diskError(err)
	}
	return f, nil
}

type meteredReader struct {
	r io.Reader
	m *meter
}

func (r *meteredReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.m.add(int64(n))
	return n, err
}

// folderArchive follows links inside the folder only.
type folderArchive struct{ *os.Root }

func (a folderArchive) open(name string) (io.ReadCloser, int64, error) {
	f, info, err := regular.OpenIn(a.Root, name)
	if err != nil {
		return nil, 0, err
	}
	return f, info.Size(), nil
}

func (a folderArchive) Close() error { return a.Root.Close() }

// tarArchive knows where each file of an uncompressed tar is.
type tarArchive struct {
	f     *os.File
	files map[string]tarFile
}

type tarFile struct {
	offset, size int64
	link         string // path of the file that this is a link to
}

const maxArchiveEntries = 100_000

// indexTar owns f when it succeeds.
func indexTar(ctx context.Context, f *os.File) (*tarArchive, error) {
	a := &tarArchive{f: f, files: map[string]tarFile{}}
	tr := tar.NewReader(f) // which seeks over data, and leaves f at its start
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := tr.Next()
		if err == io.EOF {
			return a, nil
		}
		if err != nil {
			return nil, errs.New(errs.InvalidArgument, "read tar: %w", err)
		}
		if n == maxArchiveEntries {
			return nil, errs.New(errs.ResourceExhausted, "archive has more than %d files", n)
		}
		offset, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		name := path.Clean("/" + h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			a.files[name] = tarFile{offset: offset, size: h.Size}
		case tar.TypeSymlink:
			a.files[name] = tarFile{link: path.Join(path.Dir(name), h.Linkname)}
		case tar.TypeLink:
			a.files[name] = tarFile{link: path.Clean("/" + h.Linkname)}
		}
	}
}

func (a *tarArchive) open(name string) (io.ReadCloser, int64, error) {
	at := path.Clean("/" + name)
	for range 10 {
		f, ok := a.files[at]
		if !ok {
			return nil, 0, &fs.PathError{Op: "open", Path: clip(name), Err: fs.ErrNotExist}
		}
		if f.link == "" {
			return io.NopCloser(io.NewSectionReader(a.f, f.offset, f.size)), f.size, nil
		}
		at = f.link
	}
	return nil, 0, errs.New(errs.InvalidArgument, "%s is a link in a circle", clip(name))
}

func (a *tarArchive) Close() error { return a.f.Close() }

// readSmall reads one file of an archive, of at most limit bytes.
func readSmall(a archive, name string, limit int64) ([]byte, error) {
	r, size, err := a.open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if size > limit {
		return nil, errs.New(errs.ResourceExhausted, "%s has %d bytes, more than %d", clip(name), size, limit)
	}
	b, err := io.ReadAll(io.LimitReader(r, limit))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", clip(name), err)
	}
	return b, nil
}

// contains says whether the archive has a file of the name.
func contains(a archive, name string) bool {
	r, _, err := a.open(name)
	if err == nil {
		r.Close()
	}
	return err == nil
}

// missing answers DataLoss for what an archive names and does not have.
func missing(err error, what string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errs.New(errs.DataLoss, "archive names %s and does not have it", clip(strings.TrimSpace(what)))
	}
	return err
}
