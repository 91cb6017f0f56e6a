package spec

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/vzcompose/vzcompose/internal/seccomp"
)

// seccompDefault is the word for what holds where nothing is said, to say so over
// defaults.
const seccompDefault = "default"

// seccompProfile is a word, or the path of a profile; the digest comes later.
func seccompProfile() kind[Seccomp] {
	k := scalar("a path", anyScalar, textSchema, func(w *walker, n *node, text string) (Seccomp, error) {
		switch text {
		case "":
			return Seccomp{}, errors.New("the path is empty")
		case seccompDefault:
			return Seccomp{}, nil
		case SeccompUnconfined:
			return Seccomp{Profile: text}, nil
		}
		return Seccomp{Profile: w.path(n, text)}, nil
	}, func(s Seccomp) any { return encodeText(s.Profile) })
	k.diff = func(field string, old, new Seccomp) []Change {
		if old == new {
			return nil
		}
		return []Change{{field, old.String(), new.String()}}
	}
	return k
}

// String is a profile in words.
func (s Seccomp) String() string {
	switch {
	case s.Profile == "":
		return seccompDefault
	case s.Digest == "":
		return s.Profile
	}
	return fmt.Sprintf("%s (sha256 %.12s)", plain(s.Profile), s.Digest)
}

// seccomp: the profile of a container is there and is one. It answers the
// profile's digest.
func (c *checker) seccomp(name, profile string) string {
	if profile == "" || profile == SeccompUnconfined {
		return ""
	}
	if digest, read := c.filters[profile]; read {
		return digest
	}
	n, at := c.node(name).child("seccomp"), c.at(name).key("seccomp")
	b, err := readBounded(profile)
	if c.w.room -= len(b); err == nil && c.w.room < 0 {
		err = fmt.Errorf("the files of the stack are larger than %s together", formatSize(maxExpansion))
	}
	var p *seccomp.Profile
	if err == nil {
		p, err = seccomp.Decode(b)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.w.error(n, at, "give the path of a profile, or unconfined", "%s does not exist", quote(n.text))
	case err != nil:
		c.w.error(n, at, "", "%s: %s", quote(n.text), reason(err))
	case len(p.Unknown()) > 0:
		c.w.warn(n, at, "the profile does nothing about them", "%s: no system call %s", quote(n.text), someOf(p.Unknown()))
	}
	sum := sha256.Sum256(b)
	c.filters[profile] = hex.EncodeToString(sum[:])
	return c.filters[profile]
}

// someOf lists the first of many names.
func someOf(names []string) string {
	const shown = 5
	var all []string
	for _, n := range names[:min(len(names), shown)] {
		all = append(all, quote(n))
	}
	if more := len(names) - shown; more > 0 {
		all = append(all, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(all, ", ")
}
