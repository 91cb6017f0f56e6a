//go:build linux

package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/vzcompose/vzcompose/internal/errs"
)

const (
	// maxConsole is how large the file of a console grows, in bytes. The one
	// before it is kept beside it, as ".1": a guest can write for ever.
	maxConsole = 1 << 20
	// maxConsoleLine bounds what is looked at as one line.
	maxConsoleLine = 256
)

// console is the host's end of a machine's console: what the machine writes goes
// to a file, and its lines to who waits for one.
type console struct {
	c    net.Conn
	done chan struct{} // closed when all that was written has been taken

	mu     sync.Mutex // guards the following
	out    *rotating
	line   []byte
	said   map[string]chan struct{} // the lines that somebody waits for; closed when they came
	failed error                    // why some of what was written is not in the file
	lost   int64                    // bytes of that
}

// newConsole takes c over. words are the lines that can be waited for.
func newConsole(c net.Conn, path string, words ...string) (*console, error) {
	k := &console{c: c, out: &rotating{path: path, max: maxConsole}, done: make(chan struct{}), said: map[string]chan struct{}{}}
	if err := k.out.open(); err != nil {
		return nil, errs.As(errs.FailedPrecondition, fmt.Errorf("console: %w", err))
	}
	for _, w := range words {
		k.said[w] = make(chan struct{})
	}
	return k, nil
}

// run takes what the machine writes until it is gone.
func (k *console) run() {
	defer close(k.done)
	defer func() { k.mu.Lock(); defer k.mu.Unlock(); k.fail(0, k.out.close()) }()
	buf := make([]byte, 4<<10)
	for {
		n, err := k.c.Read(buf)
		if n > 0 {
			k.take(buf[:n])
		}
		if err != nil {
			return // the machine has closed its end; there is no other reason
		}
	}
}

func (k *console) take(b []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.out.write(b); err != nil {
		k.fail(len(b), err)
	}
	k.look(b)
}

// redirect appends what comes from now on to the file at path.
func (k *console) redirect(path string) error {
	out := &rotating{path: path, max: maxConsole}
	if err := out.open(); err != nil {
		return errs.As(errs.FailedPrecondition, fmt.Errorf("console: %w", err))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fail(0, k.out.close())
	k.out = out
	return nil
}

// fail keeps the first error, and counts what it cost. The lock is held.
func (k *console) fail(n int, err error) {
	k.lost += int64(n)
	if k.failed == nil {
		k.failed = err
	}
}

// loss returns how many bytes of what the machine wrote are not in the file, and
// the first reason.
func (k *console) loss() (int64, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.lost, k.failed
}

// look finds the lines in b. The lock is held.
func (k *console) look(b []byte) {
	for _, c := range b {
		if c != '\n' {
			if len(k.line) < maxConsoleLine {
				k.line = append(k.line, c)
			}
			continue
		}
		if ch, ok := k.said[string(bytes.TrimRight(k.line, "\r"))]; ok {
			select {
			case <-ch:
			default:
				close(ch)
			}
		}
		k.line = k.line[:0]
	}
}

// await waits until the machine has said word, one of those named at first.
func (k *console) await(ctx context.Context, word string) error {
	select {
	case <-k.said[word]:
		return nil
	case <-k.done:
		select { // with its last breath
		case <-k.said[word]:
			return nil
		default:
		}
		return errs.New(errs.Unavailable, "the machine ended before it said %q", word)
	case <-ctx.Done():
		return fmt.Errorf("await the machine's word %q: %w", word, context.Cause(ctx))
	}
}

func (k *console) close() { _ = k.c.Close() }

// rotating is a file that begins anew when it is full; the full one is kept. It
// goes on after a failure: what it did not take is counted in a line of its own,
// in its place.
type rotating struct {
	path string // "": nothing is kept
	max  int64

	f    *os.File
	size int64
	lost int64 // bytes since the last that was written
}

// write appends b, or loses all of it.
func (r *rotating) write(b []byte) (err error) {
	if r.path == "" {
		return nil
	}
	defer func() {
		if err != nil {
			r.lost += int64(len(b))
		}
	}()
	if r.f != nil && r.size >= r.max {
		if err := os.Rename(r.path, r.path+".1"); err != nil {
			return err
		}
		err := r.f.Close()
		r.f = nil
		if err != nil {
			return err
		}
	}
	if r.f == nil {
		if err := r.open(); err != nil {
			return err
		}
	}
	text := b
	if r.lost > 0 {
		text = append(fmt.Appendf(nil, "\n[%d bytes of the console are missing here: they could not be written]\n", r.lost), b...)
	}
	n, err := r.f.Write(text)
	if err != nil {
		if n > 0 && r.f.Truncate(r.size) != nil { // it is not whole, and is counted all the same
			r.size += int64(n)
		}
		return err
	}
	r.size, r.lost = r.size+int64(n), 0
	return nil
}

func (r *rotating) open() error {
	if r.path == "" {
		return nil
	}
	f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	r.f, r.size = f, fi.Size()
	return nil
}

func (r *rotating) close() error {
	if r.f == nil {
		return nil
	}
	return r.f.Close()
}
