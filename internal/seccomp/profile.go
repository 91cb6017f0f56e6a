package seccomp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"strconv"
	"strings"
)

// MaxProfile bounds a profile, in bytes.
const MaxProfile = 512 << 10

// Other bounds of a profile.
const (
	maxRules = 2048
	maxNames = 8192 // of calls, in all rules together
	maxName  = 64   // bytes of one
	maxArgs  = 32   // of a rule
	maxWords = 128  // capabilities or architectures in one list
)

// Profile says which system calls a process may make. Rules are tried in their
// order; the first that fits a call decides, and where none does, the default.
type Profile struct {
	otherwise Action
	arches    []string // "386"
	flags     uint32
	rules     []rule
	unknown   []string
}

type rule struct {
	calls    []string
	action   Action
	args     []comparison
	includes condition
	excludes condition
}

// condition is about the container and its machine. Each list may be empty.
type condition struct {
	caps   []string // "CAP_SYS_ADMIN"
	arches []string // "amd64"
	kernel version  // the least; zero: any
	vsock  bool     // the container has virtual sockets; no profile's own, and of excludes only
}

// Unknown are the names of calls that no architecture has, as far as is known
// here: the profile says nothing about any call with them.
func (p *Profile) Unknown() []string { return p.unknown }

// The form of Docker, Podman and the OCI runtime-spec (config-linux.md, Seccomp).
// Comments and what says the same a second time are taken and not looked at.
type document struct {
	DefaultAction    string      `json:"defaultAction"`
	DefaultErrnoRet  *uint32     `json:"defaultErrnoRet"`
	DefaultErrno     string      `json:"defaultErrno"`
	Architectures    []string    `json:"architectures"`
	ArchMap          []archEntry `json:"archMap"`
	Flags            []string    `json:"flags"`
	ListenerPath     string      `json:"listenerPath"`
	ListenerMetadata string      `json:"listenerMetadata"`
	Syscalls         []entry     `json:"syscalls"`
	Comment          string      `json:"comment"`
}

type archEntry struct {
	Architecture     string   `json:"architecture"`
	SubArchitectures []string `json:"subArchitectures"`
}

type entry struct {
	Name     string     `json:"name"`
	Names    []string   `json:"names"`
	Action   string     `json:"action"`
	ErrnoRet *uint32    `json:"errnoRet"`
	Errno    string     `json:"errno"`
	Args     []argument `json:"args"`
	Comment  string     `json:"comment"`
	Includes limits     `json:"includes"`
	Excludes limits     `json:"excludes"`
}

type argument struct {
	Index    uint   `json:"index"`
	Value    uint64 `json:"value"`
	ValueTwo uint64 `json:"valueTwo"`
	Op       string `json:"op"`
}

type limits struct {
	Caps      []string `json:"caps"`
	Arches    []string `json:"arches"`
	MinKernel string   `json:"minKernel"`
}

// Decode reads a profile. Its errors say what is wrong with it, and where.
func Decode(b []byte) (*Profile, error) {
	if len(b) > MaxProfile {
		return nil, fmt.Errorf("it has %d bytes; a profile has at most %d", len(b), MaxProfile)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var doc document
	if err := d.Decode(&doc); err != nil {
		return nil, inWords(b, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: there is more behind the profile", lineOf(b, d.InputOffset()))
	}
	return doc.profile()
}

func (doc *document) profile() (*Profile, error) {
	p := &Profile{}
	var err error
	if p.otherwise, err = parseAction(doc.DefaultAction, doc.DefaultErrnoRet); err == nil {
		err = onlyByName(doc.DefaultErrno, doc.DefaultErrnoRet, "defaultErrnoRet")
	}
	if err != nil {
		return nil, fmt.Errorf("defaultAction: %w", err)
	}
	if doc.ListenerPath != "" {
		return nil, errors.New("listenerPath: a machine has no way to a program on the host")
	}
	if p.arches, err = doc.compat(); err != nil {
		return nil, err
	}
	if p.flags, err = parseFlags(doc.Flags); err != nil {
		return nil, err
	}
	if len(doc.Syscalls) > maxRules {
		return nil, fmt.Errorf("syscalls: %d rules; a profile has at most %d", len(doc.Syscalls), maxRules)
	}
	left := maxNames
	for i, e := range doc.Syscalls {
		r, err := e.rule()
		if err == nil {
			if left -= len(r.calls); left < 0 {
				err = fmt.Errorf("a profile has at most %d names", maxNames)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("syscalls[%d]: %w", i, err)
		}
		p.rules = append(p.rules, r)
		for _, name := range r.calls {
			if !Known(name) && !slices.Contains(p.unknown, name) {
				p.unknown = append(p.unknown, name)
			}
		}
	}
	return p, nil
}

// compat answers the architectures beside the machine's own that calls may come
// from.
func (doc *document) compat() ([]string, error) {
	named := slices.Clone(doc.Architectures)
	for _, m := range doc.ArchMap {
		if !knownArch(m.Architecture) {
			return nil, fmt.Errorf("archMap: %s is not an architecture", quoted(m.Architecture))
		}
		named = append(named, m.SubArchitectures...)
	}
	if len(named) > maxWords {
		return nil, fmt.Errorf("%d architectures; a profile has at most %d", len(named), maxWords)
	}
	var all []string
	for _, n := range named {
		if !knownArch(n) {
			return nil, fmt.Errorf("%s is not an architecture", quoted(n))
		}
		for _, a := range arches() {
			if a.scmp == n && a.compat == "" && !slices.Contains(all, a.name) {
				all = append(all, a.name)
			}
		}
	}
	return all, nil
}

// Flags of seccomp(2) that a profile may want.
const (
	FlagLog       = 1 << 1 // SECCOMP_FILTER_FLAG_LOG
	FlagSpecAllow = 1 << 2 // SECCOMP_FILTER_FLAG_SPEC_ALLOW
)

func parseFlags(names []string) (flags uint32, err error) {
	for _, n := range names {
		switch n {
		case "SECCOMP_FILTER_FLAG_TSYNC": // all threads have the filter anyway: there is one when it is loaded
		case "SECCOMP_FILTER_FLAG_LOG":
			flags |= FlagLog
		case "SECCOMP_FILTER_FLAG_SPEC_ALLOW":
			flags |= FlagSpecAllow
		default:
			return 0, fmt.Errorf("flags: %s is not done here", quoted(n))
		}
	}
	return flags, nil
}

func (e *entry) rule() (r rule, err error) {
	r.calls = e.Names
	if e.Name != "" { // the old form
		r.calls = append([]string{e.Name}, e.Names...)
	}
	if len(r.calls) == 0 {
		return r, errors.New("it names no system call")
	}
	for _, n := range r.calls {
		if n == "" || len(n) > maxName {
			return r, fmt.Errorf("%s is not a name of a system call", quoted(n))
		}
	}
	if r.action, err = parseAction(e.Action, e.ErrnoRet); err == nil {
		err = onlyByName(e.Errno, e.ErrnoRet, "errnoRet")
	}
	if err != nil {
		return r, err
	}
	if len(e.Args) > maxArgs {
		return r, fmt.Errorf("args: %d of them; a rule has at most %d", len(e.Args), maxArgs)
	}
	for i, a := range e.Args {
		c, err := a.comparison()
		if err != nil {
			return r, fmt.Errorf("args[%d]: %w", i, err)
		}
		r.args = append(r.args, c)
	}
	if r.includes, err = e.Includes.condition(); err != nil {
		return r, fmt.Errorf("includes: %w", err)
	}
	if r.excludes, err = e.Excludes.condition(); err != nil {
		return r, fmt.Errorf("excludes: %w", err)
	}
	return r, nil
}

// onlyByName refuses an errno that is a name alone: Podman writes the number
// beside it.
func onlyByName(name string, number *uint32, key string) error {
	if name == "" || number != nil {
		return nil
	}
	return fmt.Errorf("errno %s: write its number as %s", quoted(name), key)
}

// operator is how an argument is compared.
type operator string

// The operators, as profiles have them.
const (
	equal        operator = "SCMP_CMP_EQ"
	notEqual     operator = "SCMP_CMP_NE"
	less         operator = "SCMP_CMP_LT"
	lessEqual    operator = "SCMP_CMP_LE"
	greaterEqual operator = "SCMP_CMP_GE"
	greater      operator = "SCMP_CMP_GT"
	maskedEqual  operator = "SCMP_CMP_MASKED_EQ" // argument & value == two
)

// comparison is of one argument, with all of its 64 bits.
type comparison struct {
	index      int // 0 to 5
	op         operator
	value, two uint64
}

// arguments is how many a system call has at most.
const arguments = 6

func (a argument) comparison() (comparison, error) {
	c := comparison{int(min(a.Index, arguments)), operator(a.Op), a.Value, a.ValueTwo}
	switch {
	case a.Index >= arguments:
		return c, fmt.Errorf("index %d is above %d", a.Index, arguments-1)
	case !slices.Contains([]operator{equal, notEqual, less, lessEqual, greaterEqual, greater, maskedEqual}, c.op):
		return c, fmt.Errorf("%s is not an operator", quoted(a.Op))
	case c.op == maskedEqual && bits.OnesCount64(a.ValueTwo&^a.Value) > 0:
		return c, fmt.Errorf("valueTwo %#x has bits that the mask %#x lacks: it never fits", a.ValueTwo, a.Value)
	}
	return c, nil
}

func (l *limits) condition() (c condition, err error) {
	if max(len(l.Caps), len(l.Arches)) > maxWords {
		return c, fmt.Errorf("a list has at most %d words", maxWords)
	}
	c.arches = l.Arches
	for _, n := range l.Caps {
		n = strings.ToUpper(n)
		if !strings.HasPrefix(n, "CAP_") {
			return c, fmt.Errorf("%s is not a capability", quoted(n))
		}
		c.caps = append(c.caps, n)
	}
	if l.MinKernel != "" {
		if c.kernel, err = parseVersion(l.MinKernel); err != nil {
			return c, fmt.Errorf("minKernel: %w", err)
		}
	}
	return c, nil
}

// version of a kernel: the two numbers that profiles go by.
type version [2]int

// parseVersion reads "4.8", or what uname says: "6.1.0-13-cloud-amd64".
func parseVersion(s string) (v version, err error) {
	parts := strings.SplitN(s, ".", 3)
	if len(parts) < 2 {
		return v, fmt.Errorf("%s is not a version of a kernel", quoted(s))
	}
	for i := range v {
		digits := parts[i]
		if end := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 && i > 0 {
			digits = digits[:end] // 6.1-rc3
		}
		n, err := strconv.ParseUint(digits, 10, 16)
		if err != nil {
			return v, fmt.Errorf("%s is not a version of a kernel", quoted(s))
		}
		v[i] = int(n)
	}
	return v, nil
}

func (v version) before(o version) bool { return slices.Compare(v[:], o[:]) < 0 }

// inWords says what the decoder found.
func inWords(b []byte, err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("%s: %w", lineOf(b, syntax.Offset), err)
	case errors.As(err, &kind):
		return fmt.Errorf("%s: %s is %s", lineOf(b, kind.Offset), kind.Field, cut(kind.Value))
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("it ends before the profile does")
	}
	return errors.New(cut(strings.TrimPrefix(err.Error(), "json: ")))
}

func lineOf(b []byte, offset int64) string {
	return fmt.Sprintf("line %d", 1+bytes.Count(b[:min(max(offset, 0), int64(len(b)))], []byte("\n")))
}
