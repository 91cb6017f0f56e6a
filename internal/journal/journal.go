// Package journal keeps what happened to a stack: a file of JSON lines to which
// every process that works on the stack appends, each line in one write. It is
// for people and for programs that watch a stack; nothing is decided by what it
// says, and no record depends on it.
package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/filelock"
)

// Bounds, in bytes.
const (
	maxFile = 1 << 20 // then a new one is begun; one older is kept
	maxLine = 4 << 10
	maxText = 1 << 10 // of an attribute
)

// Types of what an entry is about.
const (
	Container = "container"
	Volume    = "volume"
	Network   = "network"
)

// Entry is one thing that happened.
type Entry struct {
	Time      time.Time `json:"time"`
	Type      string    `json:"type"`
	Action    string    `json:"action"`
	Container string    `json:"container,omitempty"`
	Name      string    `json:"name"` // of the instance, the volume, the network
	// Attributes say more: "exit_code", "signal", "cause".
	Attributes map[string]string `json:"attributes,omitempty"`
}

// Append adds an entry to the journal at path, whose folder must exist. Where
// its Time is zero it happened now.
func Append(path string, e Entry) error {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	line, err := encode(e)
	if err != nil {
		return err
	}
	if err := turn(path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open the journal: %w", err)
	}
	if isTorn(f) { // a disk that was full took a part of the last entry
		line = append([]byte("\n"), line...)
	}
	_, err = f.Write(line)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	return nil
}

// isTorn reports whether the file ends within a line.
func isTorn(f *os.File) bool {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || end == 0 {
		return false
	}
	var last [1]byte
	_, err = f.ReadAt(last[:], end-1)
	return err == nil && last[0] != '\n'
}

// encode makes a line, within its bound: a text that is too long is cut.
func encode(e Entry) ([]byte, error) {
	cut := make(map[string]string, len(e.Attributes))
	for k, v := range e.Attributes {
		if len(v) > maxText {
			v = v[:maxText] + "…"
		}
		cut[k] = v
	}
	e.Attributes = cut
	b, err := json.Marshal(e)
	if err != nil {
		return nil, errs.New(errs.Internal, "encode a journal entry: %w", err)
	}
	if len(b) >= maxLine {
		return nil, errs.New(errs.InvalidArgument, "a journal entry of %d bytes", len(b))
	}
	return append(b, '\n'), nil
}

// old is where the file goes that a new one takes the place of.
func old(path string) string { return path + ".1" }

// turn begins a new file where the one at path is full. One process does it;
// the others go on with what is there.
func turn(path string) error {
	if full, err := isFull(path); !full {
		return err
	}
	lock, err := filelock.Try(path + ".lock")
	if errs.Is(err, errs.FailedPrecondition) {
		return nil // somebody is at it
	}
	if err != nil {
		return fmt.Errorf("begin a new journal: %w", err)
	}
	defer lock.Release()
	if full, err := isFull(path); !full { // it was done just before
		return err
	}
	if err := os.Rename(path, old(path)); err != nil {
		return fmt.Errorf("begin a new journal: %w", err)
	}
	return nil
}

func isFull(path string) (bool, error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at the journal: %w", err)
	}
	return st.Size() >= maxFile, nil
}
