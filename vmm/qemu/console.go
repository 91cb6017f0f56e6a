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
	failed error                    // why what was written is not in the file, or not all of it
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
	defer func() { k.mu.Lock(); defer k.mu.Unlock(); k.fail(k.out.close()) }()
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
	k.fail(k.out.write(b))
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
	k.fail(k.out.close())
	k.out = out
	return nil
}

// fail keeps the first error. The lock is held.
func (k *console) fail(err error) {
	if k.failed == nil {
		k.failed = err
	}
}

// error is the first that lost something of what the machine wrote.
func (k *console) error() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.failed
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

// rotating is a file that begins anew when it is full; the full one is kept.
// After a failure it takes and loses everything.
type rotating struct {
	path string // "": nothing is kept
	max  int64

	f    *os.File
	size int64
	dead bool
}

func (r *rotating) write(b []byte) (err error) {
	if r.path == "" || r.dead {
		return nil
	}
	defer func() { r.dead = err != nil }()
	if r.f != nil && r.size >= r.max {
		if err := errors.Join(r.f.Close(), os.Rename(r.path, r.path+".1")); err != nil {
			r.f = nil
			return err
		}
		r.f = nil
	}
	if r.f == nil {
		if err := r.open(); err != nil {
			return err
		}
	}
	n, err := r.f.Write(b)
	r.size += int64(n)
	return err
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
