package store

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"

	"github.com/vzcompose/vzcompose/internal/durable"
	"github.com/vzcompose/vzcompose/internal/errs"
)

// Version of the records. A reader refuses any other.
const Version = 1

// maxRecord bounds a record, in bytes.
const maxRecord = 8 << 20

// Damaged reports whether an error of reading a record means that the record is
// there and cannot be used: it is damaged, or of another version of this program.
func Damaged(err error) bool { return errs.Is(err, errs.DataLoss) || errs.Is(err, errs.Unsupported) }

// SetAside keeps a damaged record under the name that is returned, until the next
// one is set aside. The caller writes another in its place; until then the damaged
// one is there too, so that an interruption does not make it one that never was.
func SetAside(path string) (aside string, err error) {
	aside = path + ".damaged"
	if err := os.Remove(aside); err != nil && !os.IsNotExist(err) {
		return aside, err
	}
	return aside, os.Link(path, aside)
}

// writeJSON writes a record.
func writeJSON(path string, v any) error { return encode(path, v, durable.WriteFile) }

// encode has write put a record at path, unless it is so large that readJSON would
// refuse it.
func encode(path string, v any, write func(string, []byte) error) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return errs.New(errs.Internal, "encode %s: %w", filepath.Base(path), err)
	}
	if b.Len() > maxRecord {
		return errs.WithHint(errs.New(errs.InvalidArgument, "%s would have %d bytes, and a record has at most %d", path, b.Len(), maxRecord),
			"what the image and the stack file declare (environment, command, labels) is too large")
	}
	return write(path, b.Bytes())
}

func readJSON(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil {
		return errs.New(errs.DataLoss, "%s cannot be read: %w", path, err)
	}
	if len(b) > maxRecord {
		return errs.New(errs.DataLoss, "%s is larger than %d bytes", path, maxRecord)
	}
	var head struct {
		Version int `json:"version"`
	}
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(&head); err != nil {
		return errs.New(errs.DataLoss, "%s cannot be read: %w", path, err)
	}
	if head.Version != Version {
		return errs.New(errs.Unsupported, "%s has version %d, this program reads %d", path, head.Version, Version)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return errs.New(errs.DataLoss, "%s cannot be read: %w", path, err)
	}
	return nil
}
