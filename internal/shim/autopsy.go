package shim

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/vzcompose/vzcompose/agentproto"
	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/internal/state"
	"github.com/vzcompose/vzcompose/vmm"
)

// autopsy says why a machine was lost, where it was: err is but the first sign.
func (s *shim) autopsy(ctx context.Context, m vmm.Machine, err error) error {
	if !errs.Is(err, errs.Unavailable) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if werr := m.Wait(ctx); werr != nil && ctx.Err() == nil {
		err = fmt.Errorf("the machine was lost: %w", werr)
	}
	if text := s.panicText(); text != "" {
		err = errs.New(errs.Unavailable, "%s (%w)", text, err)
	}
	return err
}

// consoleTail is how much of the console is searched for a panic, in bytes.
const consoleTail = 64 << 10

// panicText answers the kernel's last words in this boot, if it panicked.
func (s *shim) panicText() string {
	f, err := os.Open(s.launch.Home.ConsoleOf(s.inst))
	if err != nil {
		return "" // no console, no words
	}
	defer f.Close()
	from := s.console // the file has those of earlier boots too
	if end, err := f.Seek(0, io.SeekEnd); err == nil {
		from = max(from, end-consoleTail)
	}
	b, _ := io.ReadAll(io.NewSectionReader(f, from, consoleTail)) // what there is
	return lastWords(b)
}

// maxWords bounds what is told of a panic, in bytes: a guest can have its
// console say anything.
const maxWords = 256

// lastWords answers why the kernel panicked, "" where no panic is on the
// console. Where the panic only says that something before was fatal, that is
// told too.
func lastWords(console []byte) string {
	before, text, found := bytes.Cut(console, []byte("Kernel panic - not syncing:"))
	if !found {
		return ""
	}
	words := "kernel panic: " + lineOf(text)
	if bytes.Contains(text, []byte("Fatal exception")) {
		for _, sign := range []string{"BUG: ", "Oops: "} {
			if i := bytes.LastIndex(before, []byte(sign)); i >= 0 {
				words += ": " + lineOf(before[i:])
				break
			}
		}
	}
	return strings.ToValidUTF8(words[:min(len(words), maxWords)], "")
}

// lineOf answers the first line of a text.
func lineOf(text []byte) string {
	line, _, _ := bytes.Cut(text, []byte("\n"))
	return string(bytes.TrimSpace(line))
}

func exitState(e agentproto.Exit) *state.Exit {
	x := &state.Exit{Code: e.Code, OOM: e.OOM, Full: e.Full, At: e.At}
	if e.Signal != 0 {
		x.Signal = agentproto.SignalName(e.Signal)
	}
	return x
}
