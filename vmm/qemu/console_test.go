//go:build linux

package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vzcompose/vzcompose/internal/errs"
	"github.com/vzcompose/vzcompose/vmm"
)

// hearing is a console that runs, and the machine's end of it. Both end with the
// test.
func hearing(t *testing.T, path string, words ...string) (*console, net.Conn) {
	t.Helper()
	ours, theirs := net.Pipe()
	k, err := newConsole(ours, path, words...)
	if err != nil {
		t.Fatal(err)
	}
	go k.run()
	t.Cleanup(func() {
		_ = theirs.Close()
		<-k.done
		k.close()
	})
	return k, theirs
}

// say writes text as the machine.
func say(t *testing.T, c io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

// heard says whether the console has heard word, of what was taken so far.
func heard(k *console, word string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	select {
	case <-k.said[word]:
		return true
	default:
		return false
	}
}

func TestAConsoleHearsItsWordsAsLines(t *testing.T) {
	for text, want := range map[string]bool{
		"ready\n": true, "ready\r\n": true, "one\ntwo\r\nready\n": true, "\nready\n": true,
		"ready": false, "not ready\n": false, "ready \n": false, "ready\x00\n": false, "Ready\n": false, "rea\ndy\n": false,
		strings.Repeat("x", maxConsoleLine) + "ready\n": false, strings.Repeat("x", 1<<20) + "\nready\n": true,
	} {
		for _, n := range []int{1 + len(text)/1000, 3 + len(text)/1000, len(text)} { // bytes a time
			k, c := hearing(t, "", "ready", "other")
			for part := range slices.Chunk([]byte(text), n) {
				say(t, c, string(part))
			}
			_ = c.Close()
			<-k.done
			if got := heard(k, "ready"); got != want || heard(k, "other") {
				t.Errorf("%.20q, %d bytes a time: heard is %v, want %v", text, n, got, want)
			}
		}
	}
}

func TestAwait(t *testing.T) {
	k, c := hearing(t, "", "ready")
	over, cancel := context.WithCancelCause(t.Context())
	late := errors.New("late")
	cancel(late)
	if err := k.await(over, "ready"); !errors.Is(err, late) || !strings.Contains(err.Error(), `"ready"`) {
		t.Errorf("got %v, want why it was given up, and the word", err)
	}
	say(t, c, "ready\nready\nready") // twice is as good as once
	if err := k.await(t.Context(), "ready"); err != nil {
		t.Error(err)
	}
	_ = c.Close()
	<-k.done
	for range 16 { // of two ready cases select takes any
		if err := k.await(t.Context(), "ready"); err != nil {
			t.Fatalf("after the machine's end: %v", err)
		}
	}
	k, c = hearing(t, "", "ready")
	say(t, c, "not\n")
	_ = c.Close()
	if err := k.await(t.Context(), "ready"); !errs.Is(err, errs.Unavailable) {
		t.Errorf("of a machine that ended: got %v, want class unavailable", err)
	}
}

// What a guest writes is bounded, and the last of it is there.
func TestAConsoleIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console")
	if err := os.WriteFile(path, []byte("of the machine before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	k, c := hearing(t, path)
	var all bytes.Buffer
	all.WriteString("of the machine before\n")
	for i := 0; all.Len() < 5*maxConsole/2; i++ {
		text := fmt.Sprintf("line %d %s\n", i, strings.Repeat("x", 1000))
		all.WriteString(text)
		say(t, c, text)
	}
	_ = c.Close()
	<-k.done
	if _, err := k.loss(); err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(path + ".1")
	if err != nil {
		t.Fatal(err)
	}
	now, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const most = maxConsole + 4<<10 // what is read at a time
	if len(old) < maxConsole || len(old) > most || len(now) > most {
		t.Errorf("%d and %d bytes are kept, want the first of %d to %d and the second of no more", len(old), len(now), maxConsole, most)
	}
	if !bytes.HasSuffix(all.Bytes(), append(old, now...)) {
		t.Error("what is kept is not the last that was written")
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 2 {
		t.Errorf("there are %v, %v", entries, err)
	}
}

func TestAConsoleIsRedirected(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "first"), filepath.Join(dir, "second")
	k, c := hearing(t, first, "one", "two")
	say(t, c, "one\ntw")
	if err := k.await(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	if err := k.redirect(filepath.Join(dir, "none", "x")); !errs.Is(err, errs.FailedPrecondition) {
		t.Errorf("to a folder that is not there: got %v, want class failed precondition", err)
	}
	if err := k.redirect(second); err != nil {
		t.Fatal(err)
	}
	say(t, c, "o\n")
	if err := k.await(t.Context(), "two"); err != nil {
		t.Errorf("a line over both: %v", err)
	}
	_ = c.Close()
	<-k.done
	for path, want := range map[string]string{first: "one\ntw", second: "o\n"} {
		if b, err := os.ReadFile(path); err != nil || string(b) != want {
			t.Errorf("%s has %q, %v; want %q", filepath.Base(path), b, err, want)
		}
	}
	if _, err := k.loss(); err != nil {
		t.Error(err)
	}
}

// A console that cannot be kept does not hold the machine up, and is told.
func TestADiskThatFillsCostsTheConsoleOnly(t *testing.T) {
	k, c := hearing(t, "/dev/full", "ready")
	port, guest := net.Pipe()
	defer guest.Close()
	m := newMachine(&vmm.Config{Name: "m"}, port, k)
	defer m.port.Close()
	m.trace = vmm.Trace{Notes: []string{"as it was"}}
	if got := m.Trace().Notes; len(got) != 1 {
		t.Errorf("before: %q", got)
	}
	for range 1000 {
		say(t, c, strings.Repeat("x", 100)+"\n")
	}
	say(t, c, "ready\n")
	if err := k.await(t.Context(), "ready"); err != nil {
		t.Error(err)
	}
	if n, err := k.loss(); !errors.Is(err, unix.ENOSPC) || n < 1000*101 {
		t.Errorf("got %d bytes, %v, want no space", n, err)
	}
	for range 2 { // asking adds nothing
		got := m.Trace().Notes
		if len(got) != 2 || got[0] != "as it was" || !strings.Contains(got[1], "bytes of the console are lost") || !strings.Contains(got[1], "no space left") {
			t.Errorf("notes: %q", got)
		}
	}
	if len(m.trace.Notes) != 1 {
		t.Error("the machine's own notes have changed")
	}
}

// A console goes on after its disk was full, and says what is missing.
func TestAConsoleGoesOnAfterTheDiskWasFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console")
	out := &rotating{path: path, max: maxConsole}
	put := func(text string, want error) {
		t.Helper()
		if err := out.write([]byte(text)); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", text, err, want)
		}
	}
	put("one\n", nil)
	good := out.f
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	out.f = full
	put("two\n", unix.ENOSPC)
	put("three\n", unix.ENOSPC)
	out.f = good
	put("four\n", nil)
	put("five\n", nil)
	if err := out.close(); err != nil {
		t.Error(err)
	}
	const want = "one\n\n[10 bytes of the console are missing here: they could not be written]\nfour\nfive\n"
	if b, err := os.ReadFile(path); err != nil || string(b) != want {
		t.Errorf("it has %q, %v; want %q", b, err, want)
	}
}

// A file that cannot begin anew ends the keeping, not the machine.
func TestAConsoleThatCannotRotateIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console")
	if err := os.WriteFile(path, make([]byte, maxConsole), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(path+".1", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	k, c := hearing(t, path, "ready")
	for range 3 {
		say(t, c, "ready\n")
	}
	if err := k.await(t.Context(), "ready"); err != nil {
		t.Error(err)
	}
	_ = c.Close()
	<-k.done
	if _, err := k.loss(); err == nil || !strings.Contains(err.Error(), "rename") {
		t.Errorf("got %v, want why it could not be renamed", err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Size() != maxConsole {
		t.Errorf("the file: %v, %v", fi, err)
	}
}

func TestAConsoleThatCannotBeWrittenIsRefused(t *testing.T) {
	dir := t.TempDir()
	for what, path := range map[string]string{"a folder": dir, "in a file": "/dev/null/x", "in no folder": filepath.Join(dir, "no", "x")} {
		ours, theirs := net.Pipe()
		if _, err := newConsole(ours, path); !errs.Is(err, errs.FailedPrecondition) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v, want class failed precondition and the path", what, err)
		}
		_, _ = ours.Close(), theirs.Close()
	}
}
