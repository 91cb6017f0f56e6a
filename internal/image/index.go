package image

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
)

const (
	indexVersion = 1
	maxIndex     = 64 << 20 // bytes of index.json
)

// index is index.json.
type index struct {
	Version int      `json:"version"`
	Images  []record `json:"images"` // sorted by compareRecords
}

// record is one image under one name.
type record struct {
	Ref      string    `json:"ref,omitempty"` // "": the name went to another image
	Platform string    `json:"platform"`
	Digest   string    `json:"digest"`           // of the manifest
	Target   string    `json:"target,omitempty"` // what the registry's name meant: an index, often
	Size     int64     `json:"size"`
	Added    time.Time `json:"added"`
}

func (r record) name() string { return cmp.Or(r.Ref, r.Digest) }

func compareRecords(a, b record) int {
	return cmp.Or(cmp.Compare(a.Ref, b.Ref), cmp.Compare(a.Platform, b.Platform), cmp.Compare(a.Digest, b.Digest))
}

// put makes r.Ref mean r for its platform. An image that loses its last name
// stays, nameless: instances may have been made from it.
func (x *index) put(r record) {
	var old []record
	x.Images = slices.DeleteFunc(x.Images, func(o record) bool {
		same := o.Digest == r.Digest && (o.Ref == r.Ref || o.Ref == "")
		moved := r.Ref != "" && o.Ref == r.Ref && o.Platform == r.Platform
		if moved && !same {
			old = append(old, o)
		}
		return same || moved
	})
	if r.Ref == "" && x.has(r.Digest) {
		return
	}
	x.Images = append(x.Images, r)
	for _, o := range old {
		if !x.has(o.Digest) {
			o.Ref = ""
			x.Images = append(x.Images, o)
		}
	}
	slices.SortFunc(x.Images, compareRecords)
}

func (x *index) has(digest string) bool {
	return slices.ContainsFunc(x.Images, func(r record) bool { return r.Digest == digest })
}

// decodeIndex checks that each record can be used.
func decodeIndex(b []byte) (*index, error) {
	x := &index{}
	if err := json.Unmarshal(b, x); err != nil {
		return nil, errs.As(errs.DataLoss, err)
	}
	if x.Version != indexVersion {
		return nil, errs.New(errs.Unsupported, "version %d is not %d", x.Version, indexVersion)
	}
	for i, r := range x.Images {
		_, err := parseDigest(r.Digest)
		if err == nil && r.Ref != "" {
			_, err = parseRef(r.Ref)
		}
		if err == nil {
			_, err = parsePlatform(r.Platform)
		}
		if err != nil {
			return nil, errs.New(errs.DataLoss, "image %d: %w", i+1, err)
		}
	}
	return x, nil
}

func (s *Store) readIndex() (*index, error) {
	f, err := os.Open(s.path("index.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return &index{Version: indexVersion}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read list of images: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxIndex))
	var x *index
	if err == nil {
		x, err = decodeIndex(b)
	}
	if err != nil {
		return nil, errs.WithHint(fmt.Errorf("read list of images %s: %w", f.Name(), err),
			"nothing was changed; repair the file or move it away, then pull or load the images again")
	}
	return x, nil
}

// updateIndex changes the index under its lock.
func (s *Store) updateIndex(ctx context.Context, change func(*index) error) error {
	unlock, err := lockFile(ctx, s.path("index.lock"), unix.LOCK_EX, "the list of images")
	if err != nil {
		return err
	}
	defer unlock()
	x, err := s.readIndex()
	if err != nil {
		return err
	}
	if err := change(x); err != nil {
		return err
	}
	b, err := json.MarshalIndent(x, "", "\t")
	if err != nil {
		return errs.As(errs.Internal, err)
	}
	if len(b) >= maxIndex { // it could not be read again
		return errs.New(errs.ResourceExhausted, "the list of images would have %d bytes, and has at most %d", len(b), maxIndex)
	}
	err = s.create(s.path("index.json"), func(f *os.File) error {
		_, err := f.Write(append(b, '\n'))
		return err
	})
	if err != nil {
		return fmt.Errorf("write list of images: %w", err)
	}
	return nil
}
