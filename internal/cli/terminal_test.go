package cli

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

func TestDetachKeys(t *testing.T) {
	for text, want := range map[string]string{
		"ctrl-p,ctrl-q": "\x10\x11", "a": "a", "ctrl-a,d": "\x01d", "CTRL-[": "\x1b", "": "",
	} {
		if got, err := parseKeys(text); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"ctrl-", "ctrl-1", "ab", "a,,b", "é"} {
		if got, err := parseKeys(text); err == nil {
			t.Errorf("%q is %q", text, got)
		}
	}
}

func TestKeysArePassedOn(t *testing.T) {
	for _, x := range []struct {
		typed, passed string
		detached      bool
	}{
		{"hello", "hello", false},
		{"a\x10\x11b", "a", true},
		{"a\x10b", "a\x10b", false},
		{"\x10\x10\x11", "\x10", true},
		{"\x11\x10", "\x11", false}, // what only begins them at the end is not passed on
	} {
		for _, from := range []io.Reader{bytes.NewReader([]byte(x.typed)), iotest.OneByteReader(bytes.NewReader([]byte(x.typed)))} {
			var to bytes.Buffer
			err := copyKeys(&to, from, []byte("\x10\x11"))
			if to.String() != x.passed || errors.Is(err, errDetached) != x.detached {
				t.Errorf("%q: passed %q, %v", x.typed, to.String(), err)
			}
		}
	}
}
