package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/durable"
	"github.com/vzcompose/vzcompose/internal/errs"
)

// Remove takes the name ref, or the image with that bare digest, out of the
// store for every platform, and deletes what no other image needs, its root
// filesystem included. It answers the bytes freed. It waits until nobody uses
// the store. That no instance needs the image is the caller's to know.
func (s *Store) Remove(ctx context.Context, ref string) (freed int64, err error) {
	match, name, err := matcher(ref)
	if err != nil {
		return 0, err
	}
	stay := func(r record) bool { return r.Ref != name } // a digest of a name is one name of several
	if digestPattern.MatchString(ref) {
		stay = func(r record) bool { return !match(r) }
	}
	gone, err := s.drop(ctx, stay, func(dropped []record) error {
		if len(dropped) == 0 {
			return errs.New(errs.NotFound, "image %s is not here", name)
		}
		return nil
	}, func(string) bool { return true })
	if err != nil {
		return gone, fmt.Errorf("remove image %s: %w", name, err)
	}
	return gone, nil
}

// Prune deletes every image and every root filesystem whose digest keep does
// not want, all content that no image refers to, and what crashes left. It
// answers the bytes freed. It waits until nobody uses the store.
func (s *Store) Prune(ctx context.Context, keep func(digest string) bool) (freed int64, err error) {
	freed, err = s.drop(ctx, func(r record) bool { return keep(r.Digest) }, func([]record) error { return nil }, keep)
	if err != nil {
		return freed, fmt.Errorf("prune images: %w", err)
	}
	return freed, nil
}

// drop keeps the records that stay, and then the files that they need, and the
// root filesystems of no image that keepRootFS wants.
func (s *Store) drop(ctx context.Context, stay func(record) bool, check func(dropped []record) error, keepRootFS func(string) bool) (freed int64, err error) {
	unlock, err := lockFile(ctx, s.path("store.lock"), unix.LOCK_EX, "other commands to be done with the images")
	if err != nil {
		return 0, err
	}
	defer unlock()
	var dropped []record
	var live map[string]bool
	err = s.updateIndex(ctx, func(x *index) error {
		x.Images = slices.DeleteFunc(x.Images, func(r record) bool {
			if !stay(r) {
				dropped = append(dropped, r)
			}
			return !stay(r)
		})
		if err := check(dropped); err != nil {
			return err
		}
		var err error
		live, err = s.reachable(x)
		return err
	})
	if err != nil {
		return 0, err
	}
	s.sweep()
	gone := map[string]bool{}
	for _, r := range dropped {
		gone[r.Digest] = true
	}
	blobs, err := deleteFiles(s.path("blobs", "sha256"), func(name string) bool { return live["sha256:"+name] })
	roots, rerr := deleteFiles(s.path("rootfs"), func(name string) bool {
		digest := strings.Replace(strings.TrimSuffix(name, ".erofs"), "-", ":", 1)
		return live[digest] || !gone[digest] && keepRootFS(digest)
	})
	return blobs + roots, errors.Join(err, rerr)
}

// reachable answers the digests of all that the images of x consist of. One
// that cannot be read stops everything: what it needs is not known.
func (s *Store) reachable(x *index) (map[string]bool, error) {
	live := map[string]bool{}
	for _, r := range x.Images {
		if live[r.Digest] {
			continue
		}
		m, _, err := s.readImage(r.Digest)
		if err != nil {
			return nil, errs.WithHint(fmt.Errorf("image %s: %w", r.name(), err), "remove that image first: vzcompose image rm %s", r.name())
		}
		live[r.Digest] = true
		live[m.Config.Digest.String()] = true
		for _, d := range m.Layers {
			live[d.Digest.String()] = true
		}
	}
	return live, nil
}

// deleteFiles deletes the files of a folder but those that keep wants.
func deleteFiles(dir string, keep func(name string) bool) (freed int64, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		if keep(e.Name()) {
			continue
		}
		info, err := e.Info()
		if err == nil {
			err = os.Remove(filepath.Join(dir, e.Name()))
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return freed, err
		}
		freed += info.Size()
	}
	return freed, durable.SyncDir(dir)
}
