package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/image/erofs"
	"github.com/vzcompose/vzcompose/internal/regular"
)

// RootFS answers the EROFS image of the merged layers of an image that is here.
// All machines of the image share it, read-only. It is built when first asked
// for, once, however many ask; the file stays until the image is removed.
func (s *Store) RootFS(ctx context.Context, digest string, progress func(Progress)) (path string, err error) {
	release, err := s.use(ctx)
	if err != nil {
		return "", err
	}
	defer release()
	m := newMeter(progress, "unpack", 0)
	defer m.stop()
	path, err = s.rootfs(ctx, digest, func(ctx context.Context, w *erofs.Writer) error {
		man, cfg, err := s.readImage(digest)
		if err != nil {
			return err
		}
		var size int64
		for _, d := range man.Layers {
			size += d.Size
		}
		m.setTotal(size)
		for i, d := range man.Layers {
			name := fmt.Sprintf("layer %d of %d (%s)", i+1, len(man.Layers), d.Digest)
			if err := s.unpackLayer(ctx, w, name, d, cfg.RootFS.DiffIDs[i], m); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("make root filesystem of %s: %w", clip(digest), err)
	}
	return path, nil
}

// RootFSFromTar is RootFS for the tar of a root filesystem, plain or
// compressed. The digest is that of the file, which is read at each call.
func (s *Store) RootFSFromTar(ctx context.Context, path string, progress func(Progress)) (digest, rootfs string, err error) {
	release, err := s.use(ctx)
	if err != nil {
		return "", "", err
	}
	defer release()
	if digest, err = hashFile(ctx, path, progress); err != nil {
		return "", "", fmt.Errorf("read %s: %w", path, err)
	}
	m := newMeter(progress, "unpack", 0)
	defer m.stop()
	rootfs, err = s.rootfs(ctx, digest, func(ctx context.Context, w *erofs.Writer) error {
		f, info, err := regular.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		m.setTotal(info.Size())
		sum := sha256.New()
		raw := io.TeeReader(f, sum)
		if err := addTar(ctx, w, path, raw, nil, m); err != nil {
			return err
		}
		if _, err := io.Copy(sum, f); err != nil { // behind the end of the compressed data
			return err
		}
		if fmt.Sprintf("sha256:%x", sum.Sum(nil)) != digest {
			return errs.New(errs.FailedPrecondition, "changed while it was read")
		}
		return nil
	})
	if err != nil {
		return "", "", fmt.Errorf("make root filesystem of %s: %w", path, err)
	}
	return digest, rootfs, nil
}

// RootFSFromDirectory is RootFS for a folder of the host, of which it takes a
// copy. The digest is over what the folder lists (names, modes, owners, sizes,
// times), so that data changed behind an unchanged size and time goes
// unnoticed. What belongs to the invoking user, unless that is root, belongs to
// root in the machine; other owners are kept.
func (s *Store) RootFSFromDirectory(ctx context.Context, path string, progress func(Progress)) (digest, rootfs string, err error) {
	release, err := s.use(ctx)
	if err != nil {
		return "", "", err
	}
	defer release()
	folder := erofs.Folder{Path: path}
	if uid := os.Geteuid(); uid != 0 {
		folder.Owner = erofs.OwnerAsRoot(uint32(uid), uint32(os.Getegid()))
	}
	digest, size, err := folder.Digest(ctx)
	if err != nil {
		return "", "", fmt.Errorf("read folder: %w", err)
	}
	m := newMeter(progress, "pack", size)
	defer m.stop()
	rootfs, err = s.rootfs(ctx, digest, func(ctx context.Context, w *erofs.Writer) error {
		if err := w.AddFolder(ctx, folder, m.add); err != nil {
			return err
		}
		if now, _, err := folder.Digest(ctx); err != nil || now != digest {
			return errs.New(errs.FailedPrecondition, "%s changed while it was read (%v)", path, err)
		}
		return nil
	})
	if err != nil {
		return "", "", fmt.Errorf("make root filesystem: %w", err)
	}
	return digest, rootfs, nil
}

func hashFile(ctx context.Context, path string, progress func(Progress)) (digest string, err error) {
	f, info, err := regular.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	m := newMeter(progress, "read", info.Size())
	defer m.stop()
	sum := sha256.New()
	if _, err := copyLimited(ctx, sum, f, maxBlob, m); err != nil {
		return "", err
	}
	return fmt.Sprintf("sha256:%x", sum.Sum(nil)), nil
}

func (s *Store) rootfsPath(h v1.Hash) string { return s.path("rootfs", h.Algorithm+"-"+h.Hex+".erofs") }

// rootfs answers the file for digest, and has fill write it where it is not
// there. One that lost its end or its start is made anew: it is a copy.
func (s *Store) rootfs(ctx context.Context, digest string, fill func(context.Context, *erofs.Writer) error) (string, error) {
	h, err := parseDigest(digest)
	if err != nil {
		return "", err
	}
	path := s.rootfsPath(h)
	if Whole(path) {
		return path, nil
	}
	_, err = s.flights.do(ctx, "rootfs "+digest, func(ctx context.Context) error {
		unlock, err := lockFile(ctx, s.path("locks", "rootfs-"+h.Hex), unix.LOCK_EX, "another process that makes it")
		if err != nil {
			return err
		}
		defer unlock()
		if Whole(path) {
			return nil
		}
		return s.create(path, func(f *os.File) error {
			w := erofs.NewWriter(f, erofs.Limits{})
			if err := fill(ctx, w); err != nil {
				return err
			}
			if _, err := w.Finish(ctx); err != nil {
				return err
			}
			return f.Chmod(0o400)
		})
	})
	return path, err
}

// Whole reports whether a root filesystem is there, with its start and its end.
func Whole(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	info, err := f.Stat()
	return err == nil && erofs.Check(f, info.Size()) == nil
}

// unpackLayer merges a stored layer, which must be what the config says.
func (s *Store) unpackLayer(ctx context.Context, w *erofs.Writer, name string, d v1.Descriptor, diffID v1.Hash, m *meter) error {
	f, err := os.Open(s.blobPath(d.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return damaged(errs.New(errs.DataLoss, "%s is not here", name))
	}
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if err := addTar(ctx, w, name, f, sum, m); err != nil {
		return err
	}
	if got := fmt.Sprintf("sha256:%x", sum.Sum(nil)); got != diffID.String() {
		return damaged(errs.New(errs.DataLoss, "%s unpacks to %s, not %s", name, got, diffID))
	}
	return nil
}

// addTar merges a tar that may be compressed, and reads r to the end of what is
// compressed. Sum, where it is not nil, is given the tar.
func addTar(ctx context.Context, w *erofs.Writer, name string, r io.Reader, sum hash.Hash, m *meter) error {
	z, _, err := decompress(&meteredReader{r, m}, maxUnpacked)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer z.Close()
	a := newReadAhead(z, sum)
	defer a.Close()
	if err := w.AddLayer(ctx, name, a); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, a); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
